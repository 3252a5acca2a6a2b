"""The gold set: what is true of several hundred packages, and which of it a run is asked for. Open `load`, then `tasks`.

`gold.jsonl` holds names, paths, SPDX expressions and hashes that bench/saidata_gold.py read out of unpacked packages; never a
package's text. Everything about one source package falls into one split, so that what is calibrated on the one half is
measured on the other.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from saidata.errors import Misuse, NotHere
from saidata.facts import Evidence, FactKind

Mode = Literal["full", "withheld", "unknown"]
Split = Literal["fit", "test"]

WITHHELD: tuple[FactKind, ...] = ("licence", "unit", "config", "conffile", "command", "manpage", "port", "homepage", "url")
"""What is taken out of the evidence of a withheld task. Nothing of it may then be written."""

INVENTED = (
    *(
        "quarrelfish",
        "zephyrdb",
        "lanternmq",
        "mossgate",
        "brindlecache",
        "tidewarden",
        "oakspool",
        "ferrolog",
        "plinthd",
        "wrenproxy",
    ),
    *(
        "cobaltftpd",
        "hollowvpn",
        "sableindex",
        "marlinmail",
        "nettlecron",
        "driftqueue",
        "gorsewatch",
        "pumicefs",
        "larkspurd",
        "umbersync",
    ),
)
"""Names that no archive has. The only right file about them says nothing."""


class Hand(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of the packages says that a good file must hold. bench/gold/README.md says how it was read."""

    packages: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()  # names, not paths
    ports: tuple[str, ...] = ()  # the defaults: "80/tcp"
    more_ports: tuple[str, ...] = ()  # that its set-up files name too: right where written, not missed where left out
    licences: tuple[str, ...] = ()  # each would be right; none: SPDX has no name for it
    categories: tuple[str, ...] = ()


class Gold(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about one name. Without a suffix: what its main package brings; `all_`: what any package of its source has."""

    name: str
    source: str
    version: str
    popularity: str
    kind: str
    split: Split
    packages: tuple[str, ...]
    all_packages: tuple[str, ...]
    units: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    all_units: tuple[str, ...] = ()
    all_configs: tuple[str, ...] = ()
    all_commands: tuple[str, ...] = ()
    licence: str = ""  # empty: the copyright file does not say it in a readable way
    homepage: str = ""  # hash of the address that the package gives, by `address_hash`
    debs: dict[str, str] = {}  # file name: sha256, of what was read
    hand: Hand | None = None

    @property
    def licences(self) -> tuple[str, ...]:
        """The expressions that are right; empty where none is known."""
        return self.hand.licences if self.hand else (self.licence,) if self.licence else ()


class Task(msgspec.Struct, frozen=True):
    """One file to be generated and judged."""

    gold: Gold
    mode: Mode

    @property
    def key(self) -> str:
        """Names the task in a run's record."""
        return f"{self.gold.name} {self.mode}"

    def evidence(self, found: Evidence) -> Evidence:
        """What generation may see of the evidence that was found."""
        if self.mode == "withheld":
            return msgspec.structs.replace(found, facts=tuple(fact for fact in found.facts if fact.kind not in WITHHELD))
        return found


def address_hash(address: str) -> str:
    """Names a web address, whether or not it ends in a slash; empty for none. The set keeps no addresses."""
    return hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16] if address else ""


def split_of(source: str) -> Split:
    """A third of the sources is for fitting."""
    return "fit" if int(hashlib.sha256(f"split {source}".encode()).hexdigest(), 16) % 3 == 0 else "test"


def load(path: Path | None = None) -> list[Gold]:
    """The committed set, or one that `path` holds. Raises NotHere, and Misuse for a line that is no gold record."""
    if path is not None and not path.is_file():
        raise NotHere(f"there is no gold set at {path}", "leave the option out to use the one that comes with saidata")
    text = path.read_text() if path else resources.files("saidata.evaluate").joinpath("gold.jsonl").read_text()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=Gold))
        except msgspec.DecodeError as error:
            raise Misuse(f"line {number} of the gold set cannot be read: {error}", "each line is one JSON record") from None
    return found


def _shuffled(gold: Sequence[Gold], seed: int, salt: str) -> list[Gold]:
    return sorted(gold, key=lambda one: hashlib.sha256(f"{seed} {salt} {one.name}".encode()).hexdigest())


def spread(gold: Sequence[Gold], number: int, seed: int) -> list[Gold]:
    """`number` of them, every stratum (popularity times kind, and the hand-checked) as evenly as it can give."""
    strata: dict[tuple[str, str], list[Gold]] = defaultdict(list)
    for one in _shuffled(gold, seed, "spread"):
        strata["hand" if one.hand else one.popularity, "" if one.hand else one.kind].append(one)
    taken: list[Gold] = []
    while len(taken) < number and any(strata.values()):
        for key in sorted(strata):
            if strata[key] and len(taken) < number:
                taken.append(strata[key].pop(0))
    return taken


def invented(number: int) -> list[Gold]:
    """Names without any truth."""
    return [
        Gold(
            name=name, source=name, version="", popularity="none", kind="none", split=split_of(name), packages=(), all_packages=()
        )
        for name in INVENTED[:number]
    ]


def tasks(gold: Sequence[Gold], number: int, seed: int) -> list[Task]:
    """What a run of `number` files does: as many full ones, a fifth as many with evidence withheld, a fifteenth invented names.

    `number` 0 means the whole set. Withheld tasks are drawn from packages that have a unit and a known licence, where there is
    something to withhold.
    """
    full = list(gold) if number == 0 else spread(gold, number, seed)
    telling = [one for one in gold if one.units and one.licences]
    withheld = _shuffled(telling, seed, "withheld")[: min(60, max(1, len(full) // 5))]
    return [
        *(Task(one, "full") for one in full),
        *(Task(one, "withheld") for one in withheld),
        *(Task(one, "unknown") for one in invented(max(1, len(full) // 15))),
    ]
