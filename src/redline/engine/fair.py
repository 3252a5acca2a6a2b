"""Who is next among tenants of one priority: start-time fair queueing over what requests are expected to cost.

Each request gets a virtual start tag when it is queued, and the lower tag starts first. The tags of a tenant that asks for
much run ahead of the clock, those of one that asks for little stay with it, so each gets its weight's share of the service
while it has anything waiting, whoever else floods the queue; what a tenant does not use, the others get. Within a tenant
order of arrival is kept. Goyal, Vin, Cheng: Start-time Fair Queuing, SIGCOMM 1996; costs as in Sheng et al., Fairness in
Serving Large Language Models, OSDI 2024: an answer token counts as two prompt tokens.

Nobody knows how long an answer gets: the recent mean is charged, and what was charged too much or too little is settled
when the request ends. Knows nothing of pages, rows or time. Open `FairShare.tag` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from redline.types import Request

ANSWER_WEIGHT = 2.0
FIRST_GUESS = 256.0  # answer tokens of a choice, before any has ended
MEMORY = 1 / 64  # of the recent mean: the share of its newest choice
IDLE_FLOWS = 256  # tenants that have nothing here, and are remembered until the next sweep


@dataclass(slots=True)
class _Flow:
    """One tenant: the tag its next request gets at the earliest, and the highest that one of its requests has."""

    finish: float = 0.0
    newest: float = 0.0
    live: int = 0


@dataclass(slots=True)
class _Class:
    """One priority: its clock is the highest tag that has started."""

    clock: float = 0.0
    live: int = 0
    flows: dict[str, _Flow] = field(default_factory=dict)


@dataclass(slots=True)
class _Charge:
    cost: float
    used: float = 0.0


class FairShare:
    """The tags of one queue. A priority that has nothing here is forgotten, and so are its tenants' debts."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._charges: dict[str, _Charge] = {}
        self._answer = FIRST_GUESS

    def tag(self, request: Request) -> float:
        """The start tag of a request that is queued now. Every one that is tagged must be `settled`."""
        of_priority = self._classes.setdefault(request.priority, _Class())
        flow = of_priority.flows.get(request.tenant)
        if flow is None:
            self._sweep(of_priority)
            flow = of_priority.flows[request.tenant] = _Flow()
        sampling = request.sampling
        answer = self._answer if sampling.max_tokens is None else min(sampling.max_tokens, self._answer)
        cost = len(request.prompt) + ANSWER_WEIGHT * answer * sampling.n
        flow.newest = max(of_priority.clock, flow.finish)
        flow.finish = flow.newest + cost / _weight(request)
        flow.live += 1
        of_priority.live += 1
        self._charges[request.id] = _Charge(cost)
        return flow.newest

    def started(self, priority: int, tag: float) -> None:
        """A request with `tag` starts: the clock of its priority moves up to it."""
        of_priority = self._classes[priority]
        of_priority.clock = max(of_priority.clock, tag)

    def ended(self, request: Request, answer: int, *, started: bool) -> None:
        """A choice of `request` ended with `answer` tokens; `started`: it ever ran."""
        self._charges[request.id].used += ANSWER_WEIGHT * answer
        if started and answer:
            self._answer += (answer - self._answer) * MEMORY

    def settled(self, request: Request, prompt: int) -> None:
        """The last choice of `request` ended; `prompt` of its prompt tokens were computed, not found in a cache."""
        charge = self._charges.pop(request.id)
        of_priority = self._classes[request.priority]
        flow = of_priority.flows[request.tenant]
        owed = (charge.used + prompt - charge.cost) / _weight(request)
        flow.finish = max(flow.newest, flow.finish + owed)  # never before one of its own that waits
        flow.live -= 1
        of_priority.live -= 1
        if not of_priority.live:
            del self._classes[request.priority]
        elif not flow.live and flow.finish <= of_priority.clock:
            del of_priority.flows[request.tenant]

    def check(self) -> None:
        """Assert that nothing is remembered when nothing is here."""
        assert len(self._charges) == sum(each.live for each in self._classes.values())
        assert all(each.live == sum(flow.live for flow in each.flows.values()) for each in self._classes.values())

    def _sweep(self, of_priority: _Class) -> None:
        """Forget tenants that have nothing here and owe nothing, once there may be many."""
        flows = of_priority.flows
        if len(flows) >= IDLE_FLOWS + 2 * of_priority.live:
            for tenant in [name for name, flow in flows.items() if not flow.live]:
                del flows[tenant]


def _weight(request: Request) -> float:
    return request.weight if 0 < request.weight < math.inf else 1.0
