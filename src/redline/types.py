"""Records that cross rooms: what a caller asks (`SamplingParams`, `Request`) and what the engine answers (`Chunk`).

They are msgspec structs, so the same record is the Python object, the message between the two processes and the
thing the tests build. Nothing here imports torch, and nothing here knows about HTTP. Open `SamplingParams` first.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from redline.errors import InvalidRequest

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_STOPS = 64

Finish = Literal["stop", "length", "abort", "deadline", "error"]
Pooling = Literal["last", "mean"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one request is sampled. Defaults are the OpenAI API's.

    Penalties follow the usual conventions: `repetition_penalty` looks at prompt and answer, `frequency_penalty` and
    `presence_penalty` at the answer alone. Draws depend only on (seed, choice index, position), never on the batch.
    """

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    min_p: float = 0.0  # keep tokens of at least min_p times the best token's probability
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None  # None: the engine draws one and reports it
    n: int = 1
    max_tokens: int | None = None  # None: to the end of the context
    min_tokens: int = 0  # end tokens and stop ids are forbidden until then
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False  # keep the stop string in the text
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; k: the chosen token's and the k best, of the raw distribution
    prompt_logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)

    def check(self, vocab_size: int | None = None) -> None:
        """Raise InvalidRequest naming the first field that is out of range; `vocab_size` bounds token ids."""
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN is not either
                raise InvalidRequest(f"{name} must be between {low} and {high}, not {str(value)[:40]}", param=name)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(f"min_tokens {self.min_tokens} exceeds max_tokens {self.max_tokens}", param="min_tokens")
        for name, items, most in (
            ("logit_bias", self.logit_bias, MAX_LOGIT_BIAS),
            ("stop", self.stop, MAX_STOPS),
            ("stop_token_ids", self.stop_token_ids, MAX_STOPS),
        ):
            if len(items) > most:
                raise InvalidRequest(f"{name} has {len(items)} entries, at most {most} are allowed", param=name)
        if any(not text for text in self.stop):
            raise InvalidRequest("a stop string must not be empty", param="stop")
        for token, bias in self.logit_bias.items():
            if not -100.0 <= bias <= 100.0:
                raise InvalidRequest(f"logit_bias of token {token} must be between -100 and 100, not {bias}", param="logit_bias")
        if vocab_size is not None:
            for name, tokens in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
                for token in tokens:
                    if not 0 <= token < vocab_size:
                        raise InvalidRequest(f"{name}: token {token} is not in the vocabulary of {vocab_size}", param=name)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 100),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 1e-9, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.01, 100),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("seed", -(2**63), 2**63 - 1),
    ("n", 1, MAX_CHOICES),
    ("max_tokens", 1, 2**31 - 1),
    ("min_tokens", 0, 2**31 - 1),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to run. Token ids only: text and templates end before the engine begins."""

    id: str
    prompt: list[int]
    sampling: SamplingParams
    priority: int = 0  # lower runs first
    arrival: float = 0.0  # time.monotonic() of admission; one clock for all processes of a machine
    deadline: float | None = None  # time.monotonic() after which the request ends with finish "deadline"
    cache_salt: str = ""  # prefixes are shared only between equal salts
    want_receipt: bool = False
    grammar: str | None = None  # what the answer must match, as llguidance writes a grammar (engine/grammar.py)
    pooling: Pooling | None = None  # no answer: one vector, of the last hidden state or of the mean over the prompt
    tenant: str = ""  # who asks: the queue is shared fairly between tenants
    weight: float = 1.0  # of the tenant's share
    tokens_per_chunk: int = 1  # after the first, chunks may gather so many where nobody reads the answer as it comes


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probability of `token` under the raw distribution, and the best alternatives, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one request; `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine's time of one request went, in seconds: waiting, until the first token, from there to the end."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error on its way across a process boundary; `errors.by_code(code)` rebuilds it."""

    code: str
    message: str
    hint: str = ""
    param: str | None = None
    retry_after_s: float | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step added to choice `index` of request `id`.

    The chunk with `finish` is the last of its choice, and every choice gets exactly one. `prompt_logprobs` (one entry
    per prompt token, None for the first) comes once, with choice 0. `usage` and `timing` come with a finish, `receipt` with
    the last one of a request, and `embedding` (float32, little endian) with the one finish of a request that pools.
    """

    id: str
    index: int = 0
    tokens: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: Finish | None = None
    stop_token: int | None = None  # the stop id that ended it, where one did
    failure: Failure | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    receipt: dict[str, object] | None = None
    embedding: bytes | None = None
