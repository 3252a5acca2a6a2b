"""The committed gold set: large enough, split by source, hand-checked entries borne out by the packages, no texts in it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from saidata.errors import Misuse, NotHere
from saidata.evaluate import gold
from saidata.evaluate.truth import canonical
from saidata.facts import Evidence, Fact

GOLD = gold.load()
HAND = Path(__file__).parents[4] / "bench/gold/hand.json"


def test_it_is_as_large_as_promised_in_every_stratum() -> None:
    assert len(GOLD) >= 300
    assert sum(one.hand is not None for one in GOLD) >= 60
    strata = Counter((one.popularity, one.kind) for one in GOLD if one.hand is None)
    assert len(strata) == 9 and min(strata.values()) >= 30
    assert len({one.name for one in GOLD}) == len(GOLD)


def test_a_source_lies_in_one_half_only() -> None:
    halves = defaultdict(set)
    for one in GOLD:
        halves[one.source].add(one.split)
        assert one.split == gold.split_of(one.source)
    assert all(len(seen) == 1 for seen in halves.values())


def test_what_is_asked_for_is_among_what_is_true() -> None:
    for one in GOLD:
        assert set(one.units) <= set(one.all_units), one.name
        assert set(one.configs) <= set(one.all_configs), one.name
        assert set(one.commands) <= set(one.all_commands), one.name
        assert set(one.packages) <= set(one.all_packages), one.name
        assert one.debs, one.name


def test_licences_are_spdx_in_their_canonical_form() -> None:
    for one in GOLD:
        assert not one.licence or canonical(one.licence) == one.licence, one.name
        for licence in one.hand.licences if one.hand else ():
            assert canonical(licence), (one.name, licence)


def test_every_hand_checked_value_is_in_the_packages_that_were_read() -> None:
    for one in GOLD:
        if one.hand is None:
            continue
        commands = {path.rsplit("/", 1)[-1] for path in one.all_commands}
        assert set(one.hand.units) <= set(one.all_units), one.name
        assert set(one.hand.configs) <= set(one.all_configs), one.name
        assert set(one.hand.commands) <= commands, one.name
        assert set(one.hand.packages) & set(one.all_packages), one.name
        if one.licence and one.hand.licences:
            assert one.licence in {canonical(licence) for licence in one.hand.licences}, one.name


def test_the_set_holds_what_hand_json_says() -> None:
    written = json.loads(HAND.read_text())
    assert {one.name for one in GOLD if one.hand} == set(written)
    for one in GOLD:
        if one.hand is not None:
            said = msgspec.convert({key: value for key, value in written[one.name].items() if key != "read"}, gold.Hand)
            assert said == one.hand, one.name


def test_no_text_of_a_package_is_kept() -> None:
    for one in GOLD:
        values = [
            one.name,
            one.source,
            one.version,
            one.homepage,
            *one.all_packages,
            *one.all_units,
            *one.all_configs,
            *one.all_commands,
        ]
        assert all("\n" not in value and " " not in value and len(value) < 160 for value in values), one.name


def test_a_draw_is_spread_and_repeats() -> None:
    drawn = gold.tasks(GOLD, 60, 3)
    assert drawn == gold.tasks(list(reversed(GOLD)), 60, 3) and drawn != gold.tasks(GOLD, 60, 4)
    modes = Counter(task.mode for task in drawn)
    assert modes == {"full": 60, "withheld": 12, "unknown": 4}
    strata = Counter(
        "hand" if task.gold.hand else (task.gold.popularity, task.gold.kind) for task in drawn if task.mode == "full"
    )
    assert len(strata) == 10 and max(strata.values()) - min(strata.values()) == 0
    assert len({task.key for task in drawn}) == len(drawn)


def test_the_whole_set_means_the_whole_set() -> None:
    modes = Counter(task.mode for task in gold.tasks(GOLD, 0, 0))
    assert modes == {"full": len(GOLD), "withheld": 60, "unknown": 20}


def test_withheld_evidence_is_gone_and_the_rest_stays() -> None:
    facts = tuple(
        Fact(kind=kind, value=f"v {kind}", provider="apt", source="s", date="", package="p")
        for kind in (
            "package",
            "summary",
            "unit",
            "config",
            "conffile",
            "command",
            "manpage",
            "licence",
            "port",
            "homepage",
            "url",
        )
    )
    found = Evidence(name="p", snapshot="s", facts=facts)
    one = GOLD[0]
    assert gold.Task(one, "full").evidence(found) == found
    assert {fact.kind for fact in gold.Task(one, "withheld").evidence(found).facts} == {"package", "summary"}


def test_withheld_tasks_have_something_to_withhold() -> None:
    assert all(task.gold.units and task.gold.licences for task in gold.tasks(GOLD, 0, 0) if task.mode == "withheld")


def test_a_gold_set_that_is_missing_or_broken_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="no gold set"):
        gold.load(tmp_path / "none")
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(msgspec.json.encode(GOLD[0]) + b"\n{}\n")
    with pytest.raises(Misuse, match="line 2"):
        gold.load(broken)
