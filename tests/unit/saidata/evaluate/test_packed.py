"""Evidence packed for a machine without an index must come out as it went in; a broken file must be a sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from saidata.errors import Misuse, NotHere
from saidata.evaluate.packed import Head, Packed, pack
from saidata_making import webthing


def test_evidence_comes_out_as_it_went_in(tmp_path: Path) -> None:
    path = tmp_path / "evidence.gz"
    head = Head("s1", True, ("webthing", "bash"))
    assert pack(path, head, [webthing(), webthing(name="other")]) == 2
    read = Packed(path)
    assert read.head == head and read.gather("webthing") == webthing() and read.gather("other").name == "other"
    assert read.exists("bash") and not read.exists("quarrelfish")
    with pytest.raises(Misuse, match="nothing of nginx"):
        read.gather("nginx")


def test_a_file_that_is_broken_cut_or_missing_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "evidence.gz"
    pack(path, Head("s1", True, ()), [webthing()])
    whole = path.read_bytes()
    for text in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        gzip.compress(b""),
        gzip.compress(b"{}\n"),
        gzip.compress(b"\xff\xfe\n"),
    ):
        path.write_bytes(text)
        with pytest.raises(Misuse, match="packed evidence"):
            Packed(path)
    with pytest.raises(NotHere):
        Packed(tmp_path / "none.gz")
    assert not list(tmp_path.glob("*.part"))
