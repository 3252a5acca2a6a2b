"""`redline bench start`: from the start of a process to its first token, stage by stage.

The model's files are read once before, so that the disk's cache is as warm as it gets. Then a process starts with a cache of
compiled kernels that is empty, and some more with what that one left there. Each is a process of its own; the cache is a folder
that is thrown away, never the user's. Open `measure` first.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redline import env
from redline.bench import report
from redline.bench.first_token import FIRST_TOKEN, PROMPT
from redline.bench.load import Planned, Target, one_by_one
from redline.bench.report import Column, Voice
from redline.bench.served import served
from redline.checkpoint import random, store
from redline.engine.stages import LOADING, described
from redline.errors import EngineDead

CHILD = "redline.bench.first_token"
LONGEST_S = 900.0
_BLOCK = 16 << 20

COLUMNS = (
    Column("run", "run"),
    Column("seconds", "seconds", ".2f"),
    Column("spread", "spread", "share"),
    Column("load_gb_s", "loads GB/s", ".1f"),
    Column("told", "stages"),
)


def measure(model: str, engine: Mapping[str, Any], voice: Voice, *, repeats: int, with_server: bool) -> report.Document:
    """Start once with an empty cache and `repeats` times with a warm one; `with_server` does the same over HTTP."""
    options = dict(engine)
    if not model.startswith(random.PREFIX):  # the throw-away cache would hide a model that was pulled
        path = store.resolve(model, revision=options.pop("revision", None))
        model = str(path)
        voice.tell(_read(path))
    else:
        voice.tell("ceiling: none, random weights are made, not read")
    rows: list[report.Row] = []
    about: dict[str, Any] = {}
    for name, one in (("offline", _offline), ("serve", _served)) if with_server else (("offline", _offline),):
        with tempfile.TemporaryDirectory(prefix="redline-bench-") as cache:
            cold = one(model, options, cache)
            voice.hint(f"{name}, empty cache: {cold['seconds']:.2f} s")
            warm = []
            for number in range(repeats):
                warm.append(one(model, options, cache))
                voice.hint(f"{name}, warm cache, {number + 1} of {repeats}: {warm[-1]['seconds']:.2f} s")
        about = about or {"device": cold.get("device"), "dtype": cold.get("dtype"), "ceilings": None}
        rows += [_row(f"{name}, empty cache", [cold]), _row(f"{name}, warm cache", warm)]
    voice.tell(report.table(rows, COLUMNS))
    return report.document("start", model, about=about, options={**engine, "repeats": repeats}, rows=rows)


def _read(path: Path) -> str:
    """Read every file of a model once; the ceiling of a start from here on is this machine's memory, not its disk."""
    began, total, buffer = time.monotonic(), 0, bytearray(_BLOCK)
    for file in [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file()):
        with open(file, "rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total += count
    seconds = time.monotonic() - began
    return (
        f"ceiling: {total / 1e9:.2f} GB of files, read once before at {total / max(1e-9, seconds) / 1e9:.1f} GB/s by one thread"
    )


def _offline(model: str, options: Mapping[str, Any], cache: str) -> dict[str, Any]:
    """One process through the offline door. Raises EngineDead where it fails."""
    command = [sys.executable, "-m", CHILD, model, json.dumps(options)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            env=env.for_child(**_caches(cache)),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineDead(f"no first token within {LONGEST_S:g} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise EngineDead(f"the start failed with exit code {done.returncode}: {said[-1] if said else 'it said nothing'}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "seconds": sum(told["stages"].values()), "process_s": time.monotonic() - began}


def _served(model: str, options: Mapping[str, Any], cache: str) -> dict[str, Any]:
    """One server, and its first token over HTTP."""
    with served(model, options, **_caches(cache)) as server:
        (seen,) = asyncio.run(one_by_one(Target(server.url), [Planned(0.0, PROMPT, 1)]))
    if seen.failure:
        raise EngineDead(f"the first request failed: {seen.failure}")
    first = seen.events[0] - seen.due
    return {"seconds": server.ready_s + first, "stages": {"ready": server.ready_s, FIRST_TOKEN: first}}


def _caches(folder: str) -> dict[str, str]:
    """Where compiled kernels are kept: redline's own cache, and the driver's."""
    return {"REDLINE_CACHE": folder, "CUDA_CACHE_PATH": f"{folder}/driver"}


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> report.Row:
    """The middle run in full, the others' seconds beside it."""
    seconds = [run["seconds"] for run in runs]
    middle = report.middle(seconds)
    assert middle is not None
    typical = min(runs, key=lambda run: abs(run["seconds"] - middle))
    stages = typical["stages"]
    file_bytes, loading = typical.get("file_bytes") or 0, stages.get(LOADING) or 0.0
    return {
        "run": name,
        "seconds": report.short(middle),
        "spread": report.spread(seconds),
        "stages": {stage: report.short(taken) for stage, taken in stages.items()},
        "told": described(stages),
        "load_gb_s": report.short(file_bytes / loading / 1e9 if file_bytes and loading else None),
        "file_bytes": file_bytes,
        "samples_s": [report.short(value) for value in seconds],
    }
