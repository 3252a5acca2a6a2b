"""Where models lie: the cache folder, the names they go by there, and how to fetch one.

Under the cache folder, `models/ALIAS/` holds the models of `aliases`, `hub/` is a folder in huggingface_hub's own layout, and
`downloads/` what a pull that was cut off has kept. Knows no file format. Open `resolve` first, then `pull`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from redline import env, shapes
from redline.checkpoint import folder, hub, random, wheels
from redline.checkpoint.aliases import ALIASES, Alias
from redline.checkpoint.wheels import Report
from redline.errors import CheckpointError, ConfigError, NotFound, PullError


@dataclass(frozen=True)
class ModelRow:
    """One model that is here: what to call it, where it lies, its size, and gguf or safetensors."""

    name: str
    path: Path
    bytes: int
    format: str


def resolve(name: str, *, revision: str | None = None) -> Path:
    """The .gguf file or folder that `name` means: a path, an alias, or a hub name whose files are here.

    Raises NotFound, with what to do next, for a model that is not here. Never touches the network.
    """
    path = local_path(name)
    if revision is not None and (path is not None or name in ALIASES):
        raise ConfigError(f"{name} has no revisions, only models of the hub do", hint="leave --revision out", param="revision")
    if path is not None:
        return _model_at(path)
    if name in ALIASES:
        if _is_here(ALIASES[name]):
            return _alias_path(ALIASES[name])
        raise NotFound(f"{name} is not in the cache folder {env.cache_dir()}", hint=f"redline pull {name}")
    hub_name = hub.parse(name)
    found = hub.find(hub_name, revision, _hub_folder()) if hub_name else None
    if found is not None:
        return found
    raise _unknown(name, hub_name, revision)


def local_path(name: str) -> Path | None:
    """The file or folder that `name` is a path of, or None."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a path, or ~ of a user that is not
        return None


def pull(name: str, *, revision: str | None = None, progress: Report | None = None) -> Path:
    """Fetch the model `name` (an alias or a hub name) into the cache folder and return where it lies.

    A model that is complete is not fetched again. `progress` is called with (stage, bytes done, bytes in all).
    Raises PullError, NotFound, or ConfigError for what has no revisions or nothing to fetch, with the next step.
    """
    report = progress or (lambda stage, done, total: None)
    if name in ALIASES and revision is None:
        return _pull_alias(ALIASES[name], report)
    hub_name = hub.parse(name)
    if name.startswith(random.PREFIX):
        raise ConfigError(
            f"{name} is made where it is used, there is nothing to pull", hint="give it to serve or generate as it is"
        )
    if hub_name is None:
        return resolve(name, revision=revision)  # a path has nothing to fetch, everything else is refused there
    try:
        return hub.pull(hub_name, _hub_folder(), report, revision=revision)
    except OSError as error:
        raise wheels.disk_error(error, name) from error


def is_pullable(name: str) -> bool:
    """True for a name that `pull` can fetch: an alias or a hub name that is no path here."""
    return local_path(name) is None and (name in ALIASES or hub.parse(name) is not None)


def list_models() -> list[ModelRow]:
    """Every complete model in the cache folder, aliases first, then hub models by name."""
    rows = [ModelRow(alias.name, _alias_path(alias), alias.bytes, "gguf") for alias in ALIASES.values() if _is_here(alias)]
    for store in sorted(_hub_folder().glob("models--*--*")):
        repo = store.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in sorted(store.glob("snapshots/*")):
            rows += _snapshot_rows(repo, snapshot)
    return rows


def _snapshot_rows(repo: str, snapshot: Path) -> list[ModelRow]:
    if folder.is_complete(snapshot):
        return [ModelRow(repo, snapshot, sum(file.stat().st_size for file in snapshot.glob("*.safetensors")), "safetensors")]
    files = sorted(snapshot.rglob("*.gguf"))
    return [ModelRow(f"{repo}:{hub.quant_of(file.name)}", file, file.stat().st_size, "gguf") for file in files]


def _pull_alias(alias: Alias, report: Report) -> Path:
    target = _alias_path(alias)
    if not _is_here(alias):
        if target.exists():  # it has another size or no record, so it is not what a pull has checked
            _remove(target)
        wheels.fetch(alias, target, env.cache_dir() / "downloads" / alias.name, report)
    return target


def _remove(target: Path) -> None:
    try:
        target.unlink()
    except OSError as error:
        raise PullError(f"{target} is not what was pulled and cannot be removed: {error.strerror}") from error


def _is_here(alias: Alias) -> bool:
    """True where the file has the right size and its hash was found right when it was pulled."""
    target = _alias_path(alias)
    try:
        return target.stat().st_size == alias.bytes and wheels.record_of(target).read_text().split()[:1] == [alias.sha256]
    except OSError:
        return False


def _alias_path(alias: Alias) -> Path:
    return env.cache_dir() / "models" / alias.name / alias.file


def _hub_folder() -> Path:
    return env.cache_dir() / "hub"


def _model_at(path: Path) -> Path:
    """`path` itself if it is a .gguf file or a folder with config.json; a folder's one .gguf file otherwise."""
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise CheckpointError(f"{path} is not a .gguf file", hint="give a .gguf file or a folder with config.json")
        return path
    if (path / "config.json").is_file():
        return path
    files = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(f"{path} has {len(files)} .gguf files", hint=f"name one, such as {files[0]}")
    raise CheckpointError(f"{path} has no config.json and no .gguf file", hint="give a .gguf file or a folder with config.json")


def _unknown(name: str, hub_name: hub.HubName | None, revision: str | None) -> NotFound:
    here = [*ALIASES, *(row.name for row in list_models()), *(random.PREFIX + known for known in shapes.KNOWN)]
    near = difflib.get_close_matches(name, dict.fromkeys(here), n=3)
    if hub_name is None and (name.lower().endswith(".gguf") or name.startswith(("/", "./", "../", "~"))):
        return NotFound(f"there is no file or folder {name}", hint="check the path")
    steps = [f"did you mean {' or '.join(near)}?"] if near else []
    if hub_name is not None:
        steps.append(f"redline pull {name}" + (f" --revision {revision}" if revision else ""))
    elif not near:
        steps.append(f"give a .gguf file, a folder, org/name, random:NAME, or one of {', '.join(ALIASES)}")
    return NotFound(f"no model {name!r} is here", hint="; or ".join(steps))
