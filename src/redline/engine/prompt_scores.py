"""Scores of prompt tokens between the steps that compute them and the first token of the answer, with which they are told.

Knows nothing of devices. Open `PromptScoreBook`.
"""

from __future__ import annotations

from redline.engine.draft import Plan
from redline.engine.runner import StepResult
from redline.types import Request, TokenLogprob


class PromptScoreBook:
    """What is known of the prompts of live requests. Scores come chunk by chunk, and again after a preemption: kept by position."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, TokenLogprob]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, plan: Plan, result: StepResult) -> None:
        """Take in what a step has scored."""
        for index, first, scores in result.prompt_scores:
            sequence = plan.entries[index].sequence
            request = sequence.request
            if sequence.finish is not None:
                continue  # it ended while the step ran, and nobody would ever take them
            kept = self._known.setdefault(request.id, {})
            most = request.sampling.prompt_logprobs or 0
            for position, scored in enumerate(scores, first):
                kept[position] = TokenLogprob(request.prompt[position], scored.logprob, scored.top[:most])

    def take(self, request: Request) -> list[TokenLogprob | None] | None:
        """The scores of a prompt, None for its first token; None if nobody asked for them. They are forgotten."""
        if request.sampling.prompt_logprobs is None:
            return None
        kept = self._known.pop(request.id, {})
        return [kept.get(position) for position in range(len(request.prompt))]

    def drop(self, request_id: str) -> None:
        """Forget what is known of a request that has ended."""
        self._known.pop(request_id, None)
