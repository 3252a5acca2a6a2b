"""The scheduler's decisions one at a time; random traffic is in test_properties.py."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from fakes import EOS, FakeDevice, FakeLoop, expected_answer
from redline.engine.admission import Limits
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.scheduler import Plan, Scheduler
from redline.errors import InvalidRequest, Overloaded
from redline.types import Request, SamplingParams

SIZE = 4


def make_loop(
    pages: int = 64, rows: int = 8, budget: int = 32, *, cache: bool = True, lag: int = 1, queue: int = 100
) -> FakeLoop:
    pool = PagePool(pages, SIZE)
    limits = Limits(max_num_seqs=rows, max_num_batched_tokens=budget, max_model_len=200, max_queued_requests=queue)
    scheduler = Scheduler(limits, pool, PrefixCache(pool) if cache else None, [EOS])
    return FakeLoop(scheduler, FakeDevice(pages, SIZE), lag=lag)


def make_request(name: str, prompt: int | list[int] = 6, max_tokens: int | None = 4, **fields: Any) -> Request:
    """A request whose prompt, if given as a length, no other name shares. Ends by length unless `ignore_eos=False`."""
    own = {k: fields.pop(k) for k in ("priority", "deadline", "cache_salt", "arrival") if k in fields}
    tokens = [1 + sum(map(ord, name)), *range(2, prompt + 1)] if isinstance(prompt, int) else prompt
    sampling = SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **fields})
    return Request(id=name, prompt=tokens, sampling=sampling, **own)


def shape(plan: Plan | None) -> list[tuple[str, int, int, int]]:
    """(request, choice, start, count) of every entry."""
    assert plan is not None
    return [(e.sequence.request.id, e.sequence.index, e.start, e.count) for e in plan.entries]


def names(plan: Plan | None) -> set[str]:
    return {name for name, _, _, _ in shape(plan)} if plan is not None else set()


def prompt_that_stops(after: int) -> list[int]:
    """A prompt whose greedy answer meets the end token as its token number `after`."""
    for first in range(1, 100_000):
        answer, finish = expected_answer(make_request("p", [first], None, ignore_eos=False), 0, 200)
        if finish == "stop" and len(answer) == after:
            return [first]
    raise AssertionError("no such prompt")


def test_the_next_step_takes_a_token_the_host_does_not_know() -> None:
    loop = make_loop()
    loop.scheduler.add(make_request("a", 6))
    first, second = loop.scheduler.plan(), loop.scheduler.plan()
    assert shape(first) == [("a", 0, 0, 6)] and shape(second) == [("a", 0, 6, 1)]
    assert first is not None and second is not None
    assert first.entries[0].samples and first.entries[0].fresh and not second.entries[0].fresh
    sequence = first.entries[0].sequence
    assert (len(sequence.tokens), sequence.in_flight, sequence.length) == (6, 2, 8)
    [known] = loop.scheduler.apply(first, [9])
    assert (known.tokens, known.sample, known.finish, sequence.tokens[6:]) == ([9], 0, None, [9])


def test_an_end_by_length_computes_nothing_in_vain() -> None:
    loop = make_loop()
    loop.scheduler.add(make_request("a", 6, max_tokens=5))
    loop.run()
    assert loop.device.computed == 6 + 5 - 1 and loop.ends == {("a", 0): "length"}


def test_an_end_token_costs_one_step_and_its_result_is_ignored() -> None:
    loop = make_loop()
    loop.scheduler.add(make_request("a", prompt_that_stops(after=3), None, ignore_eos=False))
    loop.run()
    assert loop.ends == {("a", 0): "stop"} and loop.answers["a", 0][-1] == EOS and len(loop.answers["a", 0]) == 3
    assert loop.device.computed == 1 + 2 + 1


def test_stop_ids_end_it_and_min_tokens_and_ignore_eos_hold_them_back() -> None:
    prompt = prompt_that_stops(after=2)
    for fields, length in (({}, 2), ({"min_tokens": 1}, 2), ({"min_tokens": 2}, None), ({"ignore_eos": True}, 10)):
        loop = make_loop()
        loop.scheduler.add(request := make_request("a", prompt, 10, **{"ignore_eos": False, **fields}))
        loop.run()
        assert len(loop.answers["a", 0]) == (length or len(expected_answer(request, 0, 200)[0]))
    loop = make_loop()
    loop.scheduler.add(make_request("a", prompt, 10, stop_token_ids=(EOS,)))
    loop.run()
    assert len(loop.answers["a", 0]) == 2 and loop.ends["a", 0] == "stop"


def test_decode_comes_first_and_prefill_fills_the_rest_of_the_budget() -> None:
    loop = make_loop(budget=8, cache=False)
    loop.scheduler.add(make_request("a", 4, max_tokens=20))
    loop.step()
    loop.scheduler.add(make_request("b", 20))
    loop.scheduler.add(make_request("c", 3))
    assert shape(loop.step()) == [("a", 0, 4, 1), ("b", 0, 0, 7)]
    assert shape(loop.step()) == [("a", 0, 5, 1), ("b", 0, 7, 7)]
    assert shape(loop.step()) == [("a", 0, 6, 1), ("c", 0, 0, 1), ("b", 0, 14, 6)], "the rest goes to the next prompt"
    assert shape(loop.step()) == [("a", 0, 7, 1), ("b", 0, 20, 1), ("c", 0, 1, 2)]


def test_a_prefix_hit_is_found_from_the_step_after_its_prefill_on() -> None:
    loop = make_loop(budget=24)
    prompt = list(range(1, 22))
    for name in ("a", "b"):
        loop.scheduler.add(make_request(name, prompt, max_tokens=1))
    assert shape(loop.step()) == [("a", 0, 0, 21), ("b", 0, 0, 3)], "not within one step"
    loop.scheduler.add(make_request("c", prompt, max_tokens=1))
    plan = loop.step()
    assert ("c", 0, 20, 1) in shape(plan) and plan is not None
    assert {e.sequence.request.id: e.sequence.cached_tokens for e in plan.entries} == {"b": 0, "c": 20}
    loop.run()
    assert loop.scheduler.stats().prefix_hit_tokens == 20 and loop.scheduler.stats().prefix_query_tokens == 63


def test_a_launch_does_not_wait_for_a_prompts_digests() -> None:
    """One to find that nothing is known; the others when the device has its work."""
    loop = make_loop()
    loop.scheduler.add(make_request("a", list(range(1, 22)), max_tokens=2))
    plan = loop.step()
    assert plan is not None and len(plan.entries[0].sequence.digests) == 1
    loop.step()
    assert len(plan.entries[0].sequence.digests) == 21 // SIZE


def test_a_prompt_that_is_cached_to_its_end_still_computes_its_last_token() -> None:
    loop = make_loop()
    for name in ("a", "b"):
        loop.scheduler.add(make_request(name, list(range(1, 13)), max_tokens=1))
        loop.run()
    assert loop.device.computed == 12 + 4


@pytest.mark.parametrize(
    ("fields", "computed"), [({}, 13 + 1), ({"cache_salt": "other"}, 13 + 13), ({"prompt_logprobs": 0}, 13 + 13)]
)
def test_other_salts_and_prompt_logprobs_do_not_use_the_cache(fields: dict[str, Any], computed: int) -> None:
    loop = make_loop()
    loop.scheduler.add(make_request("a", list(range(1, 14)), max_tokens=1))
    loop.run()
    loop.scheduler.add(make_request("b", list(range(1, 14)), max_tokens=1, **fields))
    loop.run()
    assert loop.device.computed == computed


def test_answers_are_cached_too() -> None:
    """The next turn of a conversation finds the pages of the answer before it."""
    loop = make_loop()
    loop.scheduler.add(make_request("a", 6, max_tokens=11))
    loop.run()
    turn = make_request("a", 6).prompt + loop.answers["a", 0] + [7, 8]
    loop.scheduler.add(make_request("b", turn, max_tokens=1))
    assert shape(loop.step()) == [("b", 0, 16, 3)]


@pytest.mark.parametrize(("prompt", "copies"), [(6, 2), (8, 2), (9, 0), (1, 0)])
def test_choices_share_the_prompt_and_copy_only_the_page_they_write(prompt: int, copies: int) -> None:
    """The prompt is computed once; each further choice computes its last token again for logits of its own."""
    loop = make_loop(cache=False)
    loop.scheduler.add(request := make_request("a", prompt, max_tokens=5, n=3))
    assert shape(loop.step()) == [("a", 0, 0, prompt)]
    plan = loop.step()
    assert shape(plan) == [("a", 0, prompt, 1), ("a", 1, prompt - 1, 1), ("a", 2, prompt - 1, 1)]
    assert plan is not None and len(plan.copies) == copies
    loop.run()
    assert loop.device.computed == prompt + 2 + 3 * 4
    for index in range(3):
        assert loop.answers["a", index] == expected_answer(request, index, 200)[0]


def test_choices_wait_for_a_chunked_prompt_and_let_others_pass() -> None:
    loop = make_loop(budget=8, cache=False)
    loop.scheduler.add(make_request("a", 12, n=2))
    loop.scheduler.add(make_request("b", 2))
    assert shape(loop.step()) == [("a", 0, 0, 8)]
    assert shape(loop.step()) == [("a", 0, 8, 4), ("b", 0, 0, 2)]
    assert shape(loop.step()) == [("a", 0, 12, 1), ("b", 0, 2, 1), ("a", 1, 11, 1)]


def test_a_choice_whose_first_one_is_cancelled_goes_on_alone() -> None:
    loop = make_loop(budget=8, cache=False)
    loop.scheduler.add(make_request("a", 12, n=2))
    loop.step()
    loop.cancel("a", index=0)
    assert shape(loop.step()) == [("a", 1, 0, 8)]
    loop.run()
    assert loop.ends == {("a", 0): "abort", ("a", 1): "length"}


def test_a_starved_pool_preempts_the_latest_and_no_token_is_lost() -> None:
    """Its sampled token, still on its way when its pages go, counts; it starts again before newcomers of its priority."""
    loop = make_loop(pages=6, cache=False)
    for name in ("a", "b"):
        loop.scheduler.add(make_request(name, 8, max_tokens=12))
    steps = [loop.step() for _ in range(2)]
    assert all(names(plan) == {"a", "b"} for plan in steps)
    while loop.scheduler.stats().preemptions == 0:
        plan = loop.step()
    assert names(plan) == {"a"}
    loop.scheduler.add(make_request("c", 8, max_tokens=12))
    order = [name for _ in range(40) if (plan := loop.step()) for name, _, start, _ in shape(plan) if start == 0]
    assert order[0] == "b" and "c" in order
    loop.run()
    for name in "abc":
        assert loop.answers[name, 0] == expected_answer(make_request(name, 8, max_tokens=12), 0, 200)[0]


def test_preempted_work_is_found_in_the_prefix_cache() -> None:
    cold, warm = make_loop(pages=12, cache=False), make_loop(pages=12)
    for loop in (cold, warm):
        for name in "abc":
            loop.scheduler.add(make_request(name, 8, max_tokens=20))
        loop.run()
        assert loop.scheduler.stats().preemptions > 0
    assert warm.answers == cold.answers and warm.device.computed < cold.device.computed


def test_better_priority_starts_first_and_takes_rows_from_strictly_worse() -> None:
    loop = make_loop(rows=2)
    for name, priority in (("low", 5), ("mid", 1)):
        loop.scheduler.add(make_request(name, 8, max_tokens=30, priority=priority))
    loop.step()
    loop.scheduler.add(make_request("equal", 8, priority=1))
    loop.scheduler.add(make_request("high", 8, priority=0))
    plan = loop.step()
    assert names(plan) == {"mid", "high"}
    assert loop.scheduler.stats().preemptions == 1 and loop.scheduler.stats().waiting == 2
    while ("high", 0) not in loop.ends:
        plan = loop.step()
    assert "equal" in names(loop.step()) | names(loop.step()), "the head of the queue comes before the preempted worse one"
    loop.run()
    assert loop.scheduler.stats().preemptions == 1


def test_better_priority_takes_pages_only_if_that_lets_it_start() -> None:
    loop = make_loop(pages=10, budget=64)
    loop.scheduler.add(make_request("mid", 20, max_tokens=15, priority=1))
    loop.scheduler.add(make_request("low", 12, max_tokens=8, priority=2))
    loop.step()
    loop.scheduler.add(make_request("vast", 32, priority=1))
    assert names(loop.step()) == {"mid", "low"}, "all of low's pages would not be enough for vast"
    loop.scheduler.add(make_request("high", 12, priority=0))
    assert names(loop.step()) == {"high", "mid"}
    loop.run()
    assert set(loop.ends.values()) == {"length"}


def test_no_more_is_preempted_than_a_better_priority_needs() -> None:
    """Pages that a victim in the middle of its prompt was still to take count as won."""
    loop = make_loop(pages=14, budget=8)
    loop.scheduler.add(make_request("mid", 4, max_tokens=20, priority=1))
    loop.scheduler.add(make_request("low", 32, priority=2))
    assert names(loop.step()) == {"mid", "low"}
    loop.scheduler.add(make_request("high", 32, priority=0))
    assert names(loop.step()) == {"mid", "high"}


def test_nobody_starts_on_a_page_that_a_running_one_takes_in_the_next_step() -> None:
    loop = make_loop(pages=3, cache=False)
    loop.scheduler.add(make_request("a", 8, max_tokens=4))
    loop.scheduler.add(make_request("b", 1))
    assert names(loop.step()) == {"a"}
    loop.run()
    assert loop.scheduler.stats().preemptions == 0


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    loop = make_loop(pages=10, cache=False)
    loop.scheduler.add(make_request("a", 20, max_tokens=10))
    loop.step()
    loop.scheduler.add(make_request("vast", 32))
    loop.scheduler.add(make_request("tiny", 1))
    assert names(loop.step()) == {"a"}
    while ("vast", 0) not in loop.ends:
        loop.step()
    assert loop.scheduler.stats().preemptions == 0


def test_cancel_frees_pages_at_once_and_twice_is_no_error() -> None:
    loop = make_loop(cache=False)
    loop.scheduler.add(make_request("a", 10, n=2))
    loop.step()
    loop.step()
    assert loop.scheduler.stats().pages_used > 0
    loop.cancel("a", index=1)
    assert loop.ends == {("a", 1): "abort"} and loop.scheduler.request_ids() == ["a"]
    assert [e.finish for e in loop.scheduler.cancel("a", "error")] == ["error"]
    assert loop.scheduler.stats().pages_used == 0 and not loop.scheduler.has_work
    assert loop.scheduler.cancel("a") == loop.scheduler.cancel("nobody") == []
    loop.scheduler.check()


def test_a_plan_that_is_not_launched_yet_survives_a_cancel() -> None:
    """Its entry keeps the pages to write to; the next plan, which runs later, may hand them on."""
    loop = make_loop(pages=2, cache=False)
    loop.scheduler.add(make_request("a", 8, max_tokens=1))
    plan = loop.scheduler.plan()
    assert plan is not None
    pages = list(plan.entries[0].pages)
    loop.scheduler.cancel("a")
    loop.scheduler.add(make_request("b", 8, max_tokens=1))
    after = loop.scheduler.plan()
    assert after is not None and sorted(after.entries[0].pages) == sorted(pages) == sorted(plan.entries[0].pages)
    assert len(loop.device.launch(plan)) == 1 and loop.scheduler.apply(plan, [3]) == []
    loop.device.launch(after)


def test_a_failed_step_takes_along_whoever_built_on_it_and_nobody_else() -> None:
    """`heir` began one step later on prompt pages that the failed step was to write; `other` shares nothing with it."""
    scheduler, prompt = make_loop().scheduler, list(range(1, 14))
    scheduler.add(make_request("failed", prompt))
    broken = scheduler.plan()
    scheduler.add(make_request("heir", prompt))
    scheduler.add(make_request("other", 8))
    built_on_it = scheduler.plan()
    assert broken is not None and built_on_it is not None
    assert shape(built_on_it) == [("failed", 0, 13, 1), ("heir", 0, 12, 1), ("other", 0, 0, 8)]
    assert {(end.sequence.request.id, end.finish) for end in scheduler.abandon(broken)} == {
        ("failed", "error"),
        ("heir", "error"),
    }
    assert [known.sequence.request.id for known in scheduler.apply(built_on_it, [3, 3, 3])] == ["other"]
    scheduler.check()
    scheduler.add(make_request("again", prompt))
    assert shape(scheduler.plan()) == [("other", 0, 8, 1), ("again", 0, 0, 13)], "nothing of the failed step was kept"


def test_deadlines_end_waiting_and_running_requests() -> None:
    loop = make_loop(rows=1)
    loop.scheduler.add(make_request("running", 4, max_tokens=100, deadline=5.0))
    loop.scheduler.add(make_request("waiting", 4, deadline=3.0, n=2))
    loop.scheduler.add(make_request("patient", 4, deadline=1000.0))
    for _ in range(3):
        loop.step()
    assert loop.ends == {}
    loop.step()
    assert loop.ends == {("waiting", 0): "deadline", ("waiting", 1): "deadline"}
    loop.run()
    assert loop.ends["running", 0] == "deadline" and loop.ends["patient", 0] == "length"
    assert 0 < len(loop.answers["running", 0]) < 6


def test_a_full_queue_refuses_and_says_when_to_retry() -> None:
    """Requests that have started do not count, nor does a preempted one."""
    loop = make_loop(rows=1, queue=2)
    loop.scheduler.add(make_request("a", n=3))
    loop.step()
    loop.scheduler.add(make_request("b"))
    loop.scheduler.add(make_request("c"))
    with pytest.raises(Overloaded) as refused:
        loop.scheduler.add(make_request("d"))
    assert refused.value.retryable and refused.value.retry_after_s
    loop.cancel("c")
    loop.scheduler.add(make_request("d"))
    loop.run()
    assert {name for name, _ in loop.ends} == {"a", "b", "c", "d"}


def test_an_id_in_use_is_refused_and_free_again_after_the_end() -> None:
    loop = make_loop()
    loop.scheduler.add(make_request("a"))
    with pytest.raises(InvalidRequest, match="id a"):
        loop.scheduler.add(make_request("a"))
    loop.run()
    loop.scheduler.add(make_request("a"))


def test_a_request_that_fits_the_pool_exactly_runs_to_its_end() -> None:
    """Pages of the whole pool, several choices, a cache full of others' pages: it still gets all it needs."""
    loop = make_loop(pages=5)
    loop.scheduler.add(make_request("other", 8, max_tokens=9))
    loop.run()
    loop.scheduler.add(request := make_request("a", 6, max_tokens=15, n=3))
    loop.run()
    assert all(loop.answers["a", i] == expected_answer(request, i, 200)[0] for i in range(3))


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_answer_does_not_depend_on_how_late_results_come(lag: int) -> None:
    loop = make_loop(pages=12, rows=3, budget=8, lag=lag)
    requests = [make_request(name, 7, max_tokens=12, ignore_eos=False, n=2) for name in "abcd"]
    for request in requests:
        loop.scheduler.add(request)
    loop.run()
    for request in requests:
        for index in range(2):
            assert (loop.answers[request.id, index], loop.ends[request.id, index]) == expected_answer(request, index, 200)


def test_planning_256_sequences_is_quick() -> None:
    """A loose bound, some twenty times what it takes: the host's part of a step must stay far below the device's."""
    pool = PagePool(256 * 8, 16)
    limits = Limits(max_num_seqs=256, max_num_batched_tokens=4096, max_model_len=128, max_queued_requests=1000)
    scheduler = Scheduler(limits, pool, PrefixCache(pool), [EOS])
    for i in range(300):
        scheduler.add(make_request(f"r{i}", [i + 1] * 16, max_tokens=100))
    seconds = []
    plan = scheduler.plan()
    for _ in range(30):
        began = time.perf_counter()
        newest = scheduler.plan()
        seconds.append(time.perf_counter() - began)
        assert plan is not None and newest is not None and len(newest.entries) == 256
        scheduler.apply(plan, [1] * 256)
        plan = newest
    assert statistics.median(seconds) < 0.005
