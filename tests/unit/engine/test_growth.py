"""Admission that looks ahead: nobody starts whose pages others would have to give up later."""

from __future__ import annotations

import pytest

from fakes import EOS, FakeDevice, FakeLoop
from redline.engine.admission import Limits
from redline.engine.growth import Growth
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.request import Sequence
from redline.engine.scheduler import Scheduler
from redline.types import Request, SamplingParams

SIZE = 4


def run(requests: list[Request], pages: int, growth: Growth | None) -> tuple[int, int, int]:
    """(steps, tokens computed, preemptions) until all have ended."""
    pool = PagePool(pages, SIZE)
    limits = Limits(max_num_seqs=32, max_num_batched_tokens=64, max_model_len=200, max_queued_requests=1000)
    scheduler = Scheduler(limits, pool, PrefixCache(pool), [EOS], growth)
    loop = FakeLoop(scheduler, FakeDevice(pages, SIZE), lag=1)
    for request in requests:
        scheduler.add(request)
    loop.run()
    scheduler.check()
    stats = scheduler.stats()
    return stats.steps, stats.tokens_planned, stats.preemptions


def crowd(count: int, prompt: int, answer: int, *, ignore_eos: bool = True) -> list[Request]:
    sampling = SamplingParams(max_tokens=answer, ignore_eos=ignore_eos)
    return [Request(id=str(i), prompt=[1000 + i, *range(2, prompt + 1)], sampling=sampling) for i in range(count)]


def test_known_lengths_are_never_preempted() -> None:
    """Twice as many as fit: they start one after the other as others end, and nothing is computed twice."""
    requests = crowd(24, 12, 40)
    steps, computed, preempted = run(requests, 12 * 13, Growth(SIZE))
    _, greedy_computed, greedy_preempted = run(requests, 12 * 13, None)
    assert preempted == 0 < greedy_preempted
    assert computed == 24 * (12 + 40 - 1) < greedy_computed
    assert steps < 130  # twice 40, and the prompts: two waves of twelve


def test_as_many_run_as_will_fit() -> None:
    """Looking ahead leaves no room unused that could be used: short answers start beside long ones that will grow later."""
    long, short = crowd(6, 4, 100), crowd(40, 4, 8)
    short = [Request(id=f"s{r.id}", prompt=[5000 + i, 2, 3, 4], sampling=r.sampling) for i, r in enumerate(short)]
    pages = 6 * 26 + 4  # four pages more than the long ones take at their end
    steps, _, preempted = run([*long, *short], pages, Growth(SIZE))
    assert preempted == 0
    assert steps < 125  # the long ones alone take 104


def test_nothing_is_held_back_before_lengths_are_known() -> None:
    """Answers that may end at once start as before; what ends teaches how long they become."""
    growth = Growth(SIZE)
    requests = crowd(24, 12, 40, ignore_eos=False)
    assert run(requests[:4], 400, growth)[2] == 0
    assert all(growth.remaining(sequence) == 0 for sequence in _sequences(requests[:1]))
    for sequence in _sequences(requests[:16]):
        sequence.tokens.extend([1] * 20)
        sequence.finish = "stop"
        growth.ended(sequence)
    (fresh,) = _sequences(requests[:1])
    assert growth.remaining(fresh) == pytest.approx(20, abs=16)


def _sequences(requests: list[Request]) -> list[Sequence]:
    return [Sequence(r, 0, (0, 0.0, i), len(r.prompt) + 40, frozenset({EOS}), parent=None) for i, r in enumerate(requests)]


def test_the_first_of_all_always_starts() -> None:
    """However long its answer may become: a pool that holds one request serves one at a time."""
    _, _, preempted = run(crowd(5, 8, 60), 17, Growth(SIZE))
    assert preempted == 0
