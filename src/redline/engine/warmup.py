"""The first steps, taken before anybody waits: kernels compile, libraries set up, caches fill.

Hand-made plans on row 0 and the first pages, which no request holds yet; what they leave behind is overwritten by the
first request that takes them. Open `warm_up` first.
"""

from __future__ import annotations

from redline.engine.request import Sequence
from redline.engine.runner import Runner
from redline.engine.scheduler import Entry, Plan
from redline.types import Request, SamplingParams

PROMPT = 17  # tokens: past one query tile of a decode kernel, so that the prefill kernel is the one that runs


def warm_up(runner: Runner, *, num_pages: int, page_size: int, max_tokens: int) -> None:
    """Run a prefill and a decode step, greedy and sampled. Raises what the device raises."""
    length = min(PROMPT, max_tokens, num_pages * page_size - 1)
    pages = list(range(-(-(length + 1) // page_size)))
    for sampling in (SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01, seed=0)):
        request = Request(id="warm-up", prompt=[0] * length, sampling=sampling)
        sequence = Sequence(request, 0, (0, 0.0, 0), length + 2, frozenset(), None)
        sequence.start(0, pages, 0, 0)
        prefill = Entry(sequence, 0, length, True, 0, True, pages, 0)
        decode = Entry(sequence, length, 1, True, 0, False, pages, len(pages))
        for entry in (prefill, decode):
            runner.launch(Plan(0, [entry], [], entry.count)).wait()
