"""Which packages the gold set is drawn from: every program of the archive, by popularity and by what it ships.

Reads the lists that an apt client fetched into a folder of its own, with python-debian and this file's own scan of Contents;
knows nothing of saidata's index. Open `frame` first, then `draw`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from debian.deb822 import Packages

from saidata.errors import SaidataError

POPULARITY = ("head", "middle", "tail")
KINDS = ("service", "config", "tool")

# Sections whose packages are no programs that somebody would write a saidata file for.
NOT_PROGRAMS = {"libs", "libdevel", "oldlibs", "doc", "debug", "localization", "fonts", "metapackages", "kernel", "introspection"}
UNIT = re.compile(r"(?:usr/)?lib/systemd/system/[^/]+\.service$")
CONFIG = re.compile(r"etc/")
COMMAND = re.compile(r"(?:usr/)?s?bin/[^/]+$|usr/games/[^/]+$")

# The targets that make apt fetch Contents, for this architecture and for "all".
CONTENTS = tuple(
    f"Contents-{which}::{key}"
    for which, place in (("own", "$(ARCHITECTURE)"), ("all", "all"))
    for key in (
        f"MetaKey=$(COMPONENT)/Contents-{place}",
        f"ShortDescription=Contents-{place}",
        f"Description=$(RELEASE)/$(COMPONENT) Contents ({place})",
        "PDiffs=no",
        "KeepCompressed=yes",
    )
)

MOST_BYTES = 8_000_000  # of one source's binary packages together: the set is read from downloads
MOST_BINARIES = 12


class Binary(msgspec.Struct, frozen=True):
    """What the archive's list says of one binary package."""

    name: str
    source: str
    version: str
    section: str
    size: int
    needs: tuple[str, ...]  # the names in Pre-Depends and Depends, alternatives included
    wants: tuple[str, ...]  # and in Recommends and Suggests
    homepage: str
    units: int
    configs: int
    commands: int


class Software(msgspec.Struct, frozen=True):
    """One source package under the name of its main binary package, and the stratum it falls into."""

    name: str
    source: str
    popularity: str  # of POPULARITY
    kind: str  # of KINDS: the most telling thing it ships
    needed_by: int  # packages of other sources that name one of its programs
    scope: tuple[str, ...]  # the main package and what it needs of the same source
    binaries: tuple[str, ...]  # all of the source that are worth unpacking


def fetch_lists(folder: Path) -> None:
    """Let apt fetch Packages and Contents into `folder`, with the sources this machine is set up for."""
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::lists={folder}", *(f"-oAcquire::IndexTargets::deb::{name}" for name in CONTENTS)]
    done = subprocess.run(["apt-get", *options, "-q", "update"], capture_output=True, text=True)
    if done.returncode:
        raise SaidataError(f"apt could not fetch the lists: {done.stderr.strip()[-300:]}", "check the network and apt's sources")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a list, in whatever way apt packed it."""
    reader = subprocess.Popen(["/usr/lib/apt/apt-helper", "cat-file", str(path)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    for line in reader.stdout:
        yield line.decode(errors="replace")
    if reader.wait():
        raise SaidataError(f"apt could not read its list {path.name}", "fetch the lists again")


def _shipped(lists: Path) -> dict[str, list[int]]:
    """Binary package: how many units, files below /etc and commands Contents gives it."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    patterns = (UNIT, CONFIG, COMMAND)
    for path in sorted(lists.glob("*_main_Contents-*")):
        for line in _lines(path):
            if not line.startswith(("bin/", "sbin/", "usr/bin/", "usr/sbin/", "usr/games/", "etc/", "lib/sys", "usr/lib/sys")):
                continue
            file, _, owners = line.rstrip().rpartition(" ")
            for place, pattern in enumerate(patterns):
                if pattern.match(file.rstrip()):
                    for owner in owners.split(","):
                        counts[owner.rpartition("/")[2]][place] += 1
    return counts


def _names(relation: object) -> tuple[str, ...]:
    text = str(relation or "")
    return tuple(
        dict.fromkeys(re.split(r"[\s(:\[]", part.strip(), maxsplit=1)[0] for part in re.split(r"[,|]", text) if part.strip())
    )


def binaries(lists: Path) -> dict[str, Binary]:
    """Every binary package of the archive's main part, by name."""
    shipped = _shipped(lists)
    found: dict[str, Binary] = {}
    for path in sorted(lists.glob("*_bookworm_main_binary-*_Packages*")):
        for stanza in Packages.iter_paragraphs(_lines(path), use_apt_pkg=False):
            name = stanza["Package"]
            units, configs, commands = shipped.get(name, (0, 0, 0))
            found[name] = Binary(
                name=name,
                source=re.split(r"[\s(]", stanza.get("Source", name), maxsplit=1)[0],
                version=stanza["Version"],
                section=stanza.get("Section", ""),
                size=int(stanza.get("Size", 0)),
                needs=_names(", ".join(filter(None, (stanza.get("Pre-Depends"), stanza.get("Depends"))))),
                wants=_names(", ".join(filter(None, (stanza.get("Recommends"), stanza.get("Suggests"))))),
                homepage=stanza.get("Homepage", ""),
                units=units,
                configs=configs,
                commands=commands,
            )
    return found


def scope(name: str, all_: Mapping[str, Binary]) -> tuple[str, ...]:
    """The package and, transitively, the packages of the same source that it needs: what installing the name brings of it."""
    source, seen, left = all_[name].source, [name], [name]
    while left:
        for other in all_[left.pop()].needs:
            if other in all_ and all_[other].source == source and other not in seen:
                seen.append(other)
                left.append(other)
    return tuple(seen)


def relatives(name: str, all_: Mapping[str, Binary]) -> tuple[str, ...]:
    """Packages of other sources that `name` needs, two steps deep, and that are called after it: postgresql-15 of postgresql."""
    alike = re.compile(re.escape(name) + r"\b")
    near = [other for other in all_[name].needs if other in all_]
    near += [other for one in near for other in all_[one].needs if other in all_]
    return tuple(dict.fromkeys(other for other in near if alike.match(other) and all_[other].source != all_[name].source))


def worth_unpacking(packages: Iterable[Binary], always: Iterable[str] = ()) -> tuple[str, ...]:
    """Those that hold a unit, a configuration file or a command, and those named in `always`."""
    kept = set(always)
    return tuple(b.name for b in packages if b.units or b.configs or b.commands or b.name in kept)


def frame(all_: Mapping[str, Binary]) -> list[Software]:
    """Every source whose main binary package carries its name and brings a program, with its stratum.

    Popularity is the rank by the number of packages of other sources that need or recommend one of its programs (libraries do
    not count): the first tenth is the head, the next four tenths the middle. Ties fall by a hash of the name.
    """
    of_source: dict[str, list[Binary]] = defaultdict(list)
    for binary in all_.values():
        of_source[binary.source].append(binary)
    users: dict[str, set[str]] = defaultdict(set)
    for binary in all_.values():
        for other in (*binary.needs, *binary.wants):
            if other in all_ and all_[other].source != binary.source:
                users[other].add(binary.name)
    drawn_from: list[tuple[int, Software]] = []
    for source, packages in of_source.items():
        if source not in all_ or all_[source].source != source or all_[source].section.rpartition("/")[2] in NOT_PROGRAMS:
            continue
        inside = scope(source, all_)
        unpacked = worth_unpacking((*packages, *(all_[other] for other in relatives(source, all_))), inside)
        units, configs, commands = (sum(getattr(all_[n], part) for n in inside) for part in ("units", "configs", "commands"))
        small = source in unpacked and sum(all_[n].size for n in unpacked) <= MOST_BYTES and len(unpacked) <= MOST_BINARIES
        if not small or not (units or configs or commands) or units + configs + commands > 200:
            continue
        kind = "service" if units else "config" if configs else "tool"
        needed = len({user for n in inside if all_[n].section.rpartition("/")[2] not in NOT_PROGRAMS for user in users[n]})
        drawn_from.append((needed, Software(source, source, "", kind, needed, inside, unpacked)))
    drawn_from.sort(key=lambda pair: (-pair[0], _mix(pair[1].name, 0)))
    first, second = len(drawn_from) // 10, len(drawn_from) // 2
    return [
        msgspec.structs.replace(software, popularity=POPULARITY[(rank >= first) + (rank >= second)])
        for rank, (_, software) in enumerate(drawn_from)
    ]


def _mix(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def draw(software: Sequence[Software], each: int, seed: int) -> list[Software]:
    """`each` of every stratum (popularity times kind), by a hash of the name: the same for the same archive and seed."""
    strata: dict[tuple[str, str], list[Software]] = defaultdict(list)
    for one in software:
        strata[one.popularity, one.kind].append(one)
    return [
        one
        for popularity in POPULARITY
        for kind in KINDS
        for one in sorted(strata[popularity, kind], key=lambda s: _mix(s.name, seed))[:each]
    ]
