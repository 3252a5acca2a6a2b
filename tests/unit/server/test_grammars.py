"""Trying grammars before the engine sees them: bombs end in a refusal, in time, without holding the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from redline.engine.grammar import of_choice, of_json_schema, of_lark, of_regex
from redline.errors import InvalidRequest, Overloaded, RedlineError, UnsupportedField
from redline.server import grammars as room
from redline.server.grammars import Grammars

VOCABULARY = {"size": 151_936, "special": {"151643": "<|endoftext|>", "151645": "<|im_end|>"}, "eos": [151_645]}
LATE = room.TRY_S + 1.5  # a loaded machine included


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(lambda: VOCABULARY)
    yield made
    made.close()


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """The longest times between two turns of the event loop that should be 10 ms apart."""
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)

    task = asyncio.create_task(beat())
    try:
        yield gaps
    finally:
        task.cancel()


def chain(length: int) -> Any:
    links = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(length)}
    return {"$defs": {**links, f"a{length}": {"type": "string"}}, "$ref": "#/$defs/a0"}


BOMBS: dict[str, Callable[[], str]] = {
    "states": lambda: of_regex("(a{1000}){1000}"),
    "expressions": lambda: of_regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}"),
    "doubling": lambda: of_lark("start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(60)) + 'A60: "x"'),
    "product": lambda: of_json_schema(
        {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}} for j in range(2)]} for i in range(20)]}
    ),
    "properties": lambda: of_json_schema(
        {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": f"^[a-z]{{{i % 50}}}$"} for i in range(8000)}}
    ),
    "quadratic": lambda: of_json_schema(
        {"type": "object", "properties": {f"p{n}": {} for n in range(1500)}, "additionalProperties": False, "minProperties": 1}
    ),
    "multiple": lambda: of_json_schema({"type": "integer", "multipleOf": 999_999_937}),
    "nesting": lambda: of_lark("start: " + "(" * 3000 + '"a"' + ")" * 3000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_time(name: str, grammars: Grammars) -> None:
    async def attempt() -> None:
        async with heartbeat() as gaps:
            began = time.monotonic()
            with pytest.raises((UnsupportedField, InvalidRequest)) as refusal:
                await grammars.check(await asyncio.to_thread(BOMBS[name]), "guided_json")
            assert time.monotonic() - began < LATE + 1
            assert refusal.value.status == 400 and len(refusal.value.message) < 400
            assert max(gaps, default=0.0) < 0.4, "the event loop was held"
            again = time.monotonic()
            if refusal.value.param == "guided_json":  # refused by the trial: known from now on
                with pytest.raises(RedlineError):
                    await grammars.check(BOMBS[name](), "guided_json")
                assert time.monotonic() - again < 0.5

    asyncio.run(attempt())


@pytest.mark.parametrize("length", [500, 5000])
def test_a_long_chain_of_references_harms_nobody(length: int, grammars: Grammars) -> None:
    """It needs a deep stack, which the process has; a longer one would cost that process alone."""

    async def attempt() -> None:
        await grammars.check(of_json_schema(chain(length)), "guided_json")

    asyncio.run(attempt())


def test_sound_grammars_pass_and_errors_name_the_field(grammars: Grammars) -> None:
    async def attempt() -> None:
        await grammars.check(of_json_schema({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}}), "guided_json")
        await grammars.check(of_lark("start: <|im_end|> <[151643]>"), "guided_grammar")
        for grammar, said in (
            (of_lark("start: <|nope|>"), "nope"),
            (of_lark("start: x"), "x"),
            (of_lark("start: <[999999]>"), "oken"),
        ):
            with pytest.raises((UnsupportedField, InvalidRequest), match=said) as refusal:
                await grammars.check(grammar, "guided_grammar")
            assert refusal.value.param == "guided_grammar"

    asyncio.run(attempt())


def own(work: Callable[[Grammars], Awaitable[None]], *, seconds: Callable[[float], None] = lambda seconds: None) -> None:
    """`work` with grammars of its own."""

    async def run() -> None:
        made = Grammars(lambda: VOCABULARY, seconds)
        try:
            await work(made)
        finally:
            made.close()
            made.close()

    asyncio.run(run())


def test_what_was_found_out_is_kept_and_asked_once() -> None:
    timed: list[float] = []

    async def work(grammars: Grammars) -> None:
        same = of_choice(["a", "b"])
        await asyncio.gather(*(grammars.check(same, "guided_choice") for _ in range(200)))
        await grammars.check(same, "guided_choice")
        assert len(timed) == 1

    own(work, seconds=timed.append)


def stop(pid: int) -> None:
    """Returns when every thread has: a signal is on its way for a while, in which one of them may still answer."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    while any(stat.read_text().rsplit(")", 1)[1].split()[0] != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_process_that_dies_costs_one_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TRIALS", 1)

    async def work(grammars: Grammars) -> None:
        await grammars.check(of_choice(["a"]), "guided_choice")
        (trial,) = grammars._trials
        stop(trial._process.pid)  # late: ended by the server
        with pytest.raises(UnsupportedField, match="takes more than"):
            await grammars.check(of_choice(["b"]), "guided_choice")
        assert not trial.alive
        await grammars.check(of_choice(["c"]), "guided_choice")

    own(work)


def test_too_many_at_a_time_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_WAITING", 4)

    async def work(grammars: Grammars) -> None:
        many = [grammars.check(of_choice([str(number)]), "guided_choice") for number in range(20)]
        found = await asyncio.gather(*many, return_exceptions=True)
        refused = [each for each in found if isinstance(each, Overloaded)]
        assert len(refused) == 16 and all(each.retry_after_s for each in refused)
        await grammars.check(of_choice(["7"]), "guided_choice")

    own(work)


def test_a_caller_who_leaves_takes_nothing_with_him() -> None:
    async def work(grammars: Grammars) -> None:
        grammar = of_choice(["gone"])
        first = asyncio.ensure_future(grammars.check(grammar, "guided_choice"))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(grammars.check(grammar, "guided_choice"))
        first.cancel()
        await second

    own(work)


def test_no_more_verdicts_are_kept_than_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_KNOWN", 3)

    async def work(grammars: Grammars) -> None:
        for number in range(6):
            await grammars.check(of_choice([str(number)]), "guided_choice")
        assert len(grammars._known) == 3

    own(work)
