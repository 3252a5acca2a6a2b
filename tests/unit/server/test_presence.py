"""Which servers run: told by their files, and only while their processes are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from redline.server import presence
from redline.server.presence import Presence, Seen, began, rss_bytes, running, seen


def test_a_server_is_seen_from_its_first_word_to_its_last(tmp_path: Path) -> None:
    mine = Presence(tmp_path)
    mine.tell(seen("http://h:1", "m", 5.0, None))
    (found,) = running(tmp_path)
    assert (found.pid, found.url, found.model, found.max_model_len) == (os.getpid(), "http://h:1", "m", None)
    mine.tell(msgspec.structs.replace(found, max_model_len=9))
    assert [each.max_model_len for each in running(tmp_path)] == [9]
    mine.leave()
    mine.leave()
    assert list(running(tmp_path)) == [] and list((tmp_path / "run").iterdir()) == []


def test_files_of_processes_that_are_gone_are_cleared_away(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        folder = tmp_path / "run"
        folder.mkdir()

        def write(name: str, **changes: object) -> None:
            known = {"pid": child.pid, "began": began(child.pid), "url": "u", "model": name, "started": 1.0, **changes}
            (folder / f"{name}.json").write_bytes(msgspec.json.encode(known))

        write("there")
        write("of a number that was given again", began="1")
        write("gone", pid=2**22 - 3, began="")
        (folder / "broken.json").write_text("{")
        assert [each.model for each in running(tmp_path)] == ["there"]
        assert [file.name for file in folder.iterdir()] == ["there.json"]
        child.kill()
        child.wait()
    assert list(running(tmp_path)) == []


def test_memory_counts_the_processes_below() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytes(range(256)) * 400_000; print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert (rss_bytes(child.pid) or 0) > 100_000_000
        child.communicate(b"\n")
    assert rss_bytes(2**22 - 3) is None


def test_a_folder_that_cannot_be_written_is_nobody_s_trouble(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    mine = Presence(tmp_path)
    mine.tell(seen("u", "m", 1.0, None))
    mine.leave()
    assert list(running(tmp_path / "none")) == []


def test_processes_are_told_apart_without_proc(tmp_path: Path, monkeypatch: object) -> None:
    presence_proc, presence.PROC = presence.PROC, tmp_path / "none"
    try:
        assert began(os.getpid()) == "there" and began(2**22 - 3) == ""
        assert rss_bytes(os.getpid()) is None
    finally:
        presence.PROC = presence_proc


def test_what_is_told_can_be_read_by_a_later_redline() -> None:
    told = msgspec.json.encode(Seen(pid=1, began="2", url="u", model="m", started=3.0))
    later = told[:-1] + b',"unheard_of":1}'
    assert msgspec.json.decode(later, type=Seen).pid == 1
