"""What a package really holds, read from the package itself: units, files, commands, licence.

Uses python-debian on the downloaded .deb files; shares no line with the reader that generation's evidence comes from, so that
an error there cannot hide here. Knows nothing of models or documents. Open `read` first.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec
from debian.copyright import Copyright, FilesParagraph
from debian.debfile import DebFile
from license_expression import ExpressionError, Licensing, get_spdx_licensing

COMMAND_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/games")
UNIT_FOLDERS = ("/usr/lib/systemd/system", "/etc/systemd/system")
UNIT_KINDS = (".service", ".socket", ".timer", ".path", ".target", ".mount")

# Files below /etc with which a package takes part in another program's set-up. They are true if a document names them, but
# nobody misses them in a description of the software itself.
TAKING_PART = re.compile(
    r"/etc/(init\.d|rc[0-9S]\.d|logrotate\.d|cron\.(d|daily|hourly|weekly|monthly)|bash_completion\.d|apparmor\.d|pam\.d"
    r"|X11/Xsession\.d|xdg|profile\.d|modprobe\.d|modules-load\.d|sysctl\.d|udev|dbus-1|logcheck|insserv\.conf\.d|ppp"
    r"|network|NetworkManager|apt|kernel|initramfs-tools|ufw/applications\.d|apache2/conf-available|apache2/mods-available"
    r"|emacs|dpkg|runit|sv|default/.*\.dpkg.*|systemd/system|tmpfiles\.d|binfmt\.d|alternatives|magic)/"
)

MAKES = re.compile(r"\b(ucf|cp|install|mv|touch|ln|update-alternatives)\b|--(install|slave)\b|>\s*[\"']?/etc/")
MADE_PATH = re.compile(r"(?<![\w$}/.])(/etc/[\w.+/-]*\w|/(?:usr/)?s?bin/[\w.+-]+|/usr/games/[\w.+-]+)(?![\w$/*{])")

# The short names of the Debian copyright format that are spelt otherwise in SPDX.
SPDX = {
    "expat": "MIT",
    "mit": "MIT",
    "bsd-2": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "artistic-2.0": "Artistic-2.0",
    "isc": "ISC",
    "zlib": "Zlib",
    "mpl-1.1": "MPL-1.1",
    "mpl-2": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "python-2.0": "Python-2.0",
    "php-3.01": "PHP-3.01",
    "openldap-2.8": "OLDAP-2.8",
    "bsl-1.0": "BSL-1.0",
    "postgresql": "PostgreSQL",
    "curl": "curl",
    "vim": "Vim",
    "openssl": "OpenSSL",
    "cc-by-sa-3.0": "CC-BY-SA-3.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-3.0": "CC-BY-3.0",
    "cc-by-4.0": "CC-BY-4.0",
    "epl-1.0": "EPL-1.0",
    "epl-2.0": "EPL-2.0",
    "wtfpl": "WTFPL",
    "unlicense": "Unlicense",
}
GNU = re.compile(r"(?P<family>a?gpl|lgpl|gfdl)(?:-|v)?(?P<number>\d(?:\.\d)?)(?:\.0)?(?P<later>\+|-or-later)?(?:-only)?$")
WORDS = re.compile(r"\s+(and/or|and|or|with)\s+|\s*,\s*", re.IGNORECASE)
EXCEPTIONS = re.compile(r"\s+with\s+.*exception.*$", re.IGNORECASE)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one binary package holds."""

    package: str
    version: str
    sha256: str
    units: tuple[str, ...] = ()  # file names
    aliases: tuple[str, ...] = ()  # other names a unit takes when it is enabled, and init scripts as a unit would be called
    templates: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()  # every file below /etc
    conffiles: tuple[str, ...] = ()  # those the package manager lists as configuration
    commands: tuple[str, ...] = ()
    made: tuple[str, ...] = ()  # configuration files and commands that the maintainer scripts make at installation
    licence: str = ""  # SPDX, of `Files: *`; empty where the copyright file does not say it in a readable way
    homepage: str = ""
    copyright: bool = False  # it has a copyright file of its own, not a link to another package's


def plain(path: str) -> str:
    """A path as one would write it today: with a leading slash, /bin and /lib as the links they are."""
    path = "/" + path.lstrip("./")
    return "/usr" + path if path.startswith(("/bin/", "/sbin/", "/lib/")) else path


def spdx(short: str) -> str:
    """A Debian short licence name or expression as SPDX; empty where a part of it has no SPDX name.

    An exception ("with OpenSSL exception") makes the answer empty too: those texts differ from package to package.
    """
    if not short.strip() or EXCEPTIONS.search(short):
        return ""
    parts: list[str] = []
    for part in WORDS.split(short.strip()):
        if part is None or not part.strip():
            continue
        word = part.strip().lower()
        if word in ("and", "or"):
            parts.append(word.upper())
        elif word in ("and/or", "with"):
            return ""
        elif known := _one(word):
            parts.append(known)
        else:
            return ""
    return canonical(" ".join(parts))


def _one(word: str) -> str:
    if gnu := GNU.fullmatch(word):
        number = gnu["number"] if "." in gnu["number"] else gnu["number"] + ".0"
        if gnu["family"] == "gfdl":
            number = {"1.0": "1.1"}.get(number, number)
        return f"{gnu['family'].upper()}-{number}-{'or-later' if gnu['later'] else 'only'}"
    return SPDX.get(word, "")


@functools.cache
def _licensing() -> Licensing:
    return get_spdx_licensing()  # a list of 2,000 licences is parsed for it


def canonical(expression: str) -> str:
    """An SPDX expression with its parts in one order, so that equal licences compare equal; empty where it is none."""
    try:
        parsed = _licensing().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return ""
    return "" if parsed is None else str(parsed.simplify())


def main_licence(copyright_text: str) -> str:
    """The SPDX expression of the paragraph `Files: *` of a machine-readable copyright file, or empty."""
    try:
        document = Copyright(copyright_text.splitlines(), strict=False)
    except Exception:  # python-debian raises its own, ValueError and more on the many files that are free text
        return ""
    for paragraph in document.all_files_paragraphs():
        if isinstance(paragraph, FilesParagraph) and "*" in paragraph.files and paragraph.license is not None:
            return spdx(str(getattr(paragraph.license, "synopsis", "")))
    return ""


def read(path: Path) -> Held:
    """What the .deb at `path` holds."""
    with DebFile(str(path)) as package:
        control = package.debcontrol()
        name = control["Package"]
        listed = package.control.get_content("conffiles", encoding="utf-8") if package.control.has_file("conffiles") else ""
        archive = package.data.tgz()
        members = archive.getmembers()
        found = _sort_out(members, archive)
        scripts = package.scripts()
        place = f"./usr/share/doc/{name}/copyright"
        held_here = next((m for m in members if m.name == place and m.isreg()), None)
        text = archive.extractfile(held_here) if held_here else None
        licence = main_licence(text.read().decode(errors="replace")) if text else ""
    return Held(
        package=name,
        version=control["Version"],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        made=_made(scripts.values()),
        conffiles=tuple(sorted(line.split()[-1] for line in str(listed).splitlines() if line.strip())),
        licence=licence,
        copyright=held_here is not None,
        homepage=control.get("Homepage", ""),
        **found,
    )


def _sort_out(members: Iterable[tarfile.TarInfo], archive: tarfile.TarFile) -> dict[str, tuple[str, ...]]:
    lists: dict[str, set[str]] = {part: set() for part in ("units", "aliases", "templates", "configs", "commands")}
    for member in members:
        if member.isdir() or (member.issym() and member.linkname == "/dev/null"):
            continue
        path = PurePosixPath(plain(member.name))
        folder = str(path.parent)
        if folder in COMMAND_FOLDERS and (member.issym() or member.islnk() or member.mode & 0o111):
            lists["commands"].add(str(path))
        elif folder in UNIT_FOLDERS and path.suffix in UNIT_KINDS:
            if path.stem.endswith("@"):
                lists["templates"].add(path.name)
            else:
                lists["aliases" if member.issym() else "units"].add(path.name)
            lists["aliases"].update(_aliases(archive, member))
        elif folder == "/etc/init.d":
            lists["aliases"].add(path.name + ".service")
            lists["configs"].add(str(path))
        elif str(path).startswith("/etc/"):
            lists["configs"].add(str(path))
    lists["aliases"] -= lists["units"]
    return {part: tuple(sorted(values)) for part, values in lists.items()}


def _aliases(archive: tarfile.TarFile, unit: tarfile.TarInfo) -> set[str]:
    """The names of `Alias=` lines, which a unit takes when it is enabled."""
    file = archive.extractfile(unit) if unit.isreg() else None
    text = file.read().decode(errors="replace") if file else ""
    return {name for line in re.findall(r"(?m)^Alias=(.*)$", text) for name in line.split()}


def _made(scripts: Iterable[bytes]) -> tuple[str, ...]:
    """Paths that a maintainer script creates: handed to ucf, copied, written to, or linked as an alternative.

    A variable that the script sets once, to a plain path, is followed; a path with any other in it is not known before
    installation and is left out.
    """
    found: set[str] = set()
    for script in scripts:
        text = script.decode(errors="replace").replace("\\\n", " ")
        text = _followed(text)
        for line in text.splitlines():
            if MAKES.search(line):
                found.update(plain(path) for path in MADE_PATH.findall(line))
    return tuple(sorted(found))


SET = re.compile(r"(?m)^[ \t]*(?P<name>[A-Za-z_]\w*)=[\"']?(?P<path>/[\w.+/-]+)[\"']?[ \t]*;?$")


def _followed(text: str) -> str:
    """A script with its constant paths in place of their variables."""
    values: dict[str, set[str]] = {}
    for match in SET.finditer(text):
        values.setdefault(match["name"], set()).add(match["path"])
    for name, paths in values.items():
        if len(paths) == 1:
            path = next(iter(paths))
            text = re.sub(rf"\$\{{{name}\}}|\${name}(?!\w)", lambda _, path=path: path, text)  # type: ignore[misc]
    return text


def telling(configs: Iterable[str], conffiles: Iterable[str]) -> tuple[str, ...]:
    """The configuration files that a description of the software should name: its own, not those of its neighbours."""
    own = set(conffiles) | set(configs)
    return tuple(sorted(path for path in own if not TAKING_PART.match(path)))


def together(held: Iterable[Held], names: Iterable[str], part: str) -> tuple[str, ...]:
    """One list of the packages called `names`, each value once, sorted."""
    wanted = set(names)
    return tuple(sorted({value for one in held if one.package in wanted for value in getattr(one, part)}))


def licence_of(held: Mapping[str, Held], names: Iterable[str]) -> str:
    """What the first copyright file says, in the order of `names`: a neighbour's is not asked where it says nothing readable."""
    return next((held[name].licence for name in names if name in held and held[name].copyright), "")
