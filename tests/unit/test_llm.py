"""The offline door: an answer that is read whole is told in few chunks and is the same, and a stream comes token by token."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator

import msgspec
import pytest

from redline.engine.loop import Loop
from redline.errors import InvalidRequest
from redline.llm import AHEAD, COLLECTED_TOKENS, LLM
from redline.types import Chunk, SamplingParams

LONG = COLLECTED_TOKENS + 20
PROMPTS = [[1, 2, 3], list(range(40))]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    sizes = {"max_model_len": 512, "num_pages": 128, "enable_prefix_caching": False}
    with LLM("random:tiny-llama", device="cpu", dtype="float32", num_threads=1, **sizes) as made:
        yield made


@pytest.fixture
def told(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """The chunks that leave the loop."""
    chunks: list[Chunk] = []
    take = llm._engine.loop.take

    def taken() -> list[Chunk]:
        found = take()
        chunks.extend(found)
        return found

    monkeypatch.setattr(llm._engine.loop, "take", taken)
    return chunks


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True),
        SamplingParams(temperature=1.0, seed=3, max_tokens=30, n=2),
        SamplingParams(temperature=1.0, seed=3, max_tokens=60, stop=("a", "e")),
        SamplingParams(temperature=0.0, max_tokens=9, logprobs=2, prompt_logprobs=1, ignore_eos=True),
    ],
    ids=["plain", "choices", "stop", "scores"],
)
def test_a_collected_answer_is_the_stream(llm: LLM, sampling: SamplingParams) -> None:
    for prompt in PROMPTS:
        (collected,) = llm.generate([prompt], sampling)
        deltas = list(llm.stream(prompt, sampling))
        assert collected.prompt_tokens == prompt
        for choice in collected.choices:
            own = [delta for delta in deltas if delta.index == choice.index]
            assert choice.tokens == [token for delta in own for token in delta.tokens]
            assert choice.text == "".join(delta.text for delta in own)
            assert choice.finish == own[-1].finish
            assert choice.logprobs == ([entry for delta in own for entry in delta.logprobs or []] or None)
        ends = [delta.usage for delta in deltas if delta.usage is not None]
        assert collected.usage.prompt_tokens == ends[0].prompt_tokens == len(prompt)
        assert collected.usage.completion_tokens == sum(usage.completion_tokens for usage in ends)
        assert collected.usage.completion_tokens == sum(len(choice.tokens) for choice in collected.choices)
        streamed = next(delta.receipt for delta in deltas if delta.receipt is not None)
        assert collected.receipt is not None and collected.receipt.keys() == streamed.keys()
        assert collected.receipt["decode"]["tokens"] == streamed["decode"]["tokens"]


def test_only_a_stream_is_told_token_by_token(llm: LLM, told: list[Chunk]) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=LONG, ignore_eos=True)
    llm.generate([5, 6], sampling)
    assert [len(chunk.tokens) for chunk in told] == [1, COLLECTED_TOKENS, LONG - 1 - COLLECTED_TOKENS]
    told.clear()
    assert len(list(llm.stream([5, 6], SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)))) == 40
    assert [len(chunk.tokens) for chunk in told] == [1] * 40


def test_answers_are_whole_where_the_device_is_always_done_before_they_are_read(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is put off then: nothing may be lost by that, nor a stop string be found in another place."""
    prompts = [[1, 2, number] for number in range(6)]
    sampling = [SamplingParams(temperature=0.0, max_tokens=9 + number, ignore_eos=True) for number in range(6)]
    plain = llm.generate(prompts, sampling)
    stop = plain[5].text[3:5]
    sampling[5] = msgspec.structs.replace(sampling[5], stop=[stop])
    stopped = llm.generate(prompts, sampling)
    waits: list[bool] = []

    def device_waits(loop: Loop) -> bool:
        waits.append(loop.in_flight is not None)
        return waits[-1]

    monkeypatch.setattr(Loop, "device_waits", property(device_waits))
    late = llm.generate(prompts, sampling)
    assert any(waits), "reading was put off"
    assert [(each.text, each.tokens, each.choices[0].finish) for each in late] == [
        (each.text, each.tokens, each.choices[0].finish) for each in stopped
    ]
    assert late[5].choices[0].finish == "stop"


@pytest.mark.parametrize("freezes", [True, False])
def test_the_collector_rests_while_something_is_answered(llm: LLM, freezes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk through everything that torch has made takes longer than many steps; what a user has frozen stays so."""
    monkeypatch.setattr(llm, "_freezes", freezes)
    if not freezes:
        gc.freeze()
    stream = llm.stream([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True))
    next(stream)
    assert gc.get_freeze_count() > 0
    stream.close()
    assert (gc.get_freeze_count() == 0) == freezes
    gc.unfreeze()


@pytest.mark.parametrize(("prompt", "named"), [([3, -1, 2], "-1"), ([3, 100_000], "100000"), ([100_000, -2], "-2")])
def test_tokens_that_the_model_does_not_have_are_refused(llm: LLM, prompt: list[int], named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"token {named} of the prompt is not in the vocabulary"):
        llm.generate([prompt])


def test_the_first_step_does_not_wait_for_prompts_that_it_has_no_room_for(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, order = llm._engine.loop, list[str]()
    while loop.has_work:  # a step that was planned before its answers had ended
        loop.step()
    submit, step = loop.submit, loop.step
    monkeypatch.setattr(loop, "submit", lambda request: (order.append("submit"), submit(request)))
    monkeypatch.setattr(loop, "step", lambda: (order.append("step"), step()))
    length = llm.info.max_model_len - 8
    room = -(-loop.step_tokens // length)
    prompts = [[number, *range(length - 1)] for number in range(room + 3)]
    sampling = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    together = llm.generate(prompts, sampling)
    assert order[: room + 1] == [*["submit"] * room, "step"] and order.count("submit") == room + 3
    assert [each.tokens for each in together] == [llm.generate([prompt], sampling)[0].tokens for prompt in prompts]
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        llm.generate([*prompts, [100_000]], sampling)
    if loop.has_work:
        loop.step()
    assert not loop.has_work and {chunk.finish for chunk in loop.take()} == {"abort"}, "what had begun was cancelled"


def test_an_empty_prompt_is_refused_by_the_engine(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.generate([[]])


def test_prepare_captures_until_nothing_is_left(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [True, True, False]
    monkeypatch.setattr(llm, "_engine", dataclasses.replace(llm._engine, prepare=lambda: left.pop(0)))
    llm.prepare()
    assert not left


def test_on_a_cpu_there_is_nothing_to_prepare(llm: LLM) -> None:
    llm.prepare()
    assert not llm.stats.more.get("graphs_captured")


def test_prompts_that_come_one_by_one_are_taken_as_there_is_room_and_end_like_the_others(llm: LLM) -> None:
    sampling = [SamplingParams(temperature=0.0, max_tokens=5 + number % 7, ignore_eos=True) for number in range(40)]
    taken: list[int] = []

    def asks() -> Iterator[tuple[list[int], SamplingParams, None]]:
        for number, each in enumerate(sampling):
            taken.append(number)
            yield [1, 2, number], each, None

    ended: dict[int, list[int]] = {}
    for number, completion in llm.complete(asks()):
        ended[number] = completion.tokens
        assert len(taken) <= len(ended) + AHEAD * llm.info.max_num_seqs, "as there is room"
    assert sorted(ended) == list(range(40)) and list(ended) != list(range(40)), "short ones end first"
    together = llm.generate([[1, 2, number] for number in range(40)], sampling)
    assert [ended[number] for number in range(40)] == [each.tokens for each in together]
    coming = llm.complete(asks())
    next(coming)
    coming.close()
    assert llm.generate([[1, 2, 3]], sampling[0])[0].choices[0].finish == "length", "what was open was cancelled"
    llm._engine.loop.check()
