"""What a name means: paths, folders, aliases and hub names that are here, and what is said about one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_files import llama_gguf
from redline import checkpoint
from redline.checkpoint import opener, store
from redline.errors import CheckpointError, ConfigError, NotFound

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_gguf(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(llama_gguf(np.random.default_rng(0)).to_bytes())
    return path


def put_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    safetensors.numpy.save_file({"model.norm.weight": np.ones(8, np.float32)}, path / "model.safetensors")
    return path


def put_snapshot(cache: Path, repo: str, commit: str = "0123456789" * 4) -> Path:
    """A model as huggingface_hub leaves it."""
    folder = cache / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def test_paths_mean_themselves(tmp_path: Path) -> None:
    file, folder = put_gguf(tmp_path / "a.gguf"), put_folder(tmp_path / "folder")
    assert store.resolve(str(file)) == file and store.resolve(str(folder)) == folder
    assert checkpoint.open(str(file)).name == "a" and checkpoint.open(str(folder)).name == "folder"


def test_a_folder_of_one_gguf_file_means_that_file(tmp_path: Path) -> None:
    file = put_gguf(tmp_path / "folder" / "a.gguf")
    assert store.resolve(str(file.parent)) == file
    put_gguf(tmp_path / "folder" / "b.gguf")
    with pytest.raises(CheckpointError, match="has 2 .gguf files") as caught:
        store.resolve(str(file.parent))
    assert "a.gguf" in caught.value.hint


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    for name in (tmp_path, tmp_path / "model.bin"):
        with pytest.raises(CheckpointError, match="not a .gguf file|no config.json"):
            store.resolve(str(name))


def test_an_alias_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(NotFound, match="smollm2-135m is not in the cache folder") as caught:
        checkpoint.open("smollm2-135m")
    assert caught.value.hint == "redline pull smollm2-135m"


def test_an_alias_counts_only_with_its_record_and_size(cache: Path, monkeypatch) -> None:
    """A file that another program left, or one that was cut, is not what a pull has checked."""
    alias = store.ALIASES["smollm2-135m"]
    file = put_gguf(cache / "models" / alias.name / alias.file)
    record = file.with_name(file.name + ".sha256")
    with pytest.raises(NotFound):
        store.resolve(alias.name)
    record.write_text(f"{alias.sha256}  {alias.file}\n")
    with pytest.raises(NotFound):
        store.resolve(alias.name)
    with open(file, "r+b") as out:
        out.truncate(alias.bytes)
    assert store.resolve(alias.name) == file
    record.write_text("0" * 64)
    with pytest.raises(NotFound):
        store.resolve(alias.name)


def test_hub_models_that_are_here(cache: Path) -> None:
    folder = put_folder(put_snapshot(cache, "org/tiny"))
    file = put_gguf(put_snapshot(cache, "org/quants") / "m-Q8_0.gguf")
    assert store.resolve("org/tiny") == folder and store.resolve("org/quants:q8_0") == file
    assert checkpoint.open("org/tiny").name == "org/tiny" and checkpoint.open("org/quants:Q8_0").name == "org/quants:Q8_0"
    rows = store.list_models()
    assert [(row.name, row.format, row.path) for row in rows] == [
        ("org/quants:Q8_0", "gguf", file),
        ("org/tiny", "safetensors", folder),
    ]
    assert all(row.bytes > 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2-135m", "did you mean smollm2-135m"),
        ("llama-3.1-8b", "random:llama-3.1-8b"),
        ("org/tiny", "redline pull org/tiny"),
        ("something else", "give a .gguf file"),
        ("./no/such.gguf", "check the path"),
        ("models/such.gguf", "check the path"),
        ("x" * 5000, "give a .gguf file"),
        ("~nobody-of-this-name/x", "check the path"),
        ("a\0b", "give a .gguf file"),
        ("", "give a .gguf file"),
    ],
)
def test_a_name_that_means_nothing_gets_the_next_step(name: str, hint: str) -> None:
    with pytest.raises((NotFound, CheckpointError)) as caught:
        store.resolve(name)
    assert hint in caught.value.hint


def test_names_that_can_be_pulled(tmp_path: Path) -> None:
    assert store.is_pullable("smollm2-135m") and store.is_pullable("org/name") and store.is_pullable("org/name:Q4_K_M")
    assert not store.is_pullable(str(put_gguf(tmp_path / "a.gguf"))) and not store.is_pullable("nonsense")
    with pytest.raises(NotFound):
        store.pull("nonsense")
    with pytest.raises(ConfigError, match="nothing to pull"):
        store.pull("random:tiny-llama")


def test_near_names_are_named_once(cache: Path) -> None:
    """An alias that is here is both an alias and a model in the cache."""
    alias = store.ALIASES["smollm2-135m"]
    file = put_gguf(cache / "models" / alias.name / alias.file)
    file.with_name(file.name + ".sha256").write_text(alias.sha256)
    with open(file, "r+b") as out:
        out.truncate(alias.bytes)
    with pytest.raises(NotFound) as caught:
        store.resolve("smollm2")
    assert caught.value.hint.count("smollm2-135m") == 1


def test_an_alias_brings_what_its_makers_generate_with(cache: Path) -> None:
    """At the API's temperature of 1 a model this small talks nonsense, and its GGUF file does not say 0.2."""
    alias = store.ALIASES["smollm2-135m"]
    file = put_gguf(cache / "models" / alias.name / alias.file)
    assert opener._open_alias(file, alias).generation.temperature == alias.temperature == 0.2
    assert checkpoint.open(str(file)).generation.temperature is None


def test_a_revision_of_what_has_none_is_refused(tmp_path: Path) -> None:
    for name in ("smollm2-135m", str(put_gguf(tmp_path / "a.gguf")), "random:tiny-llama"):
        with pytest.raises(ConfigError, match="has no revisions"):
            checkpoint.open(name, revision="main")
    with pytest.raises(ConfigError, match="has no revisions"):
        store.pull("smollm2-135m", revision="main")


def test_a_tokenizer_that_is_not_one_is_refused_by_name(tmp_path: Path) -> None:
    """A file of another name must not stand for the folder it lies in."""
    opened = checkpoint.open("random:tiny-llama")
    other = tmp_path / "vocab.json"
    other.touch()
    for source, said in ((str(tmp_path / "nothing"), "no file or folder"), ("", "no file or folder"), (str(other), "is not a")):
        with pytest.raises(NotFound, match=said):
            opener.tokenizer_for(opened, source)


def test_random_models_need_no_file() -> None:
    opened = checkpoint.open("random:tiny-llama")
    assert opened.name == "random:tiny-llama" and opened.stored_dtype == "random"
