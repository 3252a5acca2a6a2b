"""The commands on the index, as a person and a program use them, on an index of a small archive: no apt, no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import small_archive
from saidata.cli.main import main
from saidata.index import snapshots


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    small_archive.make(tmp_path).close()
    return tmp_path


def test_search_prints_and_explains(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "web", "server", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["lantern", "small", "web", "server"] and "2 other packages need it" in lines[1]
    assert main(["index", "search", "lantern", "--json", "--limit", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["candidates"][0]["package"] == "lantern" and document["candidates"][0]["version"] == "2.4.1-3"


def test_nothing_found_is_exit_3_and_no_query_is_exit_2(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "quarrelfish"]) == 3
    assert main(["search", "!"]) == 2
    assert main(["evidence", "quarrelfish"]) == 3
    assert "saidata search" in capsys.readouterr().out


def test_evidence_names_its_sources(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "lantern"]) == 0
    out = capsys.readouterr().out
    assert "lantern.service" in out and "[tinylinux one main Contents, lantern-common]" in out
    assert main(["evidence", "lantern", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {fact["kind"] for fact in document["facts"]} >= {"package", "unit", "config", "command"}
    assert main(["evidence", "lantern", "--provider", "yum"]) == 2


def test_show_list_and_diff(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = snapshots.names()[0]
    changed = small_archive.PACKAGES.replace("Version: 20.1-1", "Version: 20.2-1")
    small_archive.make(home, changed).close()
    assert main(["index", "show", "--check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["packages"] == 15 and document["version"] != old
    assert main(["index", "diff", old]) == 3
    assert "~ dock.io 20.1-1 -> 20.2-1" in capsys.readouterr().out
    assert main(["index", "use", old]) == 0
    assert main(["index", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["current"] == old
    assert main(["index", "diff", old, "--json"]) == 0


def test_export_and_import_to_another_home(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["index", "export", str(home / "carried.tgz")]) == 0
    monkeypatch.setenv("SAIDATA_HOME", str(home / "elsewhere"))
    assert main(["search", "lantern"]) == 2
    assert "saidata index import FILE" in capsys.readouterr().err
    assert main(["index", "import", str(home / "carried.tgz")]) == 0
    assert main(["search", "lantern"]) == 0
    (home / "carried.tgz").write_bytes((home / "carried.tgz").read_bytes()[:500])
    assert main(["index", "import", str(home / "carried.tgz")]) == 2
    assert main(["index", "import", str(home / "none.tgz")]) == 2
    assert main(["search", "lantern"]) == 0  # the index that was there still answers


def test_a_damaged_index_is_a_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (home / "index").glob("*.sqlite")
    file.write_bytes(file.read_bytes()[:-4096])
    assert main(["search", "lantern"]) == 2
    said = capsys.readouterr().err
    assert "cut short" in said and "saidata index build" in said and "Traceback" not in said


def test_reading_the_index_imports_neither_torch_nor_a_web_library(home: Path) -> None:
    program = (
        "import sys\nsys.modules['torch'] = None\nfrom saidata.cli.main import main\n"
        "code = main(['search', 'lantern']) or main(['evidence', 'lantern'])\n"
        "assert not {'httpx2', 'redline'} & set(sys.modules), sorted(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd(), timeout=60)
    assert done.returncode == 0, done.stderr
