"""One Debian package, opened: `inside` reads a .deb file through dpkg-deb, without root and without running anything of it.

Gives what no list of an archive says: the licence, which files are configuration, users and directories made at install,
ports, and command names that are alternatives. `kept` remembers the answer by name and version.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from saidata import places
from saidata.sources import copyright, ports, scripts

READER = 5  # raised when `Inside` or a reader changes: what an older one kept is read again
LARGEST_TEXT = 512 << 10
MOST_TEXT = 16 << 20  # of one package together
_SCRIPTS = ("preinst", "postinst", "config")
_UNIT = re.compile(r"^/(usr/)?lib/systemd/system/[^/]+\.(service|socket)$")
_TEXT = re.compile(r"^/etc/|^/usr/lib/(sysusers|tmpfiles)\.d/")
_PROFILES = "/etc/ufw/applications.d/"
MOST_PROFILES = 3
_STATE = re.compile(r"^/(var/(lib|log|cache|spool|www)|srv|etc)/[^/]+$")


class Inside(msgspec.Struct, kw_only=True):
    """What was found in a package. Lists are in the package's own order."""

    package: str
    version: str
    reader: int = READER
    sha256: str = ""
    licence: str = ""
    licence_from: str = ""
    other_licences: list[str] = []
    source_address: str = ""
    conffiles: list[str] = []
    configs_made: list[str] = []
    users: list[str] = []
    directories: list[tuple[str, str]] = []  # path, "owner:group mode" or ""
    ports: list[ports.Port] = []
    services: dict[str, list[str]] = {}  # the table of a package that ships /etc/services
    links: list[tuple[str, str]] = []
    masked: list[str] = []  # units that the package only switches off
    papers: str = ""  # the package whose copyright file this one links to
    aliases: list[str] = []  # other names that its units are enabled under


def available() -> str:
    """Why packages cannot be opened here, as a sentence; "" where they can."""
    return "" if shutil.which("dpkg-deb") else "this machine has no dpkg-deb: install the package dpkg"


def inside(file: Path, package: str, version: str) -> Inside:
    """Read the .deb `file`; ValueError says what is wrong with it."""
    with file.open("rb") as opened:
        found = Inside(package=package, version=version, sha256=hashlib.file_digest(opened, "sha256").hexdigest())
    texts = {}
    with _tar(file, "--ctrl-tarfile") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if name in (*_SCRIPTS, "conffiles"):
                texts[name] = _text(archive, member)
    found.conffiles = [line.split()[-1] for line in texts.pop("conffiles", "").splitlines() if line.strip()]
    made = scripts.read(texts[name] for name in _SCRIPTS if name in texts)
    found.users, found.configs_made, found.links = made.users, made.configs, made.links
    found.directories = [(path, "") for path in made.directories if _STATE.match(path)]
    with _tar(file, "--fsys-tarfile") as archive:
        _files(archive, found, made.copied)
    found.ports = ports.surest(found.ports)
    found.directories = list({path: (path, mode) for path, mode in found.directories}.values())
    return found


def kept(package: str, version: str, fetch: Callable[[Path], str]) -> tuple[Inside | None, str]:
    """What is inside a package: remembered, or read after `fetch` put the file where it is told ("" or why it could not)."""
    if (known := remembered(package, version)) is not None:
        return known, ""
    with tempfile.TemporaryDirectory(prefix="saidata-") as folder:
        deb = Path(folder) / "package.deb"
        if reason := fetch(deb):
            return None, reason
        try:
            found = inside(deb, package, version)
        except (ValueError, tarfile.TarError, EOFError) as error:
            return None, f"the package file of {package} cannot be read: {error}"
    places.put(_file(package, version), msgspec.json.encode(found))
    return found, ""


def remembered(package: str, version: str) -> Inside | None:
    """What was read out of a package before, or None."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode(_file(package, version).read_bytes(), type=Inside)
        return found if found.reader == READER else None
    return None


def _file(package: str, version: str) -> Path:
    return places.evidence_dir() / "deb" / f"{_safe(package)}_{_safe(version)}.json"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+~-]", "%", text)[:120]


@contextlib.contextmanager
def _tar(file: Path, part: str) -> Iterator[tarfile.TarFile]:
    """A part of a .deb as a tar stream; dpkg-deb knows every compression there is."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(["dpkg-deb", part, str(file)], stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 16) as archive:
                yield archive
            while process.stdout.read(1 << 16):  # to its end, so that dpkg-deb's own verdict counts
                pass
        except tarfile.ReadError as error:
            process.kill()
            process.wait()
            said.seek(0)
            raise ValueError(said.read(300).decode(errors="replace").strip() or str(error)) from None
        finally:
            process.stdout.close()
            code = process.wait()
        if code:
            said.seek(0)
            raise ValueError(said.read(300).decode(errors="replace").strip() or f"dpkg-deb ended with {code}")


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member) if member.isreg() and member.size <= LARGEST_TEXT else None
    return file.read().decode("utf-8", "replace") if file else ""


def _files(archive: tarfile.TarFile, found: Inside, copied: Mapping[str, str]) -> None:
    """Read what says something; `copied` are files that are put below /etc at install, and read as if they stood there."""
    budget, profiles = MOST_TEXT, 0
    for member in archive:
        path = "/" + member.name.removeprefix("./").lstrip("/")
        if member.isdir():
            if _STATE.match(path.rstrip("/")) and not path.startswith("/etc/"):
                owner = f"{member.uname or member.uid}:{member.gname or member.gid} {member.mode:04o}"
                found.directories.append((path.rstrip("/"), owner))
            continue
        if member.issym() and path == f"/usr/share/doc/{found.package}":
            found.papers = member.linkname.rstrip("/").rpartition("/")[2]
        elif member.issym() and member.linkname == "/dev/null" and _UNIT.match(path):
            found.masked.append(path)
        elif path == f"/usr/share/doc/{found.package}/copyright":
            _copyright(_text(archive, member), found)
        elif (_UNIT.match(path) or _TEXT.match(path) or path in copied) and budget > 0:
            text = _text(archive, member)
            budget -= len(text)
            profiles += path.startswith(_PROFILES)
            if profiles > MOST_PROFILES:  # a package of profiles for everybody
                found.ports = [port for port in found.ports if _PROFILES not in port.detail]
                continue
            _described(copied.get(path, path), text, found)


def _copyright(text: str, found: Inside) -> None:
    said = copyright.read(text)
    found.licence, found.licence_from = said.licence, said.how
    found.other_licences, found.source_address = list(said.parts), said.source


def _described(path: str, text: str, found: Inside) -> None:
    """A text file that says something: a unit, a configuration, a list of users or directories."""
    if path == "/etc/services":
        found.services = ports.services(text)
    elif path.startswith("/usr/lib/sysusers.d/"):
        found.users += [user for user in scripts.sysusers(text) if user not in found.users]
    elif path.startswith("/usr/lib/tmpfiles.d/"):
        found.directories += [(folder, "") for folder in scripts.tmpfiles(text) if _STATE.match(folder)]
    else:
        found.ports += ports.read(path, text)
        if path.endswith(".service"):
            found.aliases += [name for line in re.findall(r"(?m)^Alias=(.*)$", text) for name in line.split()]
            found.users += [
                user
                for user in re.findall(r"(?m)^User=([a-z_][a-z0-9_-]*)\s*$", text)
                if user not in found.users and user != "root"
            ]
