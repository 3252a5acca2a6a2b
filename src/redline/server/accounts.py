"""Every call's way to the engine: its key's budget is reserved, its tokens are counted, and at the end it is settled.

`Accounts.open` refuses or reserves; the `Metered` stream counts what the engine sends and settles when it is closed,
however the call ended. What was used goes into the books (budgets.py), the ledger (usage.py) and the record of the HTTP
request (exchange.py), for the audit log. Knows nothing of HTTP or text. Open `Accounts.open`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from redline.errors import Forbidden
from redline.server import exchange
from redline.server.budgets import Account, Limits, Reservation, Standing
from redline.server.keys import Key, KeyRing
from redline.server.usage import Count, Ledger
from redline.types import Chunk, Request

EXPECTED_TOKENS = 512  # of a choice whose length nobody bounded


class Source(Protocol):
    """The engine client's `Stream`."""

    @property
    def open_ids(self) -> list[str]: ...
    async def __anext__(self) -> list[Chunk]: ...
    def close(self) -> None: ...


class Accounts:
    """The books of all keys of one server."""

    def __init__(self, ring: KeyRing, ledger: Ledger, model: str, clock: Callable[[], float] | None = None) -> None:
        """`clock` tells Unix time and never jumps."""
        self._ring = ring
        self.ledger = ledger
        self._model = model
        began = time.time() - time.monotonic()
        self._clock = clock or (lambda: began + time.monotonic())
        self._accounts: dict[str, Account] = {}
        now = self._clock()
        for key, at, tokens in ledger.spent(now):
            self._account(key).restore(tokens, at, now)

    def open(self, requests: Sequence[Request]) -> Bill:
        """Reserve what one call may use. Raises RateLimited or OverLimit, Forbidden for a priority ahead of the key's own,
        and RevokedKey or ExpiredKey where work for a caller of earlier outlives its key."""
        tenant = requests[0].tenant
        key = self._ring.get(tenant)
        reservation = None
        if key is not None:
            key.check()
            for request in requests:
                if request.priority < key.settings.priority:
                    raise Forbidden("this API key may not go ahead of its own priority", hint="leave it out", param="priority")
            limits = limits_of(key)
            if limits:
                tokens = sum(_most(request, limits) for request in requests)
                reservation = self._account(tenant).reserve(tokens, limits, self._clock())
        return Bill(requests, lambda count: self._settle(tenant, reservation, count))

    def has_limits(self, key_id: str) -> bool:
        key = self._ring.get(key_id)
        return key is not None and bool(limits_of(key))

    def standing(self, key_id: str) -> tuple[Standing | None, Standing | None]:
        """How the limits of a key stand: of requests, and of tokens."""
        key = self._ring.get(key_id)
        limits = Limits() if key is None else limits_of(key)
        return self._account(key_id).standing(limits, self._clock()) if limits else (None, None)

    def calls_open(self, key_id: str) -> int:
        """Calls of a key with limits that are at the engine now."""
        account = self._accounts.get(key_id)
        return 0 if account is None else account.open

    def _account(self, key_id: str) -> Account:
        return self._accounts.setdefault(key_id, Account())

    def _settle(self, tenant: str, reservation: Reservation | None, count: Count) -> None:
        now = self._clock()
        if reservation is not None:
            reservation.settle(count.prompt_tokens + count.completion_tokens, now)
        if count.requests:
            self.ledger.add(tenant, self._model, count, now)


class Bill:
    """What one call has used so far. A prompt counts once it may have cost something; one that the engine refused is free."""

    def __init__(self, requests: Sequence[Request], settle: Callable[[Count], None]) -> None:
        self._prompts = {request.id: len(request.prompt) for request in requests}
        self._settle: Callable[[Count], None] | None = settle
        self._tokens: dict[tuple[str, int], int] = {}
        self._cached: dict[str, int] = {}
        self._refused: set[str] = set()
        self._exchange = exchange.current()

    def count(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            key = chunk.id, chunk.index
            tokens = self._tokens[key] = self._tokens.get(key, 0) + len(chunk.tokens)
            if chunk.finish is None:
                continue
            if chunk.usage is not None:
                self._tokens[key] = chunk.usage.completion_tokens
                self._cached[chunk.id] = max(self._cached.get(chunk.id, 0), chunk.usage.cached_tokens)
            elif chunk.finish == "error" and not tokens:
                self._refused.add(chunk.id)

    def settle(self) -> None:
        """The call is over: tell what it used. Safe to repeat."""
        ran = [name for name in self._prompts if name not in self._refused or self._wrote(name)]
        self._close(
            Count(
                requests=1,
                prompt_tokens=sum(self._prompts[name] for name in ran),
                cached_tokens=sum(self._cached.values()),
                completion_tokens=sum(self._tokens.values()),
            )
        )

    def drop(self) -> None:
        """The call never reached the engine."""
        self._close(Count())

    def _wrote(self, name: str) -> bool:
        return any(tokens for (request_id, _), tokens in self._tokens.items() if request_id == name)

    def _close(self, count: Count) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(count)
            if self._exchange is not None and count.requests:
                self._exchange.bill(count.prompt_tokens, count.completion_tokens, count.cached_tokens)


class Metered:
    """A stream of the engine's client with its bill. Close it: that settles."""

    def __init__(self, source: Source, bill: Bill) -> None:
        self._source = source
        self._bill = bill

    def __aiter__(self) -> Metered:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks = await self._source.__anext__()
        self._bill.count(chunks)
        return chunks

    @property
    def open_ids(self) -> list[str]:
        return self._source.open_ids

    def close(self) -> None:
        self._source.close()
        self._bill.settle()


def limits_of(key: Key) -> Limits:
    settings = key.settings
    return Limits(
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        tokens_per_day=settings.tokens_per_day,
        concurrency=settings.concurrency,
    )


def _most(request: Request, limits: Limits) -> int:
    """The tokens that a request may use; where nobody bounded its answer, a guess that fits the budget."""
    prompt, sampling = len(request.prompt), request.sampling
    if request.pooling is not None:
        return prompt
    if sampling.max_tokens is not None:
        return prompt + sampling.n * sampling.max_tokens
    guess = sampling.n * EXPECTED_TOKENS
    return prompt + (guess if limits.tokens is None else max(1, min(guess, limits.tokens - prompt)))
