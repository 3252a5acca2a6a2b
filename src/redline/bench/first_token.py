"""A process that starts as a user's would, makes one token, and says when: what `redline bench start` runs.

    python -m redline.bench.first_token MODEL OPTIONS

OPTIONS are the offline door's, as JSON. The last line of standard output is a JSON document: `stages` in seconds, in order,
from the start of the process to the first token, `file_bytes` of the weights. Open `main`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from redline.config import AUTO
from redline.engine.early import Early
from redline.engine.stages import IMPORTING, Stages, process_began
from redline.types import SamplingParams

FIRST_TOKEN = "first token"
PROMPT = [(17 * i) % 251 for i in range(128)]


def main() -> None:
    model, options = sys.argv[1], json.loads(sys.argv[2])
    stages = Stages(lambda stage, percent: None, began=process_began())
    stages(IMPORTING, 0)
    with _opened(model, options, stages) as llm:
        stages(FIRST_TOKEN, 99.9)
        llm.generate(PROMPT, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
        seconds = stages.seconds()
        info = llm.info
    about = {"device": info.device, "dtype": info.dtype, "file_bytes": info.file_bytes, "weight_bytes": info.weight_bytes}
    print(json.dumps({"stages": seconds, **about}))


@contextlib.contextmanager
def _opened(model: str, options: dict[str, Any], stages: Stages) -> Iterator[Any]:
    """The door as the commands open it: the device and the files are opened while torch is imported."""
    with contextlib.closing(Early(model, options.get("revision"), options.get("device", AUTO))):
        from redline.llm import LLM

        llm = LLM(model, receipts=False, progress=stages, **options)
    with llm:
        yield llm


if __name__ == "__main__":
    main()
