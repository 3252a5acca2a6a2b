"""Pulling from the hub, against a small one on loopback: what is fetched, resumed, kept, checked and refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from redline.checkpoint import hub
from redline.checkpoint.hub import HubName, choose, parse
from redline.errors import NotFound, PullError, UnsupportedModel
from small_hub import SmallHub, serving

WEIGHTS = safetensors.numpy.save({"model.norm.weight": np.arange(60_000, dtype=np.float32)})
CONFIG = json.dumps({"model_type": "llama"}).encode()
FOLDER = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"hello",
    "pytorch_model.bin": b"pickle",
}
GGUF = {"m-Q4_K_M.gguf": b"a" * 1000, "m-Q8_0.gguf": b"b" * 1000, "mmproj-m-f16.gguf": b"c", "README.md": b""}


@pytest.fixture
def small() -> Iterator[SmallHub]:
    other = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": WEIGHTS}
    with serving(SmallHub({"org/tiny": {"main": FOLDER, "v2": other}, "org/quants": {"main": GGUF}})) as running:
        yield running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits seconds between attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def pull(small: SmallHub, cache: Path, name: str = "org/tiny", revision: str | None = None, steps: list | None = None) -> Path:
    report = (lambda *step: steps.append(step)) if steps is not None else (lambda *step: None)
    parsed = parse(name)
    assert parsed is not None
    return hub.pull(parsed, cache, report, revision=revision, endpoint=small.url)


def test_pulls_what_is_needed_and_nothing_else(small: SmallHub, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = pull(small, tmp_path, steps=steps)
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert small.downloads()[-1] == "model.safetensors", "a folder that has its weights has the rest"
    total = len(CONFIG) + 2 + len(WEIGHTS)
    assert steps[-1] == ("download", total, total) and [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_a_second_pull_downloads_nothing(small: SmallHub, tmp_path: Path) -> None:
    first = pull(small, tmp_path)
    small.sent.clear()
    assert pull(small, tmp_path) == first and small.downloads() == []


def test_is_found_without_the_network_once_complete(small: SmallHub, tmp_path: Path) -> None:
    name = HubName("org/tiny", None)
    assert hub.find(name, None, tmp_path) is None
    path = pull(small, tmp_path)
    assert hub.find(name, None, tmp_path) == path
    assert hub.find(name, path.name, tmp_path) == path, "by its commit"
    assert hub.find(name, "v2", tmp_path) is None
    assert hub.find(name, "../../x", tmp_path) is None
    (path / "model.safetensors").unlink()
    assert hub.find(name, None, tmp_path) is None


def test_a_revision_is_its_own_model(small: SmallHub, tmp_path: Path) -> None:
    main, other = pull(small, tmp_path), pull(small, tmp_path, revision="v2")
    assert main != other and (other / "config.json").read_bytes() != CONFIG
    assert hub.find(HubName("org/tiny", None), "v2", tmp_path) == other
    with pytest.raises(NotFound, match="org/tiny has no revision 'v3'"):
        pull(small, tmp_path, revision="v3")


def test_a_cut_connection_resumes_where_it_stopped(small: SmallHub, tmp_path: Path, monkeypatch) -> None:
    """To the piece of 10 MB that the library writes at a time, here of 1,000 bytes."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    small.cuts["model.safetensors"] = [70_000, 50_000]
    path = pull(small, tmp_path)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [wanted for method, file, wanted in small.sent if method == "GET" and file == "model.safetensors"]
    assert ranges == [None, "bytes=70000-", "bytes=120000-"]


def test_a_connection_that_stays_cut_says_so_and_keeps_whole_files(small: SmallHub, tmp_path: Path) -> None:
    small.cuts["model.safetensors"] = [0] * 20
    with pytest.raises(PullError, match="org/tiny could not be pulled") as caught:
        pull(small, tmp_path)
    assert "pull again" in caught.value.hint
    assert hub.find(HubName("org/tiny", None), None, tmp_path) is None
    small.cuts.clear()
    small.sent.clear()
    pull(small, tmp_path)
    assert small.downloads() == ["model.safetensors"]


def test_a_hub_that_is_not_there_says_so(small: SmallHub, tmp_path: Path) -> None:
    small.url = "http://127.0.0.1:9"
    with pytest.raises(PullError, match="could not be pulled") as caught:
        pull(small, tmp_path)
    assert "check the connection" in caught.value.hint


def test_a_hash_that_differs_names_both_and_removes_the_file(small: SmallHub, tmp_path: Path) -> None:
    true = hashlib.sha256(WEIGHTS).hexdigest()
    small.lies["model.safetensors"] = "0" * 64
    with pytest.raises(PullError, match=f"SHA-256 {true}, expected {'0' * 64}"):
        pull(small, tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size == len(WEIGHTS)]
    small.lies.clear()
    assert (pull(small, tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_disk_too_small_is_known_before_anything_is_fetched(small: SmallHub, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(PullError, match="are needed under .* 0 MB are free") as caught:
        pull(small, tmp_path)
    assert "REDLINE_CACHE" in caught.value.hint and small.downloads() == []


def test_a_disk_that_fills_up_says_so(small: SmallHub, tmp_path: Path, monkeypatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(PullError, match="the disk is full: org/tiny was not pulled"):
        pull(small, tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (404, "RepoNotFound", NotFound, "the hub has no model org/tiny"),
        (401, "RepoNotFound", NotFound, "the hub has no model org/tiny"),
        (403, "GatedRepo", PullError, "org/tiny is gated"),
        (500, "", PullError, "the hub refused org/tiny"),
    ],
)
def test_what_the_hub_answers_becomes_a_sentence(small: SmallHub, tmp_path: Path, status, code, error, says) -> None:
    small.errors["org/tiny"] = (status, code)
    with pytest.raises(error, match=says):
        pull(small, tmp_path)


def test_one_gguf_file_by_its_quantisation(small: SmallHub, tmp_path: Path) -> None:
    path = pull(small, tmp_path, "org/quants:q8_0")
    assert path.name == "m-Q8_0.gguf" and small.downloads() == ["m-Q8_0.gguf"]
    assert hub.find(HubName("org/quants", "Q8_0"), None, tmp_path) == path
    assert hub.find(HubName("org/quants", None), None, tmp_path) == path, "the only one that is here"
    assert hub.find(HubName("org/quants", "Q4_K_M"), None, tmp_path) is None
    with pytest.raises(NotFound, match="org/quants fits 2 files") as caught:
        pull(small, tmp_path, "org/quants")
    assert "m-Q4_K_M.gguf, m-Q8_0.gguf" in caught.value.hint
    with pytest.raises(NotFound, match="org/quants:Q2_K fits no file"):
        pull(small, tmp_path, "org/quants:Q2_K")


def test_choice_of_files() -> None:
    plain, q4 = HubName("o/n", None), HubName("o/n", "q4_k")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert choose([*shards, "config.json", "consolidated.safetensors", "original/model.safetensors"], plain) == [
        "config.json",
        shards[2],
        *shards[:2],
    ]
    pooling = ["1_Pooling/config.json", "2_Normalize/config.json", "config.json", "model.safetensors", "x/1_Pooling/config.json"]
    assert choose(pooling, plain) == ["config.json", "1_Pooling/config.json", "model.safetensors"]
    assert choose(["a.Q4_K.gguf", "a.Q4_K_M.gguf", "a-IQ4_K.gguf"], q4) == ["a.Q4_K.gguf"]
    assert choose(["model.safetensors", "x-q4_k.GGUF"], q4) == ["x-q4_k.GGUF"]
    with pytest.raises(UnsupportedModel, match="in parts"):
        choose(["q/a-Q4_K-00001-of-00001.gguf"], q4)
    with pytest.raises(UnsupportedModel, match="no safetensors and no GGUF"):
        choose(["pytorch_model.bin"], plain)


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "q4_k_m"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("a-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("a-IQ4_NL.gguf", "IQ4_NL"),
        ("a-BF16.gguf", "BF16"),
        ("model.gguf", "model"),
    ],
)
def test_a_listed_quantisation_finds_its_file(file: str, quant: str) -> None:
    assert hub.quant_of(file) == quant
    assert choose([file, "other-Q3_K_S.gguf"], HubName("o/n", quant)) == [file]


def test_names_of_the_hub() -> None:
    assert parse("org/name") == HubName("org/name", None)
    assert parse("org/na.me-1_2:Q4_K_M") == HubName("org/na.me-1_2", "Q4_K_M")
    for text in ("name", "a/b/c", "/a", "a/", "../x", "a/..", "a/b:", "a/b:c/d", "a b/c", "a/b\n", "./a/b", "~/a", "a/é"):
        assert parse(text) is None, text


def test_the_endpoint_is_the_librarys_own_setting(small: SmallHub, tmp_path: Path) -> None:
    """From a fresh process, as a user sets it."""
    code = "from redline.checkpoint import store; print(store.pull('org/tiny')); print(store.resolve('org/tiny'))"
    variables = os.environ | {"HF_ENDPOINT": small.url, "REDLINE_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    pulled, resolved = said.split()
    assert pulled == resolved and Path(pulled).is_relative_to(tmp_path / "hub")
