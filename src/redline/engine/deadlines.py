"""When requests must have ended: the deadlines of those that are live. Knows nothing else of them. Open `Deadlines`."""

from __future__ import annotations

import math

from redline.types import Request


class Deadlines:
    """Deadlines by request id, in the clock of `Request.deadline`. Looking for late ones costs nothing while there is none."""

    def __init__(self) -> None:
        self._by_id: dict[str, float] = {}
        self._next = math.inf  # none is earlier; it may be that of a request that is gone

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, request: Request) -> None:
        if request.deadline is not None:
            self._by_id[request.id] = request.deadline
            self._next = min(self._next, request.deadline)

    def remove(self, request_id: str) -> None:
        """Forget a request, whether it has a deadline or not."""
        self._by_id.pop(request_id, None)

    def late(self, now: float) -> list[str]:
        """The requests whose deadline is before `now`, which are forgotten."""
        if now <= self._next:
            return []
        late = [request_id for request_id, deadline in self._by_id.items() if deadline < now]
        for request_id in late:
            self.remove(request_id)
        self._next = min(self._by_id.values(), default=math.inf)
        return late
