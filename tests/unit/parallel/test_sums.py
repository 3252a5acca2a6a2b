"""Sums over processes are measured for real, here over two that sum on the CPU, and what goes wrong becomes a reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from redline.errors import ConfigError
from redline.hardware.survey import Samples
from redline.parallel import all_reduce_probe, probes
from redline.parallel.probes import Group


def test_two_processes_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    with Group(2, "gloo") as group:
        group.wait()
        large, small = probes.probes(group)  # no GPU: nothing is sent
        assert (large.unit, small.unit) == ("bytes/s", "s") and large.run is not None and small.run is not None
        rates, seconds = large.run(30.0), small.run(0.0)
        children = group._children
    assert len(rates.values) == len(seconds.values) == 8 and "gloo over 2 devices" in rates.how
    assert all(value > 0 for value in (*rates.values, *seconds.values))
    assert [child.returncode for child in children] == [0, 0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('no driver')", "did not start: no driver"),
        ("import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit('NCCL is missing')", "failed: NCCL is missing"),
        ("import time; print('ready', flush=True); time.sleep(60)", "took too long"),
        ("import sys; print('ready', flush=True); sys.stdin.readline(); print('{}')", "failed"),
    ],
)
def test_processes_that_fail_are_ended_and_say_why(
    code: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_rank.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(probes, "_CHILD", "broken_rank")
    began = time.monotonic()
    with Group(2, "gloo") as group:
        group.wait(20.0)
        for what in ("rates", "seconds"):  # asked again, the same answer
            with pytest.raises(ConfigError, match=words):
                group.samples(what, 0.5)
        children = group._children
    assert all(child.poll() is not None for child in children) and time.monotonic() - began < 20
    assert not group._folder.exists()


def test_a_group_that_is_never_asked_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "patient_rank.py").write_text("import sys; print('ready', flush=True); sys.stdin.readline()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(probes, "_CHILD", "patient_rank")
    with Group(2, "gloo") as group:
        group.wait(20.0)
    assert all(child.returncode is not None for child in group._children)


def test_one_rank_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's own work, in this process."""
    monkeypatch.setattr(all_reduce_probe, "_CPU_LARGE_BYTES", 1 << 16)
    told = all_reduce_probe.measure(0, 1, "gloo", str(tmp_path / "meet"))
    assert len(told["rates"]) == len(told["seconds"]) == 8  # type: ignore[arg-type]


def test_multicast_is_off() -> None:
    assert probes._ENVIRONMENT["NCCL_NVLS_ENABLE"] == "0"


def test_what_is_sent_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two places of one memory, each copy said to take a second."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(probes, "free_bytes", lambda device: 1 << 24)
    monkeypatch.setattr(probes.timing, "on_device", lambda run, device, seconds: (run(), [1.0])[1])
    for direct, words in ((True, "peer copies"), (False, "through the host's memory")):
        monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda *devices, direct=direct: direct)
        assert probes.send(cpu, cpu, 1.0) == Samples([1 << 21], words)


def test_each_gpu_sends_to_the_next() -> None:
    made = list(probes.probes(Group(3)))
    assert [probe.name for probe in made] == ["all-reduce", "all-reduce, small", "send cuda:0 to cuda:1", "send cuda:1 to cuda:2"]
    assert [dict(probe.limits) for probe in made] == [{"link": 1.0}, {}, {"link": 1.0}, {"link": 1.0}]


def test_processes_that_cannot_be_started_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.sys, "executable", "/nowhere/python")
    with Group(2, "gloo") as group:
        group.wait()
        with pytest.raises(ConfigError, match="could not be started"):
            group.samples("rates", 1.0)
