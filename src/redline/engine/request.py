"""A choice of a request while it is in the engine (`Sequence`), and what became of it (`Sampled`, `Ended`).

Knows nothing of queues, devices or text: the scheduler changes these records, the batch builder and the loop read them.
Open `Sequence` first.

A step may be planned before the tokens of the newest launched step are known on the host. They exist all the same (the
device feeds them to the next step from its token table), so a sequence counts them in `in_flight`:

    tokens                      known: prompt, then answer        len(tokens)
    tokens + in flight          existing                          length
    KV computed or planned      always fewer than exist           num_planned < length
"""

from __future__ import annotations

import msgspec

from redline.types import Finish, Request

Rank = tuple[int, float, int]
"""(priority, arrival, serial number): the lower runs first, the highest is preempted first. No two are equal."""


class Sequence:
    """One choice of a request, from admission to its end. Only the scheduler writes to it.

    `limit` is the length at which it ends; `stop_ids` end it earlier. `parent` is the choice whose prompt KV this one
    shares; None once it has started. `row` is its slot in the device tables, -1 while it waits.
    `pages[:num_tabled]` are already in the row's page table; `pages[:num_registered]` have been offered to the prefix
    cache under `digests`. `cached_tokens` of the prompt came from that cache when the sequence first started.
    """

    __slots__ = (
        "cached_tokens",
        "digests",
        "finish",
        "in_flight",
        "index",
        "limit",
        "num_planned",
        "num_registered",
        "num_tabled",
        "pages",
        "parent",
        "prompt_len",
        "rank",
        "request",
        "row",
        "stop_ids",
        "tokens",
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

    @property
    def length(self) -> int:
        """Tokens that exist, those still on their way from the device included."""
        return len(self.tokens) + self.in_flight

    @property
    def num_answer(self) -> int:
        """Known answer tokens."""
        return len(self.tokens) - self.prompt_len

    @property
    def started(self) -> bool:
        """Whether it ever had a row."""
        return self.tokens is not self.request.prompt

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether every prompt position must be computed: its logprobs were asked for and have not been delivered."""
        return self.index == 0 and self.request.sampling.prompt_logprobs is not None and self.num_answer == 0

    def start(self, row: int, pages: list[int], num_planned: int, num_registered: int) -> None:
        """Take `row` and the shared `pages`, which hold the KV of at least the first `num_planned` tokens."""
        if not self.started:
            self.tokens = list(self.request.prompt)
        self.parent = None
        self.row = row
        self.pages = pages
        self.num_planned = num_planned
        self.num_tabled = 0
        self.num_registered = num_registered

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


class Sampled(msgspec.Struct, frozen=True, eq=False):
    """A token that became known. `sample` is its place among the plan's sampled tokens; `finish` says if it was the last."""

    sequence: Sequence
    token: int
    sample: int
    finish: Finish | None

    @property
    def stop_token(self) -> int | None:
        """The end or stop id that ended the choice, if one did."""
        return self.token if self.finish == "stop" else None


class Ended(msgspec.Struct, frozen=True, eq=False):
    """A choice that ended without a new token: cancelled or past its deadline."""

    sequence: Sequence
    finish: Finish
