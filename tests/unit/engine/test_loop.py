"""The loop on a real small model and on a stub: what a request leaves behind when it ends at an awkward moment, what becomes
of a step that fails, and how tokens are told."""

from __future__ import annotations

from typing import Any

import pytest

from redline import SamplingParams
from redline.config import EngineConfig
from redline.engine.admission import Limits
from redline.engine.build import build
from redline.engine.draft import Plan
from redline.engine.loop import MIXED_STEP_S, Loop
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.runner import Launched, StepResult
from redline.engine.scheduler import Scheduler
from redline.engine.stats import Accounts
from redline.hardware.ceilings import Ceilings
from redline.hardware.power import PowerMeter, PowerSource
from redline.plan.meter import USUAL_SHARE, Meter
from redline.plan.roofline import StepWork
from redline.shapes import known
from redline.types import Request


def test_prompt_scores_of_a_request_that_ends_while_its_prompt_is_computed_are_dropped() -> None:
    config = EngineConfig.from_options(model="random:tiny-llama", num_threads=1, num_pages=32, max_model_len=64)
    engine = build(config)
    try:
        loop = engine.loop
        loop.submit(Request(id="a", prompt=[1, 2, 3], sampling=SamplingParams(prompt_logprobs=2, max_tokens=8)))
        loop.step()
        loop.cancel("a")
        while loop.has_work:
            loop.step()
        assert [chunk.finish for chunk in loop.take()] == ["abort"]
        assert len(loop._prompt_scores) == 0
    finally:
        engine.close()


class StubRunner:
    """A device on which every token is 7, until `error` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.relieved = 0

    def launch(self, plan: Plan, *, follows: bool = False) -> Launched:
        error, result = self.error, StepResult([7] * plan.num_samples, None, [], 0.001, 0.0)

        def wait() -> StepResult:
            if error is not None:
                raise error
            return result

        return Launched(plan, wait, lambda: True)

    def relieve(self, error: BaseException) -> bool:
        self.relieved += isinstance(error, MemoryError)
        return isinstance(error, MemoryError)

    def counters(self) -> dict[str, float]:
        return {"graphs_captured": 3.0}


def stub_loop(ceilings: Ceilings | None = None, power: PowerMeter | None = None) -> tuple[Loop, Any]:
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=512, max_model_len=4096, max_queued_requests=10)
    pool = PagePool(400, 16)
    runner: Any = StubRunner()
    meter = Meter(known("tiny-llama"), "float32", 4, 4, ceilings, 0)
    return Loop(runner, Scheduler(limits, pool, PrefixCache(pool), [0]), Accounts(meter, window=0, power=power)), runner


def asked(name: str, prompt: int = 4, answer: int = 8, tokens_per_chunk: int = 1) -> Request:
    sampling = SamplingParams(max_tokens=answer, seed=0)
    return Request(id=name, prompt=[1 + len(name)] * prompt, sampling=sampling, tokens_per_chunk=tokens_per_chunk)


def test_the_energy_counter_is_read_once_the_device_has_something_to_do() -> None:
    """An H200's driver takes 2.7 ms for it, as long as half of a first token of an 8B."""
    read: list[bool] = []  # for each time the counter was read: whether a step had been started
    seconds = [0.0]

    def joules() -> float:
        read.append(bool(launched))
        return 100.0 * seconds[0]

    launched: list[Plan] = []
    loop, runner = stub_loop(power=PowerMeter(PowerSource(joules, None), lambda: seconds[0]))
    launch = runner.launch
    runner.launch = lambda plan, **more: (launched.append(plan), launch(plan, **more))[1]
    for name in ("a", "b"):
        read.clear()
        launched.clear()
        seconds[0] += 3.0  # without a request
        loop.submit(asked(name, answer=2))
        loop.submit(asked(name + "2", answer=2))
        assert read == []
        loop.step()
        assert read == [True]
        while loop.has_work:
            loop.step()
        assert read == [True], "nor does the end of a short answer wait for it"
    assert loop.stats.more["idle_joules_per_second"] == pytest.approx(100.0)


def test_a_step_without_memory_ends_its_requests_and_halves_the_budget_of_later_ones() -> None:
    loop, runner = stub_loop()
    loop.submit(asked("a"))
    loop.step()
    runner.error = MemoryError("no memory")
    for _ in range(3):
        loop.step()
    assert [chunk.finish for chunk in loop.take()][-1] == "error" and not loop.has_work
    assert runner.relieved == 2, "the step that was in flight meanwhile failed as well"
    assert loop.stats.more["token_budget_shrinks_total"] == 1.0
    assert loop.stats.more["graphs_captured"] == 3.0
    runner.error = ValueError("something else")
    loop.submit(asked("b"))
    while loop.has_work:
        loop.step()
    assert loop.stats.more["token_budget_shrinks_total"] == 1.0
    runner.error = None
    loop.submit(asked("long", prompt=1000))
    loop.step()
    assert loop.in_flight is not None and loop.in_flight.num_tokens == 256
    while loop.has_work:
        loop.step()
    assert loop.take()[-1].finish == "length"
    loop.check()


@pytest.mark.parametrize(("device", "most"), [("cuda:0", 100), ("cpu", 511)])
def test_prompts_hold_up_answers_on_a_gpu_for_a_bounded_time_once_it_is_measured(device: str, most: int) -> None:
    loop, _ = stub_loop()
    loop.submit(asked("reader", answer=1000))
    loop.step()
    token_s, _ = Meter(
        known("tiny-llama"), "float32", 4, 4, Ceilings(device, "", 1e9, {"float32": 1.0}, ""), 0
    ).prompt_seconds() or (0, 0)
    loop.meter.ceilings = Ceilings(device, "a slow one", 1e9, {"float32": 100 * token_s / MIXED_STEP_S}, "")
    loop.submit(asked("long", prompt=2000))
    loop.step()
    assert loop.in_flight is not None
    found = loop.in_flight.num_tokens - 1
    assert found == most if device == "cpu" else 64 <= found <= most


def test_prompts_that_are_slower_than_promised_come_in_smaller_chunks() -> None:
    """The bound is in seconds, and what it takes a token to be follows the steps that had about so many."""
    loop, _ = stub_loop()
    loop.meter.ceilings = Ceilings("cuda:0", "a slow one", 1e15, {"float32": 1e9}, "")
    least = loop.meter.prompt_seconds(1.0)
    assert least is not None
    loop.submit(asked("reader", answer=1000))
    usual = loop._scheduler.bound
    assert usual is not None and usual.token_s == pytest.approx(least[0] / USUAL_SHARE)
    work = StepWork.of([(9, 1), (0, usual.tokens(0, MIXED_STEP_S))], logit_rows=2)
    limit = loop.meter.limit_s(work)
    assert limit is not None
    for _ in range(10):
        loop.meter.step(loop.meter.due(work), 4 * limit, 0.0, mixed=True)
    loop.submit(asked("long", prompt=2000))
    bound = loop._scheduler.bound
    assert bound is not None and bound.token_s == pytest.approx(4 * least[0]) and bound.pair_s == pytest.approx(4 * least[1])
    loop.submit(asked("longer", prompt=2000))
    assert loop._scheduler.bound is bound, "nothing was learned since"


def test_gathered_tokens_are_all_told_and_counted_whatever_ends_the_request() -> None:
    loop, _ = stub_loop()
    loop.submit(asked("a", answer=20, tokens_per_chunk=8))
    loop.submit(asked("bb", answer=20, tokens_per_chunk=8))
    for _ in range(8):
        loop.step()
    loop.cancel("bb")
    while loop.has_work:
        loop.step()
    chunks = loop.take()
    ends = {chunk.id: chunk for chunk in chunks if chunk.finish}
    told = {name: [len(c.tokens) for c in chunks if c.id == name] for name in ("a", "bb")}
    assert told["a"] == [1, 8, 8, 3] and ends["a"].finish == "length" and ends["bb"].finish == "abort"
    assert told["bb"] == [1, 6]
    for name, end in ends.items():
        assert end.usage is not None and end.usage.completion_tokens == sum(told[name])
    assert loop.stats.generation_tokens == sum(told["a"] + told["bb"])
