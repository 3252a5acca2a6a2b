"""The apt client as a source: a private `apt-get update` and what it brought. Open `update`, then `Target`.

The machine's own sources, keys and proxies are used; lists and caches lie in our folder, so neither root nor the machine's
apt is touched. Translations and Contents, which small images leave out, are asked for here. Files are read through apt's
own helper, which knows every compression that apt may have chosen.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

import msgspec

from saidata import places
from saidata.errors import Misuse, Refused, SaidataError, Unreachable

PACKED = (".gz", ".xz", ".bz2", ".lz4", ".zst", ".lzma")
HELPER = "/usr/lib/apt/apt-helper"
DOWNLOAD_TIMEOUT_S = 600
KINDS = {"Packages": "Packages", "Translations": "Translation", "Contents-deb": "Contents"}  # apt's name: ours

# `clear` first: an image that sets Languages to "none" would otherwise keep it, and a hook of the machine is not ours to run.
CONFIGURATION = """
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
#clear Acquire::Languages;
Acquire::Languages {{ "en"; }};
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::IndexTargets::deb::Contents-deb {{
    MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)";
    ShortDescription "Contents-$(ARCHITECTURE)";
    Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)";
    flatMetaKey "Contents-$(ARCHITECTURE)";
    flatDescription "$(RELEASE) Contents (deb)";
    PDiffs "true";
    KeepCompressed "true";
    DefaultEnabled "true";
}};
"""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an update: the Packages, Translation or Contents of a part of an archive."""

    kind: str  # Packages, Translation or Contents
    file: Path
    label: str  # "debian bookworm main"
    date: str  # ISO 8601, of the archive's Release file; "" where it has none
    base: str  # address that the packages' file names are below


def available() -> str:
    """Why apt cannot be used here, as a sentence; "" where it can."""
    if shutil.which("apt-get") is None:
        return "this machine has no apt: import an index with `saidata index import FILE`"
    if not Path(HELPER).exists():
        return f"apt's helper is not at {HELPER}: install the package apt"
    return ""


def update(folder: Path | None = None) -> None:
    """Bring the lists of every configured archive up to date in `folder`. Raises Unreachable where one could not be fetched."""
    command = ["apt-get", "update", "-q", *_configured(folder, write=True)]
    done = subprocess.run(command, capture_output=True, text=True, env=places.for_child(LC_ALL="C.UTF-8"))
    said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    failed = [line for line in said if "Failed to fetch" in line]  # for which apt itself ends with 0, and takes what it had
    if done.returncode or failed:
        why = (failed or said or [f"exit code {done.returncode}"])[0]
        raise Unreachable(
            f"apt could not fetch its lists: {why}",
            "check the network; `saidata index build --no-fetch` takes the lists that are here, "
            "`saidata index import FILE` an index from another machine",
        )


def targets(folder: Path | None = None) -> list[Target]:
    """What the last update brought, Packages first. Files that an archive does not have are left out."""
    rows = _table(["apt-get", "indextargets", *_configured(folder)])
    dates = _release_dates((folder or places.apt_dir()) / "lists")
    found = []
    for row in rows:
        kind, file = KINDS.get(row.get("Created-By", "")), Path(row.get("Filename", ""))
        if kind is None or not file.is_file():
            continue
        label = " ".join(
            part for part in (row.get("Origin", "").lower(), row.get("Release", ""), row.get("Component", "")) if part
        )
        date = max((date for name, date in dates.items() if file.name.startswith(name)), default="")
        found.append(Target(kind=kind, file=file, label=label, date=date, base=row.get("Repo-URI", "")))
    if not any(target.kind == "Packages" for target in found):
        raise Misuse("apt has no package lists", hint="`saidata index build` fetches them; see that /etc/apt has sources")
    return sorted(found, key=lambda target: list(KINDS.values()).index(target.kind))


@contextlib.contextmanager
def opened(target: Target) -> Iterator[IO[bytes]]:
    """The plain bytes of a list."""
    if target.file.suffix not in PACKED:
        with target.file.open("rb") as file:
            yield file
        return
    with subprocess.Popen([HELPER, "cat-file", str(target.file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.close()
    if process.returncode:
        raise SaidataError(f"apt could not read its list {target.file}", hint="run `saidata index build` again")


def download(address: str, sha256: str, to: Path) -> str:
    """Fetch one package file through apt's transports; "" or why it failed. apt checks the hash."""
    command = [HELPER, *_configured(None), "download-file", address, str(to), *([f"SHA256:{sha256}"] if sha256 else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=places.for_child(LC_ALL="C.UTF-8"), timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {DOWNLOAD_TIMEOUT_S} s"
    if done.returncode == 0 and to.exists():
        return ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return lines[0] if lines else f"apt's helper ended with {done.returncode}"


def _configured(folder: Path | None, write: bool = False) -> list[str]:
    folder = folder or places.apt_dir()
    file = folder / "apt.conf"
    if write or not file.exists():
        try:
            for part in ("lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(error, f"{folder} cannot be made") from None
        places.put(file, CONFIGURATION.format(folder=folder).encode(), mode=0o644)
    return ["-c", str(file)]


def _table(command: list[str]) -> list[dict[str, str]]:
    done = subprocess.run(command, capture_output=True, text=True, env=places.for_child(LC_ALL="C.UTF-8"))
    if done.returncode:
        raise SaidataError(f"apt could not list what it fetched: {done.stderr.strip()[:200]}", hint="see that apt-get works here")
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        for block in done.stdout.split("\n\n")
        if block.strip()
    ]


def _release_dates(lists: Path) -> dict[str, str]:
    """The beginning of a list's file name: its archive's date."""
    dates = {}
    for file in [*lists.glob("*_InRelease"), *lists.glob("*_Release")]:
        with file.open(errors="replace") as lines:
            for line in lines:
                if line.startswith("Date: "):
                    with contextlib.suppress(ValueError):
                        dates[file.name.rpartition("_")[0]] = parsedate_to_datetime(line[6:].strip()).date().isoformat()
                    break
    return dates
