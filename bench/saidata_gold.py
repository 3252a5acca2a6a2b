"""Make the gold set of saidata's evaluation from the archive: `python bench/saidata_gold.py --cache FOLDER`.

Fetches the lists and the packages through apt into FOLDER (about half a gigabyte, kept between runs), reads every package with
saidata.evaluate.truth, and writes src/saidata/evaluate/gold.jsonl. Packages that are not drawn are not fetched. With --seed another
set is drawn, without the hand-checked part and without anything of the committed set, for `saidata eval --gold`: nobody has looked
at what generation does with those. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from saidata.evaluate import frame, truth
from saidata.evaluate.gold import Gold, Hand, address_hash, load, split_of

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "src/saidata/evaluate/gold.jsonl"
HAND = Path(__file__).parent / "gold/hand.json"
EACH = 40  # packages of every stratum
SEED = 7  # of the committed set


class HandEntry(Hand, frozen=True, kw_only=True):
    """What hand.json holds of one name: the hand-checked values, and the packages they were read from."""

    read: tuple[str, ...]


def fetch(names: Iterable[str], lists: Path, folder: Path) -> None:
    """Download what is not there yet, through apt, a hundred at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name.split("_")[0] for path in folder.glob("*.deb")}
    missing = sorted(set(names) - there)
    for start in range(0, len(missing), 100):
        command = ["apt-get", f"-oDir::State::lists={lists}", "-oAPT::Sandbox::User=root", "-q", "download"]
        subprocess.run([*command, *missing[start : start + 100]], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def read_all(names: Iterable[str], folder: Path) -> dict[str, truth.Held]:
    """What the packages hold; remembered beside them, by file name."""
    memory = folder / "read.json"
    known: dict[str, truth.Held] = msgspec.json.decode(memory.read_bytes(), type=dict[str, truth.Held]) if memory.exists() else {}
    wanted = set(names)
    paths = [path for path in sorted(folder.glob("*.deb")) if path.name.split("_")[0] in wanted]
    for path in paths:
        if path.name not in known:
            known[path.name] = truth.read(path)
    memory.write_bytes(msgspec.json.encode(known))
    return {known[path.name].package: known[path.name] for path in paths}


def gold(software: frame.Software, hand: Hand | None, held: Mapping[str, truth.Held], siblings: Iterable[str]) -> Gold:
    """The record of one name."""
    values = held.values()
    inside, all_ = software.scope, software.binaries
    made = truth.together(values, all_, "made")
    units = truth.together(values, inside, "units")
    every = {
        part: truth.together(values, all_, part) for part in ("units", "aliases", "templates", "configs", "conffiles", "commands")
    }
    configs = truth.telling(truth.together(values, inside, "configs"), truth.together(values, inside, "conffiles"))
    order = (software.name, *inside, *all_)
    return Gold(
        name=software.name,
        source=software.source,
        version=next((held[name].version for name in order if name in held), ""),
        popularity=software.popularity,
        kind=software.kind,
        split=split_of(software.source),
        packages=inside,
        all_packages=tuple(sorted({*all_, *siblings})),
        units=tuple(unit for unit in units if unit.endswith(".service")),
        configs=configs,
        commands=truth.together(values, inside, "commands"),
        all_units=tuple(sorted({*every["units"], *every["aliases"], *every["templates"]})),
        all_configs=tuple(sorted({*every["configs"], *every["conffiles"], *(path for path in made if path.startswith("/etc/"))})),
        all_commands=tuple(sorted({*every["commands"], *(path for path in made if not path.startswith("/etc/"))})),
        licence=truth.licence_of(held, order),
        homepage=address_hash(next((held[name].homepage for name in order if name in held and held[name].homepage), "")),
        debs={f"{name}_{held[name].version}": held[name].sha256 for name in all_ if name in held},
        hand=hand,
    )


def by_hand(entries: Mapping[str, HandEntry], all_: Mapping[str, frame.Binary]) -> list[tuple[frame.Software, Hand]]:
    """The hand-checked names, with the packages that were read for them and what belongs to those."""
    of_source: dict[str, list[frame.Binary]] = defaultdict(list)
    for binary in all_.values():
        of_source[binary.source].append(binary)
    found = []
    for name, entry in entries.items():
        inside = tuple(dict.fromkeys(other for main in entry.read for other in frame.scope(main, all_)))
        near = [all_[other] for main in entry.read for other in frame.relatives(main, all_)]
        siblings = [b for source in {all_[other].source for other in inside} for b in of_source[source]]
        kin = dict.fromkeys(frame.worth_unpacking([*siblings, *near], inside))
        kind = "service" if entry.units else "tool"
        software = frame.Software(name, all_[entry.read[0]].source, "head", kind, 0, inside, tuple(sorted(kin)))
        hand = msgspec.convert({field: getattr(entry, field) for field in Hand.__struct_fields__}, Hand)
        found.append((software, hand))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="a folder outside the repository")
    parser.add_argument("--seed", type=int, default=SEED, help="another one draws a fresh set")
    parser.add_argument("--each", type=int, default=EACH, help="packages of every stratum")
    parser.add_argument("--to", type=Path, default=TARGET)
    options = parser.parse_args()
    fresh = options.seed != SEED
    if fresh and options.to == TARGET:
        parser.error("a fresh set needs --to: the committed one stays")
    logging.getLogger("debian.copyright").setLevel(logging.ERROR)
    lists, debs = options.cache / "lists", options.cache / "debs"
    if not list(lists.glob("*Contents*")):
        frame.fetch_lists(lists)
    all_ = frame.binaries(lists)
    entries = msgspec.json.decode(HAND.read_bytes(), type=dict[str, HandEntry])
    hand = by_hand(entries, all_)
    theirs = {software.source for software, _ in hand} | ({one.source for one in load()} if fresh else set())
    drawn = frame.draw([one for one in frame.frame(all_) if one.source not in theirs], options.each, options.seed)
    together = [*((software, None) for software in drawn), *([] if fresh else hand)]
    names = {name for software, _ in together for name in software.binaries}
    fetch(names, lists, debs)
    held = read_all(names, debs)
    of_source: dict[str, list[str]] = defaultdict(list)
    for binary in all_.values():
        of_source[binary.source].append(binary.name)
    records = sorted(
        (
            gold(software, checked, held, {name for one in software.scope for name in of_source[all_[one].source]})
            for software, checked in together
        ),
        key=lambda one: one.name,
    )
    options.to.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    strata = Counter(f"{one.popularity} {one.kind}" if one.hand is None else "hand" for one in records)
    told = {
        "records": len(records),
        "packages_read": len(held),
        "strata": strata,
        "splits": Counter(one.split for one in records),
    }
    told |= {"with_licence": sum(bool(one.licences) for one in records), "bytes": options.to.stat().st_size}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
