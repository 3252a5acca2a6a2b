"""Where saidata keeps its data: `home()` and the folders below it. The only file of saidata that reads the environment.

    index/      snapshots of package indexes, and `current`, the name of the one in use
    apt/        lists of the private apt update
    evidence/   what was read out of single packages, one small file each
    settings.toml   addresses of providers that have no client here

Everything can be made again but the settings. Nothing here makes a folder: whoever writes does. Open `home` first.
"""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "SAIDATA_HOME"


def home() -> Path:
    """SAIDATA_HOME, or `saidata` in the user's data folder. It may not exist yet."""
    own = os.environ.get(HOME_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    parent = os.environ.get("XDG_DATA_HOME")
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


def for_child(**changes: str) -> dict[str, str]:
    """The environment of a child process: this process's with `changes`."""
    return {**os.environ, **changes}
