"""One choice of a request, from the engine's chunks to text: detokenised, cut at stop strings, ended exactly once.

The offline door and the server both read answers through this; an answer that is not streamed is the collected stream.
Torch-free; knows nothing of HTTP. Open `Answer.push` first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from redline.engine.detok import TextStream
from redline.tokenizer import Tokenizer
from redline.types import Chunk, Failure, Finish, Request, TokenLogprob, Usage


class Delta(msgspec.Struct, frozen=True, kw_only=True):  # five times quicker to make than a frozen dataclass
    """What one chunk added to choice `index`. The last delta of a choice carries `finish`, and `usage` with it."""

    index: int
    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: Finish | None = None
    stop: str | int | None = None  # the stop string or stop id that ended it
    failure: Failure | None = None
    usage: Usage | None = None
    receipt: dict[str, Any] | None = None
    embedding: bytes | None = None  # of a request that pools, with its finish


class Answer:
    """Choice `index` of `request` while it runs.

    `continues`: the answer goes on in the middle of the prompt's text, so a leading space is part of it. `shown` are special
    tokens that are part of the text, because somebody reads calls or reasoning by them.
    When a stop string is found the caller must cancel the choice in the engine (`wants_cancel` is true once); the
    engine's last chunk then arrives with finish "abort", which is told as "stop".
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        index: int,
        *,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
    ):
        self.index = index
        self.finished = False
        self._include_stop = request.sampling.include_stop
        verbatim = continues or request.grammar is not None  # a grammar counts every space
        self._stream = TextStream(
            tokenizer, request.sampling.stop, include_stop=self._include_stop, continues=verbatim, shown=shown
        )
        self._num_tokens = 0
        self._stop: str | None = None
        self._cancelled = False

    @property
    def wants_cancel(self) -> bool:
        """True the first time it is read after a stop string was found."""
        wants = self._stop is not None and not self._cancelled
        self._cancelled = self._cancelled or wants
        return wants

    def push(self, chunk: Chunk) -> Delta:
        """The chunk as text. Tokens that follow a stop string in the same or a later chunk are dropped."""
        assert not self.finished, "a choice ended twice"
        if chunk.finish is None and not self._stream.has_stops:  # nearly all of them
            tokens = chunk.tokens
            self._num_tokens += len(tokens)
            text = self._stream.push(tokens).text
            return Delta(
                index=self.index, text=text, tokens=tokens, logprobs=chunk.logprobs, prompt_logprobs=chunk.prompt_logprobs
            )
        self.finished = chunk.finish is not None
        if self._stop is not None:
            return self._end(chunk, "", [], None) if self.finished else Delta(index=self.index, text="", tokens=[])
        shown = chunk.tokens
        if chunk.stop_token is not None and not self._include_stop:
            shown = shown[:-1]  # the end token counts as a token, but is not part of the text
        text, kept = self._text(shown, chunk)
        tokens = chunk.tokens if self._stop is None else chunk.tokens[:kept]
        logprobs = chunk.logprobs[: len(tokens)] if chunk.logprobs is not None else None
        self._num_tokens += len(tokens)
        if self.finished:
            return self._end(chunk, text, tokens, logprobs)
        return Delta(index=self.index, text=text, tokens=tokens, logprobs=logprobs, prompt_logprobs=chunk.prompt_logprobs)

    def _text(self, tokens: list[int], chunk: Chunk) -> tuple[str, int]:
        """New text, and how many of `tokens` were read before a stop string ended it."""
        if not self._stream.has_stops:
            return self._stream.push(tokens).text + (self._stream.flush().text if chunk.finish else ""), len(tokens)
        text = ""
        for count, token in enumerate(tokens, 1):
            found = self._stream.push([token])
            text += found.text
            if found.stop is not None:
                self._stop = found.stop
                return text, count
        if chunk.finish is not None:
            rest = self._stream.flush()
            text, self._stop = text + rest.text, rest.stop
        return text, len(tokens)

    def _end(self, chunk: Chunk, text: str, tokens: list[int], logprobs: list[TokenLogprob] | None) -> Delta:
        finish: Finish | None = "stop" if self._stop is not None else chunk.finish
        return Delta(
            index=self.index,
            text=text,
            tokens=tokens,
            logprobs=logprobs,
            prompt_logprobs=chunk.prompt_logprobs,
            finish=finish,
            stop=self._stop if self._stop is not None else chunk.stop_token,
            failure=chunk.failure if finish == chunk.finish else None,
            usage=chunk.usage and _with_completion(chunk.usage, self._num_tokens),
            receipt=chunk.receipt,
            embedding=chunk.embedding,
        )


def _with_completion(usage: Usage, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=completion_tokens, cached_tokens=usage.cached_tokens)
