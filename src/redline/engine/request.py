"""A choice of a request while it is in the engine (`Sequence`), and what became of it (`Sampled`, `Pooled`, `Ended`).

Knows nothing of queues, devices or text: the scheduler changes these records, the batch builder and the loop read them.
Open `Sequence` first.

A step may be planned before the tokens of the newest launched step are known on the host. They exist all the same (the
device feeds them to the next step from its token table), so a sequence counts them in `in_flight`:

    tokens                      known: prompt, then answer        len(tokens)
    of those, told              have left in a `Sampled`          num_told <= len(tokens)
    tokens + in flight          existing                          length
    KV computed or planned      always fewer than exist           num_planned < length
"""

from __future__ import annotations

import msgspec

from redline.types import Finish, Request

Rank = tuple[int, float, int]
"""(priority, start tag of its tenant (fair.py), serial number): the lower runs first, the highest is preempted first. No two are equal."""


class Follow(msgspec.Struct, frozen=True):
    """What the grammar of a sequence says after its newest token: `forced` tokens must follow; then it may be `complete`."""

    forced: list[int] = []
    complete: bool = False


class Sequence:
    """One choice of a request, from admission to its end. Only the scheduler writes to it.

    `limit` is the length at which it ends; `stop_ids` end it earlier. `parent` is the choice whose prompt KV this one
    shares; None once it has started. `row` is its slot in the device tables, -1 while it waits.
    `pages[:num_tabled]` are already in the row's page table; `pages[:num_registered]` have been offered to the prefix
    cache under `digests`. `cached_tokens` of the prompt came from that cache when the sequence first started.

    `constrained`: its tokens are limited by a grammar, which also forces some. It is `ready` to start once that grammar is
    compiled. `upload_from` is the first token that the device does not have: forced ones come from the host.
    `tokens_per_chunk`: the first token is told when it is known, later ones when there are so many, or at the end.
    """

    __slots__ = (
        "cached_tokens",
        "constrained",
        "digests",
        "finish",
        "in_flight",
        "index",
        "limit",
        "num_planned",
        "num_registered",
        "num_tabled",
        "num_told",
        "pages",
        "parent",
        "prompt_len",
        "rank",
        "ready",
        "request",
        "row",
        "started",
        "stop_ids",
        "tokens",
        "tokens_per_chunk",
        "upload_from",
    )

    def __init__(self, request: Request, index: int, rank: Rank, limit: int, stop_ids: frozenset[int], parent: Sequence | None):
        self.request = request
        self.index = index
        self.rank = rank
        self.limit = limit
        self.stop_ids = stop_ids
        self.parent = parent
        self.prompt_len = len(request.prompt)
        self.tokens = request.prompt  # copied when it starts: many choices may wait on one long prompt
        self.num_planned = 0
        self.in_flight = 0
        self.row = -1
        self.pages: list[int] = []
        self.num_tabled = 0
        self.num_registered = 0
        self.digests: list[bytes] = []
        self.cached_tokens = 0
        self.finish: Finish | None = None
        self.started = False  # whether it ever had a row
        self.num_told = self.prompt_len
        self.constrained = request.grammar is not None
        self.ready = not self.constrained
        self.upload_from: int | None = None
        self.tokens_per_chunk = 1 if _is_read_token_by_token(request) else request.tokens_per_chunk

    @property
    def length(self) -> int:
        """Tokens that exist, those still on their way from the device included."""
        return len(self.tokens) + self.in_flight

    @property
    def num_answer(self) -> int:
        """Known answer tokens."""
        return len(self.tokens) - self.prompt_len

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether every prompt position must be computed: its logprobs were asked for and have not been delivered."""
        return self.index == 0 and self.request.sampling.prompt_logprobs is not None and self.num_answer == 0

    @property
    def needs_every_position(self) -> bool:
        """Whether no position of the prompt may come from the prefix cache: its logprobs or its mean are asked for."""
        return self.needs_prompt_logits or self.request.pooling == "mean"

    def start(self, row: int, pages: list[int], num_planned: int, num_registered: int) -> None:
        """Take `row` and the shared `pages`, which hold the KV of at least the first `num_planned` tokens."""
        if not self.started:
            self.tokens = list(self.tokens)
            self.started = True
        self.parent = None
        self.upload_from = None  # a new row gets all of them
        self.row = row
        self.pages = pages
        self.num_planned = num_planned
        self.num_tabled = 0
        self.num_registered = num_registered

    def take(self, token: int) -> tuple[Finish | None, int | None]:
        """Append a token; how it ends the choice, if it does, and the end or stop id that did it.

        The sampler forbids end tokens before min_tokens.
        """
        self.tokens.append(token)
        if token in self.stop_ids and self.num_answer > self.request.sampling.min_tokens:
            return "stop", token
        return ("length" if len(self.tokens) == self.limit else None), None

    def extend(self, follow: Follow, finish: Finish | None) -> tuple[Finish | None, int | None]:
        """Take in what a grammar says after the newest token, which led to `finish`; as `take`."""
        if follow.forced and not self.started:
            self.tokens = list(self.tokens)
        for token in follow.forced:
            if len(self.tokens) == self.limit:
                return "length", None
            assert self.in_flight <= 1, "a token was planned that is fed from one which the grammar forces otherwise"
            self.in_flight = 0  # what the step in flight samples is not needed
            if self.upload_from is None:
                self.upload_from = len(self.tokens)
            finish, stop = self.take(token)
            if stop is not None:
                return finish, stop
        return ("stop" if follow.complete else finish), None

    def tell(self) -> list[int]:
        """The known answer tokens that have not been told, which are told now."""
        tokens = self.tokens[self.num_told :]
        self.num_told = len(self.tokens)
        return tokens

    def give_up(self) -> tuple[int, list[int]]:
        """Forget the KV and return the row and the pages that were held.

        The page list itself is left as it was: an entry that is planned and not launched yet still reads it.
        """
        held = self.row, self.pages
        self.row = -1
        self.pages = []
        self.num_planned = self.num_tabled = self.num_registered = 0
        return held

    def __repr__(self) -> str:
        state = self.finish or ("running" if self.row >= 0 else "waiting")
        return f"Sequence({self.request.id}[{self.index}] {state} {self.num_planned}/{self.length} of {self.limit})"


def _is_read_token_by_token(request: Request) -> bool:
    """Whether each token matters when it comes: a stop string may end the answer at any, and scores belong to steps."""
    return bool(request.sampling.stop) or request.sampling.logprobs is not None or request.grammar is not None


class Sampled(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Tokens that are told: those forced at the start, a sampled one, those that it forced, and what was held back before it.

    `sample` is the place of the sampled one among the plan's, None where the whole answer was forced; `first` says that
    nothing was told before, `finish` if these were the last, and `stop_token` which end or stop id the last one is.
    """

    sequence: Sequence
    sample: int | None
    finish: Finish | None
    stop_token: int | None
    first: bool
    tokens: list[int]


class Ended(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A choice that ended without a new token: cancelled or past its deadline."""

    sequence: Sequence
    finish: Finish


class Pooled(msgspec.Struct, frozen=True, eq=False):
    """A sequence whose vector is complete, which is its end. `entry` is its index into the plan's entries."""

    sequence: Sequence
    entry: int
