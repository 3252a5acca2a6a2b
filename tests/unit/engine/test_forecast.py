"""What the engine foresees is what admission goes by until the engine was heard."""

from __future__ import annotations

import pytest

from redline.config import SchedulerConfig
from redline.engine.forecast import Tempo
from redline.engine.gate import Gate
from redline.engine.message import EngineInfo, Foreseen
from redline.errors import Overloaded
from redline.types import Request, SamplingParams


def _request(name: str, deadline: float | None = None, prompt: int = 100) -> Request:
    return Request(id=name, prompt=[1] * prompt, sampling=SamplingParams(max_tokens=50), deadline=deadline)


def _gate(foreseen: Foreseen) -> Gate:
    gate = Gate(SchedulerConfig(), clock=lambda: 1000.0)
    info = EngineInfo(
        model="m", dtype="bfloat16", device="cpu", max_model_len=4096, vocab_size=9, num_pages=99, page_size=16, max_num_seqs=1
    )
    gate.opened(info)
    gate.roster.foreseen(foreseen)
    return gate


def test_a_deadline_that_cannot_be_met_is_refused_before_the_first_token_of_all() -> None:
    """One row, steps of 0.1 s, prompts of 1 s: whoever stands third starts after two answers of 50 tokens, 12 s."""
    gate = _gate(Foreseen(turn_s=0.1, prompt_s=0.01))
    gate.admit([_request("a")])
    gate.admit([_request("b")])
    with pytest.raises(Overloaded) as refused:
        gate.admit([_request("c", deadline=1005.0)])
    assert refused.value.retry_after_s == pytest.approx(12.0 - 5.0, rel=0.2)
    gate.admit([_request("d", deadline=1020.0)])
    blind = _gate(Foreseen())
    for name in "abc":
        blind.admit([_request(name, deadline=1005.0)])


def test_what_was_heard_is_believed_over_what_was_foreseen() -> None:
    tempo = Tempo()
    assert not tempo.known and tempo.turn_s == tempo.prompt_s == 0.0
    tempo.foresee(0.2, 0.001)
    assert tempo.known and (tempo.turn_s, tempo.prompt_s) == (0.2, 0.001)
    tempo.begin(0.0)
    tempo.turn(0.5, 0)
    tempo.turn(1.0, 0)
    tempo.foresee(0.3, 0.002)
    assert (tempo.turn_s, tempo.prompt_s) == (0.5, 0.002)
    tempo.turn(2.5, 100)
    assert tempo.prompt_s == pytest.approx(0.01)
