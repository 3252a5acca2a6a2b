"""Leases: held as long as their process lives, free at the moment of its death, and never two for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from redline.server.lease import Lease

SOURCE = str(Path(__file__).parents[3] / "src")
HOLDER = f"""
import sys
sys.path.insert(0, {SOURCE!r})
from pathlib import Path
from redline.server.lease import Lease
lease = Lease(Path(sys.argv[1]))
print(lease.id, flush=True)
sys.stdin.readline()
"""


def test_a_lease_dies_with_its_process_and_not_before(tmp_path: Path) -> None:
    mine = Lease(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        assert mine.is_held(theirs) and mine.is_held(theirs), "looking takes nothing away"
        other.kill()
        other.wait()
    assert not mine.is_held(theirs) and not mine.is_held(theirs)
    assert [file.stem for file in tmp_path.iterdir()] == [mine.id]


def test_a_lease_is_released_in_order(tmp_path: Path) -> None:
    one, two = Lease(tmp_path), Lease(tmp_path)
    assert one.is_held(one.id) and one.is_held(two.id) and two.is_held(one.id)
    one.release()
    one.release()
    assert not two.is_held(one.id) and not one.is_held(one.id) and one.is_held(two.id)
    two.release()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_only_the_own_lease_is_held() -> None:
    mine = Lease(None)
    assert mine.is_held(mine.id) and not mine.is_held("another")
    mine.sweep()
    mine.release()


def test_sweeping_takes_what_nobody_holds_and_is_old(tmp_path: Path) -> None:
    mine = Lease(tmp_path)
    for name in ("old", "young"):
        (tmp_path / f"{name}.lock").touch()
    for name in ("old", mine.id):
        os.utime(tmp_path / f"{name}.lock", (1, 1))
    mine.sweep()
    assert {file.stem for file in tmp_path.iterdir()} == {mine.id, "young"} and mine.is_held(mine.id)
