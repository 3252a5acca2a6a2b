"""What steps took outlives the process: the second start begins where the first ended, and anew wherever that no longer counts."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeDevice, FakeLoop
from redline.engine.admission import Limits
from redline.engine.pages import PagePool
from redline.engine.runner import StepResult
from redline.engine.scheduler import Scheduler
from redline.engine.stats import Accounts
from redline.hardware import Ceilings, Cpu, Gpu, Machine
from redline.hardware.ceilings import identify
from redline.plan import corrections, efficiency
from redline.plan.contract import FEW, LEAST_BAR, RECENT, Contract, Kept, Learned
from redline.plan.corrections import EVERY_S, Corrections, Keeper, Shelf, Subject, load, of_device
from redline.plan.meter import Meter
from redline.plan.place import Place, here
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import Load, Predictor
from redline.plan.promise import promiser
from redline.plan.roofline import StepWork
from redline.plan.split import Layout
from redline.shapes import known
from redline.types import Request, SamplingParams

SHAPE, DTYPE = known("llama-3.2-1b"), "bfloat16"
GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580", 700.0, 700.0, 1980, 3201)
MACHINE = Machine(Cpu("a cpu", 2, ("avx2",)), (GPU,), 16 << 30, 8 << 30)
CEILINGS = Ceilings("cuda:0", "NVIDIA H200", 4.59e12, {"bfloat16": 766e12}, "2026-01-01T00:00:00+00:00")
SLOW = 1.5
ONE = Layout()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Start:
    """One process of an engine on the fake device, which takes some multiple of what is promised."""

    def __init__(self, folder: Path, machine: Machine = MACHINE, ceilings: Ceilings = CEILINGS, **subject: Any) -> None:
        self.promised = promiser(SHAPE, machine, "cuda:0", DTYPE)(ceilings)
        self.meter = Meter(SHAPE, DTYPE, 2, 2, ceilings, 0, "", promiser(SHAPE, machine, "cuda:0", DTYPE))
        fields: dict[str, Any] = {"shape": SHAPE, "weights": DTYPE, "kv": DTYPE} | subject
        self.clock, self.subject = Clock(), Subject(identify(machine, "cuda:0"), **fields)
        self.keeper = Keeper(self.subject, "a model", self.meter, folder, self.clock)
        self.keeper.begin()

    @property
    def contract(self) -> Contract:
        return self.meter.contract

    def run(self, slow: float = SLOW, answer: int = 60) -> Start:
        """Three requests, from their prompts to their last tokens."""
        limits = Limits(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=400, max_queued_requests=8, max_position=400)
        loop = FakeLoop(Scheduler(limits, PagePool(128, 16), None, ()), FakeDevice(128, 16))
        accounts = Accounts(self.meter, window=0)
        for number in range(3):
            sampling = SamplingParams(max_tokens=answer, ignore_eos=True)
            loop.scheduler.add(Request(id=str(number), prompt=[1 + number] * 150, sampling=sampling))
        while not loop.idle:
            if (plan := loop.step()) is not None:
                promised = self.promised(plan.work(0))
                assert promised is not None
                accounts.step(plan, accounts.due(plan), StepResult([], None, [], slow * promised.seconds, 0.0))
        return self

    def kept(self) -> dict[tuple[str, int], Kept]:
        return {(kept.doing, kept.tokens_from): kept for kept in self.contract.kept()}


def taught(folder: Path) -> Start:
    """A first process that has ended."""
    first = Start(folder).run()
    first.keeper.close()
    return first


def expected(start: Start, rows: int = 3) -> tuple[float, float]:
    """What is expected of a decode step, over the promise, and its bar."""
    work = StepWork.of([(170, 1)] * rows, logit_rows=rows)
    limit, promised = start.meter.limit_s(work), start.promised(work)
    assert limit is not None and promised is not None
    told = start.contract.expected("decode", work, limit)
    return told.seconds / promised.seconds, told.bar


def test_the_second_start_begins_with_the_ratio_of_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = taught(tmp_path)
    assert {doing for doing, _ in first.kept()} == {"decode", "prefill", "mixed"} and expected(first)[0] == pytest.approx(
        SLOW, rel=0.01
    )
    caplog.clear()  # of what the first start had to say, if somebody listens to information
    with caplog.at_level(logging.INFO):
        second = Start(tmp_path)
        assert expected(second) == (pytest.approx(expected(first)[0], rel=1e-3), expected(first)[1])
        second.run()
    steps = sum(kept.steps for kept in first.contract.kept() if kept.steps >= FEW)
    (line,) = caplog.messages
    assert line.startswith(f"forecasts are corrected by {steps} steps measured here on 20"), "and what was known is no news"
    kept = second.kept()[("decode", 2)]
    assert (
        kept.deviations == 0
        and kept.steps_before == first.kept()[("decode", 2)].steps
        and kept.correction == pytest.approx(SLOW, rel=0.01)
    )
    assert kept.error == pytest.approx(SLOW - 1, rel=0.01) and kept.corrected_error < 0.01
    second.keeper.close()
    (found,) = of_device(second.subject.identity, CEILINGS, tmp_path)
    assert found.steps == steps + sum(kept.steps for kept in second.contract.kept() if kept.steps_before or kept.steps >= FEW)


def test_what_was_learned_is_told_before_the_first_step(tmp_path: Path) -> None:
    first, second = taught(tmp_path), Start(tmp_path)
    before, kept = first.kept()[("decode", 2)], second.kept()[("decode", 2)]
    assert (kept.steps, kept.deviations, kept.steps_before) == (0, 0, before.steps) and second.contract.revision == 1
    for name in ("promised_s", "measured_s", "correction", "bar", "promised_bar", "error"):
        assert getattr(kept, name) == pytest.approx(getattr(before, name), rel=1e-2), name


def test_another_speed_than_the_kept_one_is_counted_logged_once_and_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taught(tmp_path)
    second = Start(tmp_path)
    with caplog.at_level(logging.INFO):
        second.run(slow=1.0, answer=100)
    assert second.kept()[("decode", 2)].deviations >= RECENT // 2, "until the median has moved"
    assert len([line for line in caplog.messages if line.startswith("decode steps of 2 to 3 tokens take 0.67 times")]) == 1
    assert expected(second)[0] == pytest.approx(1.0, rel=0.01)


def test_what_the_device_state_the_model_or_the_curves_change_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught(tmp_path)
    for change in ({"power_limit_w": 400.0}, {"driver": "590"}, {"max_sm_mhz": 1500}, {"uuid": "GPU-2"}):
        machine = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, **change),))
        assert expected(Start(tmp_path, machine))[0] == pytest.approx(1.0, rel=0.01), change
    for subject in (
        {"weights": "float16"},
        {"kv": "fp8"},
        {"shape": dataclasses.replace(SHAPE, num_layers=17)},
        {"layout": Layout(2)},
        {"ways": (("enforce_eager", "True"),)},
    ):
        assert Start(tmp_path, **subject).contract.kept() == [], subject
    assert Start(tmp_path, ceilings=dataclasses.replace(CEILINGS, measured_at="2026-01-02T00:00:00+00:00")).kept() == {}
    assert Start(tmp_path, shape=dataclasses.replace(SHAPE, norm_offset=1.0)).kept() != {}, "no other speed"
    moved = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, index=0, free_bytes=1),))
    assert expected(Start(tmp_path, moved))[0] == pytest.approx(SLOW, rel=0.01), "whose memory is in use is no other card"
    monkeypatch.setattr(efficiency, "HOPPER", dataclasses.replace(efficiency.HOPPER, source="other words"))
    corrections._version.cache_clear()
    assert Start(tmp_path).kept() != {}
    monkeypatch.setattr(efficiency, "HOPPER", dataclasses.replace(efficiency.HOPPER, error=0.11))
    corrections._version.cache_clear()
    assert Start(tmp_path).kept() == {} and of_device(identify(MACHINE, "cuda:0"), CEILINGS, tmp_path) == []
    monkeypatch.undo()
    corrections._version.cache_clear()
    assert Start(tmp_path).kept() != {}


def test_it_is_written_in_idle_moments_a_minute_apart_and_at_the_end(tmp_path: Path) -> None:
    start, file = Start(tmp_path), None
    start.run()
    start.keeper.idle()
    assert list(tmp_path.iterdir()) == []
    start.clock.now += EVERY_S
    start.keeper.idle()
    (file,) = tmp_path.iterdir()
    first = file.read_bytes()
    start.clock.now += 10 * EVERY_S
    file.write_bytes(b"mine")
    start.keeper.idle()
    start.keeper.close()
    assert file.read_bytes() == b"mine", "nothing is new"
    start.run()
    start.keeper.idle()
    assert file.read_bytes() == b"mine", "it looked just now"
    start.keeper.close()
    assert len(file.read_bytes()) >= len(first) and load(start.subject, CEILINGS, tmp_path) is not None


def test_nothing_is_written_without_ceilings_or_steps(tmp_path: Path) -> None:
    start = Start(tmp_path)
    start.keeper.close()
    start.meter.ceilings = None
    start.meter.step(start.meter.due(StepWork.of([(9, 1)], logit_rows=1)), 0.1, 0.0)
    start.keeper.close()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from redline.hardware import ceilings
replace, at = os.replace, sys.argv[2]
def dump(record, file, **_):
    file.write('{"model": "half of')
    file.flush()
    os._exit(9)
def killed(one, other):
    if at == "after":
        replace(one, other)
    os._exit(9)
if at == "writing":
    ceilings.json.dump = dump
os.replace = killed
import test_corrections
test_corrections.Start(Path(sys.argv[1])).run(slow=2.0, answer=150).keeper.close()
"""


@pytest.mark.parametrize(("at", "ratio"), [("writing", SLOW), ("before", SLOW), ("after", 2.0)])
def test_a_kill_leaves_the_old_file_or_the_new_one(at: str, ratio: float, tmp_path: Path) -> None:
    taught(tmp_path)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], timeout=60, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 9
    assert expected(Start(tmp_path))[0] == pytest.approx(ratio, rel=0.01)
    assert len(of_device(identify(MACHINE, "cuda:0"), CEILINGS, tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "\udcff" + text,
        lambda text: text.replace('"decode"', '"dances"'),
        lambda text: text.replace('"ratios": [', '"ratios": [NaN, '),
        lambda text: text.replace('"ratios": [', '"ratios": [1e999, '),
        lambda text: text.replace('"ratios": [', '"ratios": [' + 40 * "0.1, "),
        lambda text: text.replace('"promised_s": ', '"promised_s": -'),
        lambda text: text.replace('"size": ', '"size": 9'),
    ],
)
def test_a_broken_file_costs_one_line_and_is_written_over(change: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taught(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(change(file.read_text()).encode(errors="surrogateescape"))
    caplog.clear()
    start = Start(tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"{file} is ignored" in record.message and start.kept() == {}
    shelf = Shelf(start.subject.identity, CEILINGS, tmp_path)
    assert [shelf.find(SHAPE, DTYPE, DTYPE, Layout()) for _ in range(5)] == [None] * 5 and len(caplog.records) == 2
    start.run().keeper.close()
    assert expected(Start(tmp_path))[0] == pytest.approx(SLOW, rel=0.01)


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    start = Start(tmp_path / "file" / "folder")
    for _ in range(3):
        start.run().keeper.close()
    assert [record.levelname for record in caplog.records if "not kept" in record.message] == ["WARNING"]


def record(*kinds: Learned) -> Corrections:
    return Corrections("m", DTYPE, DTYPE, "one chip", {}, "", "", "2026-01-02T03:04:05+00:00", kinds)


def test_the_bar_is_what_was_seen_and_widens_with_the_distance() -> None:
    quiet = Learned("decode", 3, 500, 1e-3, 1.2, 0.12, (0.4,) * RECENT)
    noisy = Learned("mixed", 9, 20, 1e-2, 1.2, 0.12, tuple(0.05 * (-1) ** i * i for i in range(20)))
    found = record(quiet, noisy)
    assert found.of("prefill", 4, 1e-3, 0.12) is None and found.steps == 520 and found.date == "2026-01-02"
    like = found.of("decode", 5, 1e-3, 0.12)
    assert like is not None and like.factor == pytest.approx(1.4918, rel=1e-4) and like.bar == LEAST_BAR
    for tokens, promised_s, bar in (
        (8, 1e-3, 0.06),
        (64, 1e-3, 0.12),
        (5, 4e-3, 0.06),
        (5, 0.1e-3, 0.12),
        (5, 1.9e-3, LEAST_BAR),
    ):
        far = found.of("decode", tokens, promised_s, 0.12)
        assert far is not None and far.factor == like.factor and far.bar == pytest.approx(bar, abs=1e-3), tokens
    wide = found.of("mixed", 300, 1e-2, 0.12)
    assert wide is not None and wide.bar > 0.5, "never below what was seen, however good the promise"


def place(folder: Path, ceilings: Ceilings = CEILINGS) -> Place:
    learned = Shelf(identify(MACHINE, "cuda:0"), ceilings, folder)
    return dataclasses.replace(here(MACHINE, "cuda:0", ceilings), learned=learned)


def predictor(at: Place, weights: str = DTYPE, layout: Layout = ONE) -> Predictor:
    return Predictor(SHAPE, at, weight_format(weights), kv_format(DTYPE), layout, tokens=32)


def test_a_plan_follows_what_was_measured_and_its_bars_narrow(tmp_path: Path) -> None:
    first, plain = taught(tmp_path), predictor(here(MACHINE, "cuda:0", CEILINGS))
    planned = predictor(place(tmp_path))
    assert planned.corrections is not None and plain.corrections is None
    for prompts, decodes in (((), 3), ([(0, 32)], 0), ([(0, 29)], 2)):
        step, before = planned.step(prompts, decodes, 171), plain.step(prompts, decodes, 171)
        work = StepWork.of([*prompts, *[(170, 1)] * decodes], logit_rows=len(prompts) + decodes)
        assert step.seconds.value == pytest.approx(SLOW * plain.of_work(work).seconds.value, rel=0.01)
        assert step.seconds.limit == before.seconds.limit and step.seconds.error < before.seconds.error
        assert sum(part.seconds for part in step.parts) == pytest.approx(step.seconds.value)
    work = StepWork.of([(170, 1)] * 3, logit_rows=3)
    limit = first.meter.limit_s(work)
    assert limit is not None
    assert planned.decode(3, 171).seconds.value == pytest.approx(first.contract.expected("decode", work, limit).seconds, rel=1e-3)
    assert planned.of_work(work) == plain.of_work(work), "what corrections were measured against"
    load, far = Load(3, 140, 60), Load(64, 4096, 60)
    assert planned.steady(load).itl.error < planned.steady(far).itl.error == pytest.approx(plain.error)
    better, joules = planned.steady(load), (planned.joules_per_token(load), plain.joules_per_token(load))
    assert better.tokens_per_s.value < plain.steady(load).tokens_per_s.value and joules[0] is not None and joules[1] is not None
    assert joules[0].error < joules[1].error
    for other in (predictor(place(tmp_path), "fp8"), predictor(place(tmp_path), layout=Layout(2))):
        assert other.corrections is None, "nothing was measured of it"


def test_a_step_that_was_faster_than_the_limit_is_planned_at_the_limit(tmp_path: Path) -> None:
    Start(tmp_path).run(slow=0.5).keeper.close()
    step, plain = predictor(place(tmp_path)).decode(3, 171), predictor(here(MACHINE, "cuda:0", CEILINGS)).decode(3, 171)
    assert step.seconds.value == step.seconds.limit == plain.seconds.limit == step.seconds.low
    for part, was in zip(step.parts, plain.parts, strict=True):
        assert part.limit_s == pytest.approx(part.seconds) and part.limit_s == was.limit_s
