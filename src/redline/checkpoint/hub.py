"""Models of the Hugging Face hub, by `org/name` or `org/name:QUANT`, fetched through huggingface_hub.

Transfer, resume, revisions and the folder layout are that library's. redline chooses the files it needs (safetensors, JSON
and templates, or the one GGUF file), checks free space first, checks the SHA-256 of large files after, and turns every
failure into a sentence. The library is imported when first needed. Open `pull` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.checkpoint import folder
from redline.checkpoint.wheels import Report, check_space, disk_error, sha256
from redline.errors import CheckpointError, NotFound, PullError, RedlineError, UnsupportedModel

DEFAULT_REVISION = "main"

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::(?P<quant>[\w.-]{1,64}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    folder.TEMPLATE,
)
_POOLING = re.compile(r"(?:1_Pooling|\d+_Dense)/config\.json")  # what an embedding model does with its hidden states
_WEIGHTS = re.compile(r"model(?:-\d+-of-\d+)?\.safetensors")
_QUANT = re.compile(r"(?:^|[-._])((?:UD-)?I?Q\d\w*|BF16|F16|F32)(?=$|[-.])", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class HubName:
    """`org/name`, and the quantisation that picks one of its GGUF files, or None."""

    repo: str
    quant: str | None

    def __str__(self) -> str:
        return f"{self.repo}:{self.quant}" if self.quant else self.repo


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `sha256` is known for large files (LFS) alone."""

    name: str
    bytes: int
    sha256: str | None


def parse(name: str) -> HubName | None:
    """The hub name in `name`, or None for a text of another form; `folder/model.gguf` is a path."""
    match = _NAME.fullmatch(name)
    if match is None or ".." in name or match["repo"].lower().endswith(".gguf"):
        return None
    return HubName(match["repo"], match["quant"])


def choose(files: Iterable[str], name: HubName) -> list[str]:
    """The files that redline needs of a repository's `files`, weights last.

    Raises NotFound where the quantisation is not there or must be chosen, and UnsupportedModel for a kind redline does not load.
    """
    files = sorted(files)
    gguf = [file for file in files if file.lower().endswith(".gguf") and "mmproj" not in file.lower()]
    weights = [file for file in files if _WEIGHTS.fullmatch(file)]
    if name.quant is None and weights:
        texts = [file for file in files if file in _TEXTS] + [file for file in files if file == folder.INDEX]
        return texts + [file for file in files if _POOLING.fullmatch(file)] + weights
    fitting = [file for file in gguf if name.quant is None or _has_quant(file, name.quant)]
    if len(fitting) == 1:
        if _PART.search(fitting[0]):
            raise UnsupportedModel(f"{name} is a GGUF file in parts", hint="join the parts with gguf-split --merge")
        return fitting
    if not gguf:
        raise UnsupportedModel(f"{name.repo} has no safetensors and no GGUF file", hint="redline never loads pickled weights")
    choices = ", ".join(Path(file).name for file in (fitting or gguf)[:20])
    what = f"fits {len(fitting)} files" if fitting else "fits no file"
    raise NotFound(f"{name} {what} of the repository", hint=f"name one as {name.repo}:QUANT, of: {choices}")


def quant_of(file: str) -> str:
    """The quantisation in the name of a GGUF file: what picks it in `org/name:QUANT`. The whole stem where none is in it."""
    found = _QUANT.findall(Path(file).stem)
    return found[-1] if found else Path(file).stem


def find(name: HubName, revision: str | None, cache: Path) -> Path | None:
    """The folder or GGUF file of a model that is complete in `cache`, or None. Never touches the network."""
    store = cache / f"models--{name.repo.replace('/', '--')}"
    commit = _commit(store, revision or DEFAULT_REVISION)
    snapshot = store / "snapshots" / commit if commit else None
    if snapshot is None or not snapshot.is_dir():
        return None
    if name.quant is None and folder.is_complete(snapshot):
        return snapshot
    here = [str(file.relative_to(snapshot)) for file in snapshot.rglob("*.gguf")]
    try:
        return snapshot / choose(here, name)[0]
    except (NotFound, CheckpointError):
        return None


def pull(name: HubName, cache: Path, report: Report, *, revision: str | None = None, endpoint: str | None = None) -> Path:
    """Fetch a model into `cache` (what is there is kept) and return its folder or GGUF file.

    Raises NotFound for a repository, revision or quantisation that the hub does not have, and PullError for a connection that
    stays cut, a full disk, or a hash that differs (the file is removed).
    """
    revision = revision or DEFAULT_REVISION
    try:
        remote = _list(name.repo, revision, endpoint)
        chosen = [remote[file] for file in choose(remote, name)]
        cache.mkdir(parents=True, exist_ok=True)
        paths = _transfer(name, chosen, cache, report, revision, endpoint)
    except RedlineError:
        raise
    except Exception as error:  # the library's own tree and its HTTP client's: told apart by type in one place
        raise _explain(error, name, revision) from error
    if len({path.parents[len(Path(file.name).parts) - 1] for path, file in zip(paths, chosen, strict=True)}) > 1:
        raise PullError(f"{name} changed on the hub while it was pulled", hint="pull again")
    return paths[0] if paths[0].suffix.lower() == ".gguf" else paths[0].parent


def _list(repo: str, revision: str, endpoint: str | None) -> dict[str, RemoteFile]:
    """The files of a repository at `revision`, by name."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint, library_name="redline").model_info(repo, revision=revision, files_metadata=True)
    return {
        file.rfilename: RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }


def _transfer(
    name: HubName, files: list[RemoteFile], cache: Path, report: Report, revision: str, endpoint: str | None
) -> list[Path]:
    """Fetch what is not in `cache` yet, checking each large file as soon as it has arrived."""
    from huggingface_hub import hf_hub_download

    total, done = sum(file.bytes for file in files), 0
    cached = {file.name for file in files if _blob_is_here(name, file, cache)}
    check_space(cache, sum(file.bytes for file in files if file.name not in cached))
    paths = []
    for file in files:
        bar = _bar_class(report, done, total)
        path = Path(
            hf_hub_download(
                name.repo,
                file.name,
                revision=revision,
                cache_dir=cache,
                endpoint=endpoint,
                library_name="redline",
                tqdm_class=bar,
            )
        )
        if file.sha256 and file.name not in cached:
            _verify(path, file)
        done += file.bytes
        report("download", done, total)
        paths.append(path)
    return paths


def _blob_is_here(name: HubName, file: RemoteFile, cache: Path) -> bool:
    """True for a large file whose bytes, named by their hash, are in `cache`: an earlier pull checked them."""
    blob = cache / f"models--{name.repo.replace('/', '--')}" / "blobs" / (file.sha256 or "-")
    return blob.is_file()


def _verify(path: Path, file: RemoteFile) -> None:
    """Raise PullError, and remove the file, where its bytes do not have the hash that the hub gave."""
    found = sha256(path)
    if found != file.sha256:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise PullError(f"{file.name} has SHA-256 {found}, expected {file.sha256}: the file was removed", hint="pull it again")


def _bar_class(report: Report, before: int, total: int) -> type[Any]:
    """A progress bar in the library's sense that shows nothing and tells `report`; `before` bytes came with other files."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            self.moved = 0

        def update(self, n: float | None = 1) -> None:
            self.moved += int(n or 0)
            report("download", before + self.moved, total)

        def update_transfer(self, n: float) -> None:
            """Bytes on the wire, which `update` has counted already."""

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            """Nothing is drawn."""

    return Bar


def _explain(error: Exception, name: HubName, revision: str) -> RedlineError:
    """The error of the library as one of ours."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return PullError(f"{name.repo} is gated", hint="accept its terms on its page, then set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(f"the hub has no model {name.repo}, or it is private", hint="check the spelling, or set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(f"{name.repo} has no revision {revision!r}", hint="name a branch, a tag or a commit")
    if isinstance(error, errors.HfHubHTTPError):
        return PullError(f"the hub refused {name}: {_first_line(error)}", hint="try again later")
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | FileNotFoundError):
        return disk_error(error, str(name))
    return PullError(
        f"{name} could not be pulled: {_first_line(cause or error)}",
        hint="check the connection and pull again: files that have arrived whole are kept",
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _has_quant(file: str, quant: str) -> bool:
    return re.search(rf"(?:^|[-._]){re.escape(quant)}(?:[-.]|$)", Path(file).name, re.IGNORECASE) is not None


def _commit(store: Path, revision: str) -> str | None:
    """The commit that a branch, tag or (full) commit meant when it was last pulled."""
    if _COMMIT.fullmatch(revision):
        return revision
    reference = store / "refs" / revision
    if ".." in Path(revision).parts or not reference.is_file():
        return None
    commit = reference.read_text().strip()
    return commit if _COMMIT.fullmatch(commit) else None
