"""The only place that reads the environment. `ENVIRONMENT` is the whole list of names, at most twelve.

Everything else is an option of a command or a field of a config; the environment is for what belongs to the machine.
Libraries have names of their own (`HF_TOKEN`, `HF_ENDPOINT`, `CUDA_VISIBLE_DEVICES` ...), which redline leaves to them.
Open `read` first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variable:
    """One environment name: its default as a person reads it, and one sentence of help."""

    name: str
    default: str
    help: str


ENVIRONMENT: tuple[Variable, ...] = (
    Variable("REDLINE_CACHE", "", "Folder for models and measurements; ~/.cache/redline where not given."),
    Variable("REDLINE_LOG", "info", "Log level: debug, info, warning or error."),
    Variable("REDLINE_API_KEY", "", "Key that the server demands and the clients send, instead of --api-key."),
    Variable(
        "REDLINE_DATA", "", "Folder for what servers keep (keys, responses, files, jobs); ~/.local/share/redline where not given."
    ),
    Variable("REDLINE_ADMIN_KEY", "", "Key of the server's admin API, instead of --admin-key."),
    Variable("XDG_CACHE_HOME", "", "Parent of the cache folder where REDLINE_CACHE is not given."),
    Variable("XDG_DATA_HOME", "", "Parent of the data folder where REDLINE_DATA is not given."),
    Variable("CUDA_VISIBLE_DEVICES", "", "GPUs that this process may use, in the order of cuda:N; the driver's own rule."),
)

_DEFAULTS = {variable.name: variable.default for variable in ENVIRONMENT}


def read(name: str) -> str:
    """The value of `name`, or its default. Only names of the table can be read."""
    assert name in _DEFAULTS, f"{name} is not in env.ENVIRONMENT"
    return os.environ.get(name) or _DEFAULTS[name]


def cache_dir() -> Path:
    """Where models and measurements are kept. The folder may not exist yet."""
    own = read("REDLINE_CACHE")
    if own:
        return Path(own).expanduser()
    parent = read("XDG_CACHE_HOME")
    return (Path(parent).expanduser() if parent else Path.home() / ".cache") / "redline"


def data_dir() -> Path:
    """Where servers keep their keys, responses, files and jobs. The folder may not exist yet."""
    own = read("REDLINE_DATA")
    if own:
        return Path(own).expanduser()
    parent = read("XDG_DATA_HOME")
    return (Path(parent).expanduser() if parent else Path.home() / ".local" / "share") / "redline"


def log_level() -> str:
    """Level of the log where the command line says nothing."""
    return read("REDLINE_LOG").lower()


def api_key() -> str | None:
    """The key of the environment, or None."""
    return read("REDLINE_API_KEY") or None


def admin_key() -> str | None:
    """The admin API's key of the environment, or None."""
    return read("REDLINE_ADMIN_KEY") or None


def visible_gpus() -> str | None:
    """What CUDA_VISIBLE_DEVICES says; None where it is not set. An empty text hides every GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def for_child(**changes: str) -> dict[str, str]:
    """The environment of a child process: this process's with `changes`."""
    return {**os.environ, **changes}
