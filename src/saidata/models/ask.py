"""What is asked of a model and what comes back, as plain records: `Ask`, `Answer`, `Piece`; and `Model`, which answers.

Knows nothing of saidata's format, of evidence or of engines. Open `Model` first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal, Protocol, Self

import msgspec

Form = Literal["json", "yaml"]


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `schema` binds the answer, written as `form` says, or `lark` does, a grammar; without both it is free text."""

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    form: Form = "json"
    lark: str | None = None  # in llguidance's dialect
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    scores: bool = False  # log-probabilities of every token; costs the tokens that the form forces a step each

    def key(self) -> str:
        """A hash of all that decides the answer, the model apart."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Score(msgspec.Struct, frozen=True):
    """One token of an answer, its log-probability before any constraint, and the best others."""

    text: str
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered."""

    text: str
    finish: str  # "stop", or "length" where it was cut off
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, that were computed before
    steps: int | None = None  # decode steps it took, where they are counted: forced tokens take none
    scores: tuple[Score, ...] = ()
    seconds: float = 0.0  # from asking to the end; several asks share a machine, so these overlap
    receipt: dict[str, Any] | None = None


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer that is still written; the last one carries the whole `answer`."""

    text: str
    answer: Answer | None = None


class Model(Protocol):
    """Something that answers. Raises SaidataError, or a subclass, where it cannot."""

    @property
    def name(self) -> str:
        """What the user calls it; together with an ask it decides the answer."""
        ...

    def answers(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Answer]]:
        """The answers as they end, each with the number of its ask. Asks are taken as there is room, never all at once."""
        ...

    def stream(self, ask: Ask) -> Generator[Piece, None, None]:
        """One answer as it is written. Closing the generator cancels it."""
        ...

    def close(self) -> None:
        """Free what it holds. Safe to repeat; the next question opens it again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
