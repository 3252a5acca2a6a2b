"""The first steps, taken before anybody waits: kernels compile, libraries set up, caches fill.

Hand-made plans on row 0 and the first pages, which no request holds yet; what they leave behind is overwritten by the
first request that takes them. `warm_up` takes those that any first request needs, before the engine is ready; the rest, with
the capture of steps and the planning of attention, is left for idle moments. Open `warm_up` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, Unpack

from redline.engine.draft import Entry, Plan
from redline.engine.request import Sequence
from redline.engine.runner import WARM_UP_STEP, Runner
from redline.kernels.attention_plan import usual_rows
from redline.types import Request, SamplingParams

PROMPT = 17  # tokens: past one query tile of a decode kernel, so that the prefill kernel is the one that runs
LONG = 300  # tokens: enough that a decode kernel splits them over programs, which is another kernel to compile

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01, seed=0)


class WarmUpSizes(TypedDict):
    """What plans are made for. `max_tokens` of a prompt; `compiles`: kernels are, where they first run."""

    num_pages: int
    page_size: int
    max_tokens: int
    vocab_size: int
    compiles: bool


def warm_up(runner: Runner, **sizes: Unpack[WarmUpSizes]) -> None:
    """Run a prefill and a decode step, greedy and sampled. Raises what the device raises."""
    for sampling in (GREEDY, SAMPLED):
        _run(runner, PROMPT, sampling, sizes)


def warm_up_rest(runner: Runner, **sizes: Unpack[WarmUpSizes]) -> Iterator[bool]:
    """Piece by piece, with nothing in flight: long prompts under a mask, the common sizes of captured steps, and plans for
    the attention of long prompts.

    Each piece tells whether there are more. Plans are run only while no request has had a page.
    """
    if sizes["compiles"]:
        if runner.prepare():  # one sequence is what comes first
            yield True
        if runner.is_fresh:
            _run(runner, LONG, GREEDY, sizes, grammar="any")
            yield True
    while runner.prepare():
        yield True
    for rows in usual_rows(sizes["max_tokens"]) if sizes["compiles"] else ():
        yield True
        runner.prepare_prompts(rows)
    yield False


def _run(runner: Runner, wanted: int, sampling: SamplingParams, sizes: WarmUpSizes, grammar: str | None = None) -> None:
    """A prompt of `wanted` tokens, if that many fit, and one decode step."""
    page_size = sizes["page_size"]
    length = min(wanted, sizes["max_tokens"], sizes["num_pages"] * page_size - 1)
    pages = list(range(-(-(length + 1) // page_size)))
    request = Request(id="warm-up", prompt=[0] * length, sampling=sampling, grammar=grammar)
    sequence = Sequence(request, 0, (0, 0.0, 0), length + 2, frozenset(), None)
    sequence.start(0, pages, 0, 0)
    prefill = Entry(sequence, 0, length, True, 0, True, pages, 0)
    decode = Entry(sequence, length, 1, True, 0, False, pages, len(pages))
    for entry in (prefill, decode):
        launched = runner.launch(Plan(WARM_UP_STEP, [entry], [], entry.count))
        if launched.draw is not None:
            words = runner.mask_words(1, -(-sizes["vocab_size"] // 32))
            words.fill(-1)  # every token is allowed
            launched.draw([0], words)
        launched.wait()
