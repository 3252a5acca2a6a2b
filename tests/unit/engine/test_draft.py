"""What a plan says of itself as a whole, against a look at each of its entries; and prompts held back for those who decode."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import msgspec
import pytest

from fakes import EOS, VOCABULARY, FakeDevice, FakeLoop, expected_answer
from redline.engine.admission import Limits
from redline.engine.draft import Entry, MixedBound, Plan
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.scheduler import Scheduler
from redline.plan.roofline import StepWork
from redline.types import Pooling, Request, SamplingParams

LONG = 10_000


def make_loop(*, pages: int = 64, rows: int = 8, budget: int = 32, page_size: int = 4, longest: int = 200) -> FakeLoop:
    pool = PagePool(pages, page_size)
    limits = Limits(max_num_seqs=rows, max_num_batched_tokens=budget, max_model_len=longest, max_queued_requests=1000)
    return FakeLoop(Scheduler(limits, pool, PrefixCache(pool), [EOS]), FakeDevice(pages, page_size))


def request(name: str, prompt: list[int] | int, answer: int | None, *, tokens_per_chunk: int = 1, eos: bool = False) -> Request:
    tokens = prompt if isinstance(prompt, list) else [1 + sum(map(ord, name)) % 40] * prompt
    sampling = SamplingParams(max_tokens=answer, ignore_eos=not eos)
    return Request(id=name, prompt=tokens, sampling=sampling, tokens_per_chunk=tokens_per_chunk)


def drawn(rng: Random, name: str) -> Request:
    """A request of any kind."""
    pooling: Pooling | None = rng.choice([None, None, None, "last", "mean"])
    made = request(
        name,
        [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, 20))],
        rng.choice([None, 1, 3, 30]),
        tokens_per_chunk=rng.choice([1, 1, 2, 7]),
        eos=rng.random() < 0.5,
    )
    sampling = msgspec.structs.replace(made.sampling, n=1 if pooling else rng.choice([1, 1, 3]))
    grammar = "fake" if pooling is None and rng.random() < 0.3 else None
    return msgspec.structs.replace(made, sampling=sampling, pooling=pooling, grammar=grammar)


def spans(plan: Plan) -> list[tuple[int, int]]:
    return [(entry.start, entry.count) for entry in plan.entries]


def check(plan: Plan, before: Plan | None) -> Counter[str]:
    """Every word of `plan` of itself; how often which was said."""
    entries = plan.entries
    decodes = all(e.count == 1 and e.samples and e.start >= e.sequence.prompt_len for e in entries)
    assert plan.decodes <= decodes and plan.num_samples == sum(e.samples for e in entries)
    if plan.steady:
        assert plan.decodes and before is not None and before.decodes and before.step == plan.step - 1
        assert [(e.sequence, e.row, e.start) for e in entries] == [(e.sequence, e.row, e.start + 1) for e in before.entries]
    assert plan.constrained or not any(e.samples and e.sequence.constrained for e in entries)
    changed = {id(e) for e in entries if e.fresh or e.first_new < len(e.pages) or e.upload_from is not None}
    assert plan.touched is not None and changed == {id(e) for e in plan.touched}
    for window in (0, 5):
        alone = StepWork.of(spans(plan), logit_rows=plan.num_samples, window=window)
        assert plan.work(window) == replace(alone, common_reads=min(plan.common, alone.context_reads))
    return Counter(steady=plan.steady, decodes=plan.decodes, touched=bool(changed), mixed=not plan.decodes)


@pytest.mark.soak
def test_what_a_plan_says_of_itself_is_true_under_random_traffic(effort: int) -> None:
    happened: Counter[str] = Counter()
    for seed in range(30 * effort):
        rng = Random(seed)
        loop = make_loop(pages=rng.randint(16, 60), rows=rng.randint(1, 6), budget=rng.choice([6, 12, 60]), longest=60)
        accepted: dict[str, Request] = {}
        before: Plan | None = None
        for number in range(25):
            made = drawn(rng, f"r{number}")
            loop.scheduler.add(made)
            accepted[made.id] = made
            if made.grammar is not None:
                loop.hold(made, rng.choice([0, 1, 5]))
            for _ in range(rng.choice([0, 1, 30])):
                plan = loop.step()
                if plan is not None:
                    happened += check(plan, before)
                before = plan
        loop.run()
        for made in accepted.values():
            for index in range(made.sampling.n):
                expected = expected_answer(made, index, 60)
                assert (loop.answers.get((made.id, index), []), loop.ends[made.id, index]) == expected
    assert min(happened.values()) > 50 * effort, happened


def test_pages_that_several_hold_are_counted_once() -> None:
    """Three prompts of 13 tokens, of which 12 fill three pages: two of the three need not read them."""
    loop = make_loop()
    loop.scheduler.add(request("a", 13, 30))
    loop.step()
    assert (plan := loop.step()) is not None and plan.common == 0
    for name in ("b", "c"):
        loop.scheduler.add(msgspec.structs.replace(request("a", 13, 30), id=name))
    for _ in range(4):
        plan = loop.step()
    assert plan is not None and len(plan.entries) == 3
    assert plan.common == 2 * 12 and plan.work().common_reads == 2 * 12 and plan.work().context_reads == plan.context
    loop.run()
    loop.scheduler.check()


def test_a_plan_made_by_hand_counts_itself() -> None:
    loop = make_loop()
    loop.scheduler.add(request("a", 6, 4))
    plan = loop.scheduler.plan()
    assert plan is not None
    own = Plan(0, plan.entries, [], plan.num_tokens)
    assert own.work() == plan.work() and own.touched is None and own.constrained and not own.steady


def test_chunks_gather_tokens_where_nobody_reads_them_one_by_one() -> None:
    """The first comes at once, the rest in eights, what is left with the end; scores, stops and grammars undo it."""
    loop = make_loop(longest=LONG, pages=200)
    told: list[int] = []
    loop._tell = lambda known: told.append(len(known.tokens))  # type: ignore[method-assign]
    loop.scheduler.add(request("a", 6, 20, tokens_per_chunk=8))
    loop.run()
    assert told == [1, 8, 8, 3]
    for change in ({"stop": ("x",)}, {"logprobs": 0}):
        told.clear()
        gathered = request("b", 6, 5, tokens_per_chunk=8)
        sampling = msgspec.structs.replace(gathered.sampling, **change)
        loop.scheduler.add(msgspec.structs.replace(gathered, sampling=sampling))
        loop.run()
        assert told == [1] * 5


def test_a_gathered_answer_that_is_cancelled_has_its_tokens_still() -> None:
    loop = make_loop()
    loop.scheduler.add(request("a", 6, 20, tokens_per_chunk=8))
    for _ in range(6):
        loop.step()
    [ended] = loop.scheduler.cancel("a")
    known = len(ended.sequence.tokens) - 6
    assert len(ended.sequence.tell()) == known - 1 > 2, "all but the first, which was told"
    assert ended.sequence.tell() == []


def test_the_budget_is_halved_down_to_one_token_for_each_row() -> None:
    loop = make_loop(rows=6, budget=32)
    assert [loop.scheduler.shrink() for _ in range(4)] == [16, 8, 6, 6]
    assert (loop.scheduler.stats().token_budget, loop.scheduler.stats().shrinks) == (6, 3)
    loop.scheduler.add(request("a", 20, 4))
    plan = loop.step()
    assert plan is not None and plan.num_tokens == 6
    loop.run()
    assert loop.ends == {("a", 0): "length"}


def bounded(seconds: float, *, pair_s: float = 0.0, least: int = 4) -> FakeLoop:
    """A token takes a second."""
    loop = make_loop(pages=4 * LONG, budget=1000, longest=LONG, rows=40)
    loop.scheduler.bound = MixedBound(seconds, 1.0, pair_s, least)
    return loop


def chunks(plan: Plan | None) -> list[Entry]:
    assert plan is not None
    return [entry for entry in plan.entries if entry.count > 1]


def test_prompts_fill_the_budget_while_nobody_decodes() -> None:
    loop = bounded(50.0)
    loop.scheduler.add(request("a", 800, 4))
    assert [entry.count for entry in chunks(loop.step())] == [800]


def test_a_long_prompt_comes_in_small_chunks_while_somebody_decodes() -> None:
    loop = bounded(50.0)
    loop.scheduler.add(request("reader", 6, 100))
    loop.step()
    loop.scheduler.add(request("a", 120, 4))
    loop.scheduler.add(request("b", 45, 4))
    assert [(e.sequence.request.id, e.count) for e in chunks(loop.step())] == [("a", 50)]
    assert [(e.sequence.request.id, e.count) for e in chunks(loop.step())] == [("a", 50)]
    assert [(e.sequence.request.id, e.count) for e in chunks(loop.step())] == [("a", 20), ("b", 30)], "what is left is b's"
    assert [(e.sequence.request.id, e.count) for e in chunks(loop.step())] == [("b", 15)]
    loop.run()
    assert set(loop.ends.values()) == {"length"}


def test_nobody_is_held_up_for_an_answer_that_is_gathered() -> None:
    loop = bounded(50.0)
    loop.scheduler.add(request("batch", 6, 100, tokens_per_chunk=64))
    loop.step()
    loop.scheduler.add(request("a", 600, 4))
    assert [entry.count for entry in chunks(loop.step())] == [600]


def test_chunks_shrink_as_the_context_grows_and_never_to_nothing() -> None:
    loop = bounded(50.0, pair_s=0.05)
    loop.scheduler.add(request("reader", 6, LONG - 10))
    loop.step()
    loop.scheduler.add(request("a", 3000, 1))
    counts = []
    while ("a", 0) not in loop.ends:
        plan = loop.step()
        counts += [(e.start, e.count) for e in plan.entries if e.sequence.request.id == "a"] if plan is not None else []
    bound = loop.scheduler.bound
    assert bound is not None and sum(count for _, count in counts) == 3000
    sizes = [count for _, count in counts[:-1]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 20 and sizes[-1] == bound.least
    assert all(bound.cost(start, count) <= 50.0 for start, count in counts if count > bound.least)


def test_many_short_prompts_together_keep_the_bound() -> None:
    loop = bounded(50.0)
    loop.scheduler.add(request("reader", 6, 100))
    loop.step()
    for number in range(20):
        loop.scheduler.add(request(f"p{number}", [number + 1] * 10, 1))
    sizes = []
    while len(loop.ends) < 20:
        plan = loop.step()
        sizes.append(sum(e.count for e in plan.entries if e.sequence.request.id != "reader") if plan is not None else 0)
    assert max(sizes) == 50 and sum(sizes) == 200


@pytest.mark.parametrize("pair_s", [0.0, 1e-9, 0.01])
def test_the_tokens_of_some_seconds_take_those_seconds(pair_s: float) -> None:
    bound = MixedBound(1.0, 0.5, pair_s)
    for start in (0, 7, 5000):
        for count in (1, 10, 333):
            assert abs(bound.tokens(start, bound.cost(start, count) * (1 + 1e-9)) - count) <= (1 if pair_s < 1e-6 else 0)
        assert bound.tokens(start, 0.0) == bound.tokens(start, -1.0) == 0
