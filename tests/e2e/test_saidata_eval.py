"""The evaluation from end to end with redline's own engine: a model that knows nothing still writes files that hold.

Random weights bound by the schema: whatever is right in the report comes from evidence and constraints alone, as promised.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from saidata.evaluate.gold import Gold
from saidata.evaluate.packed import Head, pack
from saidata.facts import Evidence
from saidata_making import gold, webthing

NAMES = ("webthing", "mailthing")


def _gold(name: str) -> Gold:
    return gold(
        name,
        configs=(f"/etc/{name}/{name}.conf",),
        commands=(f"/usr/sbin/{name}",),
        all_configs=(f"/etc/default/{name}",),
        licence="BSD-2-Clause",
    )


def _run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "saidata.cli.main",
        "eval",
        "--model",
        "random:tiny-llama",
        "--engine",
        "device=cpu",
        "--engine",
        "num_threads=1",
        "--files",
        "0",
    ]
    paths = ["--gold", str(folder / "gold.jsonl"), "--evidence", str(folder / "evidence.gz"), "--out", str(folder / "run")]
    return subprocess.run([*command, *paths, *more], capture_output=True, text=True, check=False)


def test_a_model_without_knowledge_writes_true_files_where_nothing_binds_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_bytes(b"".join(msgspec.json.encode(_gold(name)) + b"\n" for name in NAMES))
    known = tuple(part for name in NAMES for part in (name, f"{name}-common"))
    nothing = Evidence(name="quarrelfish", snapshot="s", not_checked={"apt": "no package goes by this name"})
    pack(tmp_path / "evidence.gz", Head("s", True, known), [*(webthing(name=name) for name in NAMES), nothing])
    gate = tmp_path / "gate.json"
    gate.write_text('{"at_least": {"schema_valid": 1, "precision": 1, "recall": 1, "licence_recall": 1, "abstention": 1}}')

    done = _run(tmp_path, "--variant", "saidata", "--variant", "free", "--gate", str(gate))
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode((tmp_path / "run/report.json").read_bytes())["variants"]
    assert found["saidata"]["files"] == found["free"]["files"] == 4
    assert found["saidata"]["measures"]["hallucinated_names"]["value"] == 0
    assert found["free"]["measures"]["schema_valid"]["value"] == 0

    again = _run(tmp_path, "--variant", "saidata", "--variant", "free")
    assert again.returncode == 0 and again.stdout == done.stdout
    other = _run(tmp_path, "--variant", "saidata")
    assert other.returncode == 2 and "another variants" in other.stderr
