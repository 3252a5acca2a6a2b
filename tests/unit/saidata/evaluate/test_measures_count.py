"""The measures: each must move when, and only when, the file gets better or worse at what its name says."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from saidata.evaluate.claims import claims, contradictions, same_licence
from saidata.evaluate.gold import Gold, Hand, address_hash
from saidata.evaluate.measures import MEASURES, file_recall, right_value, score, summary

QUILL = Gold(
    name="quill",
    source="quill",
    version="1",
    popularity="head",
    kind="service",
    split="test",
    packages=("quill", "quill-common"),
    all_packages=("quill", "quill-common", "quill-extra"),
    units=("quilld.service",),
    configs=("/etc/quill/quill.conf", "/etc/quill/more.conf"),
    commands=("/usr/bin/quill", "/usr/sbin/quilld"),
    all_units=("quilld.service", "quill.service"),
    all_configs=("/etc/quill/quill.conf", "/etc/quill/more.conf", "/etc/init.d/quill"),
    all_commands=("/usr/bin/quill", "/usr/sbin/quilld", "/usr/bin/quill-extra"),
    licence="Artistic-1.0-Perl OR GPL-1.0-or-later",
    homepage=address_hash("https://quill.example.org"),
)
GOOD: dict[str, Any] = {
    "version": "0.3",
    "metadata": {
        "name": "quill",
        "display_name": "Quill",
        "description": "It prints.",
        "category": "hardware",
        "tags": ["print"],
        "license": "GPL-1.0-or-later OR Artistic-1.0-Perl",
        "urls": {"website": "https://quill.example.org"},
    },
    "packages": [{"name": "quill", "package_name": "quill"}],
    "services": [{"name": "quilld", "service_name": "quilld", "type": "systemd", "config_files": ["/etc/quill/quill.conf"]}],
    "files": [
        {"name": "config", "path": "/etc/quill/quill.conf", "type": "config"},
        {"name": "more", "path": "/etc/quill/more.conf"},
    ],
    "commands": [{"name": "quill", "path": "/bin/quill"}, {"name": "quilld"}],
}


def _exists(name: str) -> bool:
    return name in ("quill", "quill-common", "quill-extra", "bash")


def _score(**changes: Any) -> Any:
    data = copy.deepcopy(GOOD) | changes
    return score(QUILL, "full", data, valid=True, exists=_exists)


def _values(one: Any) -> dict[str, float]:
    return {name: interval.value for name, interval in summary([one]).items()}


def test_a_right_file_is_right_in_everything() -> None:
    values = _values(_score())
    lower = {"hallucinated_names", "licence_wrong"}
    assert values == {name: 0.0 if name in lower else 1.0 for name in values}
    assert {"precision", "recall", "licence_recall", "completeness", "consistency", "package_precision"} <= set(values)


@pytest.mark.parametrize(
    ("changes", "measure", "expected"),
    [
        ({"services": [{"name": "x", "service_name": "nonsense"}]}, "unit_precision", 0.0),
        ({"services": [{"name": "x", "service_name": "quill"}]}, "unit_precision", 1.0),
        ({"services": [{"name": "x", "service_name": "quill"}]}, "unit_recall", 0.0),
        ({"services": []}, "unit_recall", 0.0),
        ({"services": [{"name": "d", "service_name": "quilld", "type": "docker"}]}, "unit_recall", 0.0),
        ({"files": [{"name": "a", "path": "/etc/quill/quill.conf"}, {"name": "b", "path": "/etc/no"}]}, "config_precision", 0.5),
        ({"files": [{"name": "a", "path": "/etc/quill/quill.conf"}]}, "config_recall", 0.5),
        ({"commands": [{"name": "quill"}, {"name": "invented"}]}, "command_precision", 0.5),
        ({"commands": [{"name": "quill-extra", "path": "/usr/bin/quill-extra"}]}, "command_precision", 1.0),
        ({"commands": [{"name": "quill", "path": "/opt/quill"}]}, "command_precision", 0.0),
        (
            {"packages": [{"name": "a", "package_name": "quill"}, {"name": "b", "package_name": "quillio"}]},
            "hallucinated_names",
            0.5,
        ),
        ({"packages": [{"name": "a", "package_name": "bash"}]}, "hallucinated_names", 0.0),
        ({"packages": [{"name": "a", "package_name": "bash"}]}, "package_precision", 0.0),
        ({"packages": [{"name": "a", "package_name": "quill-extra"}]}, "main_package", 0.0),
        ({"providers": {"apt": {"packages": [{"name": "a", "package_name": "bash"}]}}}, "package_precision", 0.5),
        ({"providers": {"apt": {"packages": [{"name": "a", "package_name": "bash"}]}}}, "consistency", 0.0),
        ({"files": [{"name": "a", "path": "/etc/quill/more.conf"}]}, "consistency", 0.0),
        ({"commands": [{"name": "quill"}, {"name": "quill"}]}, "consistency", 0.0),
        ({"metadata": {"name": "quill", "license": "MIT"}}, "licence_wrong", 1.0),
        ({"metadata": {"name": "quill", "license": "MIT"}}, "licence_accuracy", 0.0),
        ({"metadata": {"name": "quill", "license": "LicenseRef-Quill"}}, "licence_wrong", 0.0),
        ({"metadata": {"name": "quill", "license": "LicenseRef-Quill"}}, "licence_recall", 0.0),
        ({"metadata": {"name": "quill"}}, "licence_recall", 0.0),
        ({"metadata": {"name": "quill"}}, "completeness", 0.4),
    ],
)
def test_each_fault_is_seen_by_its_measure(changes: dict[str, Any], measure: str, expected: float) -> None:
    assert _values(_score(**changes))[measure] == pytest.approx(expected)


def test_no_licence_is_no_wrong_licence() -> None:
    values = _values(_score(metadata={"name": "quill"}))
    assert "licence_accuracy" not in values and values["licence_wrong"] == 0


def test_withheld_fields_count_one_by_one() -> None:
    one = score(QUILL, "withheld", GOOD | {"services": [], "ports": [{"port": 80}]}, valid=True, exists=_exists)
    assert (one.empty, one.kept_empty) == (6, 1)
    assert {text.split(":")[0] for text in one.wrong} == {"configs", "commands", "ports", "licence", "website"}
    assert "recall" not in _values(one)


def test_an_invented_name_must_not_have_packages_either() -> None:
    unknown = Gold(name="zz", source="zz", version="", popularity="none", kind="none", split="fit", packages=(), all_packages=())
    one = score(unknown, "unknown", {"packages": [{"name": "zz", "package_name": "zz"}]}, valid=True, exists=_exists)
    assert (one.empty, one.kept_empty, one.packages_invented) == (7, 6, 1)


@pytest.mark.parametrize("mode", ["full", "withheld", "unknown"])
def test_a_file_that_cannot_be_read_earns_nothing(mode: Any) -> None:
    values = _values(score(QUILL, mode, None, valid=False, exists=_exists))
    assert values["readable"] == 0 and values["schema_valid"] == 0
    assert values.get("abstention", 0) == 0 and values.get("recall", 0) == 0 and values.get("completeness", 0) == 0


def test_a_file_that_cannot_be_read_is_missed_as_much_as_one_that_says_nothing() -> None:
    hand = Hand(units=("quilld.service",), commands=("quill",), ports=("6310/tcp",))
    gold = msgspec.structs.replace(QUILL, hand=hand, licence="")
    unread, silent = (score(gold, "full", data, valid=False, exists=_exists) for data in (None, {}))
    for field in ("hand_true", "ports_true", "wanted"):
        assert getattr(unread, field) == getattr(silent, field) > 0, field
    assert {kind: count.true for kind, count in unread.counts.items()} == {
        kind: count.true for kind, count in silent.counts.items()
    }
    withheld = score(gold, "withheld", None, valid=False, exists=_exists)
    assert (withheld.hand_true, withheld.ports_true, withheld.wanted, withheld.empty) == (0, 0, 0, 6)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        "text",
        7,
        {"packages": "quill"},
        {"packages": [1, None, {"package_name": 5}]},
        {"metadata": [], "services": {"a": 1}, "ports": [{"port": "x"}]},
    ],
)
def test_malformed_documents_are_judged_and_not_fallen_over(data: Any) -> None:
    one = score(QUILL, "full", data, valid=False, exists=_exists)
    assert one.parsed and one.counts["units"].written == 0
    assert contradictions(data) == []


def test_the_hand_checked_truth_counts_names_and_ports() -> None:
    hand = Hand(
        packages=("quill",), units=("quilld.service",), commands=("quill", "gone"), ports=("6310/tcp",), more_ports=("6311/tcp",)
    )
    one = score(
        msgspec.structs.replace(QUILL, hand=hand),
        "full",
        GOOD | {"ports": [{"port": 6311}, {"port": 1}]},
        valid=True,
        exists=_exists,
    )
    assert (one.hand_true, one.hand_found) == (3, 2)
    assert (one.ports_written, one.ports_right, one.ports_true, one.ports_found) == (2, 1, 1, 0)


def test_the_models_choices_are_judged_where_a_reader_chose_too() -> None:
    gold = msgspec.structs.replace(QUILL, hand=Hand(configs=("/etc/quill/quill.conf",), categories=("hardware",)))
    values = {name: i.value for name, i in summary([score(gold, "full", GOOD, valid=True, exists=_exists)]).items()}
    assert values["category"] == values["service_config"] == 1
    services = [{"name": "q", "service_name": "quilld", "config_files": ["/etc/quill/more.conf"]}]
    other = GOOD | {"metadata": {"name": "quill", "category": "games"}, "services": services}
    values = {name: i.value for name, i in summary([score(gold, "full", other, valid=True, exists=_exists)]).items()}
    assert values["category"] == values["service_config"] == 0
    assert "category" not in _values(_score())
    assert right_value(gold, "ports", "80") is False
    assert right_value(msgspec.structs.replace(gold, hand=Hand(ports=("53/udp",))), "ports", "53") is True


def test_recall_by_file_does_not_let_one_large_package_decide() -> None:
    large = msgspec.structs.replace(QUILL, commands=tuple(f"/usr/bin/c{n}" for n in range(96)), all_commands=())
    bad = score(large, "full", {}, valid=True, exists=_exists)
    value = file_recall([_score(), bad])
    assert value is not None and value.value == pytest.approx(0.5)
    assert summary([_score(), bad])["recall"].value < 0.1


def test_values_for_calibration_are_judged_like_files() -> None:
    assert right_value(QUILL, "units", "quilld.service") is True
    assert right_value(QUILL, "units", "quilld") is True
    assert right_value(QUILL, "units", "x.service") is False
    assert right_value(QUILL, "commands", "/bin/quill") is True
    assert right_value(QUILL, "commands", "/opt/quill") is False
    assert right_value(QUILL, "licence", "GPL-1.0-or-later OR Artistic-1.0-Perl") is True
    assert right_value(QUILL, "category", "web") is None and right_value(QUILL, "description", "x") is None


def test_expressions_compare_by_meaning() -> None:
    assert same_licence("MIT OR Apache-2.0", "Apache-2.0 OR MIT")
    assert not same_licence("GPL-2.0-only", "GPL-2.0-or-later")
    assert not same_licence("whatever it is", "MIT")


def test_claims_come_from_both_the_lists_and_apt() -> None:
    said = claims(
        {"providers": {"apt": {"services": [{"name": "q", "service_name": "q.socket"}]}, "brew": {"services": [{"name": "no"}]}}}
    )
    assert list(said.units) == ["q.socket"] and said.units["q.socket"][:2] == ("providers", "apt")


def test_every_measure_is_explained() -> None:
    assert all(title and title == title.strip() for title, _ in MEASURES.values())
