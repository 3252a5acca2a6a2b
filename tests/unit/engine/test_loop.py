"""The loop on a real small model: what a request leaves behind when it ends at an awkward moment."""

from __future__ import annotations

from redline import SamplingParams
from redline.config import EngineConfig
from redline.engine.build import build
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
        assert loop._prompt_scores == {}
    finally:
        engine.close()
