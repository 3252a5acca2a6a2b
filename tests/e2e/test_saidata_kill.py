"""kill -9 of a batch at random moments: no file is lost, none is made twice, none is half-written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saidata.batch.archive import Archive
from saidata.batch.files import TEMPORARY
from saidata.batch.jobs import Jobs
from saidata.batch.store import Store
from saidata.format.document import Text
from saidata.format.schema import mistakes

HERE = Path(__file__).parent.parent
KILLS, SHORT_KILLS = 50, 3
NAMES, SHORT_NAMES = 300, 90


def child(store: Path, folder: Path, names: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "src")])}
    command = [sys.executable, str(HERE / "saidata_batch_child.py"), str(store), str(folder), str(names)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def sound(text: str) -> bool:
    return not mistakes(Text.parse(text, "file").value, strict=True)


@pytest.mark.soak
def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path, effort: int):
    kills, names = (KILLS, NAMES) if effort > 1 else (SHORT_KILLS, SHORT_NAMES)
    draw = random.Random(9)
    store, folder = tmp_path / "work.db", tmp_path / "out"
    done_before = 0
    for _ in range(kills):
        process = child(store, folder, names)
        assert process.stdout is not None
        for _ in range(draw.randrange(1, names // (kills + 2))):
            process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Store(store) as opened:
            job = Jobs(opened).job(1)
            archive = Archive(opened)
            for item in Jobs(opened).items(1, "done"):
                path = folder / item.name[:2] / item.name / "default.yaml"
                assert path.read_text() == archive.text(archive.version(item.name)), "what is done lies there whole"
                assert len(archive.history(item.name)) == 1 and item.tries == 1, "and was made once"
        for path in folder.rglob("*.yaml"):
            assert path.stat().st_size and path.read_text().endswith("\n")
        assert job.counts["done"] >= done_before and job.total == names and not job.counts["failed"]
        done_before = job.counts["done"]
    assert 0 < done_before < names, "every kill came in the middle of the work, or the test shows nothing"
    process = child(store, folder, names)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and told.splitlines()[-1] == "ends"
    assert len(told.splitlines()) == 2 + names - done_before, "what was done before is not done again"
    with Store(store) as opened:
        assert len(Jobs(opened).all()) == 1, "the same command goes on with the same job"
        job = Jobs(opened).job(1)
        assert job.counts == {"waiting": 0, "done": names, "kept": 0, "failed": 0}
        assert {len(Archive(opened).history(f"thing{number}")) for number in range(names)} == {1}
    files = sorted(folder.rglob("*.yaml"))
    assert len(files) == names and all(sound(path.read_text()) for path in files[:: 1 if effort > 1 else 20])
    assert not list(folder.rglob(TEMPORARY + "*")), "nothing half-written stays behind"
