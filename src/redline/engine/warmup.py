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


LONG = 300  # tokens: enough that a decode kernel splits them over programs, which is another kernel to compile

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01, seed=0)


def warm_up(runner: Runner, *, num_pages: int, page_size: int, max_tokens: int, vocab_size: int, compiles: bool) -> None:
    """Run a prefill and a decode step, greedy and sampled; where kernels are compiled also long ones, under a mask.

    Raises what the device raises.
    """
    for wanted, sampling in ((PROMPT, GREEDY), (PROMPT, SAMPLED), *([(LONG, GREEDY)] if compiles else [])):
        length = min(wanted, max_tokens, num_pages * page_size - 1)
        pages = list(range(-(-(length + 1) // page_size)))
        request = Request(id="warm-up", prompt=[0] * length, sampling=sampling, grammar="any" if wanted == LONG else None)
        sequence = Sequence(request, 0, (0, 0.0, 0), length + 2, frozenset(), None)
        sequence.start(0, pages, 0, 0)
        prefill = Entry(sequence, 0, length, True, 0, True, pages, 0)
        decode = Entry(sequence, length, 1, True, 0, False, pages, len(pages))
        for entry in (prefill, decode):
            launched = runner.launch(Plan(0, [entry], [], entry.count))
            if launched.draw is not None:
                words = runner.mask_words(1, -(-vocab_size // 32))
                words.fill(-1)  # every token is allowed
                launched.draw([0], words)
            launched.wait()
