"""Where saidata keeps its data: `home()` and the folders below it. The only file of saidata that reads the environment (`ENVIRONMENT`).

    index/      snapshots of package indexes, and `current`, the name of the one in use
    apt/        lists of the private apt update
    evidence/   what was read out of single packages, one small file each
    settings.toml   addresses of providers that have no client here

    addresses.json  what web addresses answered
    work.db     jobs, answers of models, the archive

Everything can be made again but the settings and the archive. `put` writes a file whole or not at all. Open `home` first.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from saidata.errors import Refused


class Variable(NamedTuple):
    """One environment name: its default as a person reads it, and one sentence of help."""

    name: str
    default: str
    help: str


ENVIRONMENT = (
    Variable(
        "SAIDATA_HOME", "", "Folder for saidata's index, evidence, jobs and archive; ~/.local/share/saidata where not given."
    ),
    Variable("SAIDATA_API_KEY", "", "Key for the server at --base-url, instead of --api-key."),
    Variable("XDG_DATA_HOME", "", "Parent of the data folder where SAIDATA_HOME is not given."),
)


def home() -> Path:
    """SAIDATA_HOME, or `saidata` in the user's data folder. It may not exist yet."""
    own = _read("SAIDATA_HOME")
    if own:
        return Path(own).expanduser().absolute()
    parent = _read("XDG_DATA_HOME")
    return (Path(parent).expanduser() if parent else Path.home() / ".local" / "share") / "saidata"


def index_dir() -> Path:
    """Snapshots of package indexes."""
    return home() / "index"


def apt_dir() -> Path:
    """apt's own files for the private update: lists and a cache."""
    return home() / "apt"


def evidence_dir() -> Path:
    """What was read out of single packages."""
    return home() / "evidence"


def settings_file() -> Path:
    """The user's settings, TOML."""
    return home() / "settings.toml"


def addresses_file() -> Path:
    """What web addresses answered, with the day."""
    return home() / "addresses.json"


def work_file() -> Path:
    """Jobs, answers of models, the archive."""
    return home() / "work.db"


TEMPORARY = ".saidata-"


def put(path: Path, content: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """`content` in `path`, whole: written beside it and put in its place in one move; with `sync` it is on the disk when this returns.

    Makes the folder. Raises Refused where the disk is full or the folder cannot be written; `path` is then as it was.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync(path.parent)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise Refused(error, f"{path} cannot be written") from error
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def api_key() -> str | None:
    """The key of the environment for a model's server, or None."""
    return _read("SAIDATA_API_KEY") or None


def _read(name: str) -> str:
    """The value of a name of ENVIRONMENT; "" where it is not set."""
    assert any(variable.name == name for variable in ENVIRONMENT), f"{name} is not in ENVIRONMENT"
    return os.environ.get(name, "")


def for_child(**changes: str) -> dict[str, str]:
    """The environment of a child process: this process's with `changes`."""
    return {**os.environ, **changes}
