"""The process that compiles strangers' grammars first: `python -m redline.engine.grammar_trial`, started by server/grammars.py.

llguidance cannot be stopped, and some grammars make it use gigabytes, minutes, or the whole stack. Here that costs a process
with little memory, which its parent ends when it is late. One line of JSON in, one out; the first line in says what the
vocabulary is, and the first line out that it is ready. It ends with its input. Open `main`.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from typing import Any

from redline.engine.grammar import COMPILE_STACK_BYTES, probe
from redline.errors import RedlineError

HEAP_BYTES = 512 << 20  # beyond what the process has when it is ready
ALARM_S = 10.0  # for one grammar: it ends by itself where nobody is left to end it


class Bytes:
    """A vocabulary of single bytes and the special tokens, at their ids: enough to compile anything, and quick to set up."""

    is_tokenizer_wrapper = True

    def __init__(self, size: int, special: dict[str, str], eos_ids: list[int]) -> None:
        """`special` are names by id, which JSON makes texts."""
        self.tokens = [b""] * size
        self.special_token_ids = [int(id_) for id_ in special]
        for written, name in special.items():
            self.tokens[int(written)] = name.encode()
        free = (id_ for id_ in range(size) if str(id_) not in special and id_ not in eos_ids)
        self._ids = dict(zip(range(256), free, strict=False))
        for byte, id_ in self._ids.items():
            self.tokens[id_] = bytes([byte])
        self.eos_token_id = eos_ids[0]
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        return [self._ids[byte] for byte in text.encode()]


def main() -> None:
    """Read, try, answer, until the input ends."""
    threading.stack_size(COMPILE_STACK_BYTES // 2)  # what fits here fits there
    worker = threading.Thread(target=_serve)
    worker.start()
    worker.join()


def _serve() -> None:
    from llguidance import LLTokenizer

    first: dict[str, Any] = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not first:
        return
    vocabulary: Any = Bytes(first["size"], first["special"], first["eos"])  # it has what llguidance asks for
    tokenizer = LLTokenizer(vocabulary, eos_token=first["eos"], slices=LLTokenizer.json_slices())
    _limit_memory()
    _answer({"ready": True})
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, ALARM_S)  # its default action ends the process
        _answer(_tried(tokenizer, json.loads(line)["grammar"]))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _tried(tokenizer: Any, grammar: str) -> dict[str, Any]:
    try:
        probe(tokenizer, grammar)
    except RedlineError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}
    return {"code": None}


def _answer(told: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + HEAP_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
