"""One HTTP request from its first byte to its last, as a record that the parts of the server write into.

access.py opens one for every request; whoever learns something worth telling notes it here: the key, the tokens, the
engine's times, the error. The log line, the metrics and the trace are made of it at the end. Nothing in it is text of a
prompt or of an answer. Open `Exchange`, then `current`.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from redline.types import Timing, Usage

MAX_WARNINGS = 20


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Times are time.monotonic(), but for `began_ns`, which is time.time_ns() of the same moment."""

    id: str
    method: str = ""
    path: str = ""
    traceparent: str = ""
    lenient: bool = False  # unknown fields of a body are dropped with a warning
    began: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)
    answered: float | None = None  # when the status line left
    ended: float = 0.0
    status: int = 0
    route: str = "other"
    key: str = ""  # public id of the caller's key
    error: str = ""  # code of the error it ended with
    warnings: list[str] = field(default_factory=list)
    operation: str = ""  # what was asked of a model, as OpenTelemetry calls it: chat, text_completion, embeddings
    model: str = ""
    usage: Usage | None = None
    billed: Usage | None = None  # what the key was charged, answers that nobody read to their end included
    finishes: list[str] = field(default_factory=list)
    first_token: float | None = None
    timing: Timing | None = None  # of the prompt that took longest
    detokenize_s: float = 0.0

    def bill(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """Add what one call to the engine used."""
        before = self.billed or Usage()
        self.billed = Usage(
            prompt_tokens=before.prompt_tokens + prompt_tokens,
            completion_tokens=before.completion_tokens + completion_tokens,
            cached_tokens=before.cached_tokens + cached_tokens,
        )

    def warn(self, sentence: str) -> None:
        """Tell the caller something in a header; the first `MAX_WARNINGS` are told."""
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(sentence)


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current() -> Exchange | None:
    """The exchange that this task works for; None where a server works for nobody on a socket."""
    return _current.get()


def enter(exchange: Exchange) -> None:
    """Make `exchange` the current one of this task and of those that it starts."""
    _current.set(exchange)
