"""Which requests are let in: the engine's limits, and how long an answer may get within them.

A prompt is never cut: what cannot fit is refused with the numbers and the option to change. What fits alone is admitted,
even if everything that was admitted could not fit at the same time. Knows nothing of queues. Open `token_limit` first.
"""

from __future__ import annotations

from dataclasses import dataclass

from redline.engine.pages import PagePool
from redline.errors import ConfigError, ContextTooLong, DoesNotFit, InvalidRequest
from redline.types import Request


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the engine may do at one time. Raises ConfigError if a running sequence might never get its token."""

    max_num_seqs: int  # sequences that run together: rows of the device tables
    max_num_batched_tokens: int  # tokens of one step, prefill and decode together
    max_model_len: int  # prompt and answer of one sequence
    max_queued_requests: int  # requests that may wait for their first step
    max_position: int = 0  # tokens that the model itself can tell apart; 0: not known

    def __post_init__(self) -> None:
        for name, least in (("max_num_seqs", 1), ("max_num_batched_tokens", 1), ("max_model_len", 2), ("max_queued_requests", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}", param=name)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is less than max_num_seqs {self.max_num_seqs}, "
                "so a full batch could not decode one token each",
                hint="raise max_num_batched_tokens or lower max_num_seqs",
                param="max_num_batched_tokens",
            )


def token_limit(request: Request, limits: Limits, pool: PagePool) -> int:
    """The length, prompt and answer, at which each choice of `request` ends.

    The KV of the last token is never computed, so a limit of L takes the pages of L - 1 tokens. Raises InvalidRequest for an
    empty prompt, ContextTooLong where prompt and answer exceed the context, DoesNotFit where one choice alone would exceed
    the page pool. Without max_tokens the answer may fill what both leave.
    """
    prompt, answer, context = len(request.prompt), request.sampling.max_tokens, limits.max_model_len
    if prompt == 0:
        raise InvalidRequest("the prompt has no tokens", param="prompt")
    if request.pooling is not None:
        return _pooling_limit(request, limits, pool)
    check_context(prompt, answer, context, limits.max_position)
    needed = pool.pages_for(prompt + (answer or 1) - 1)
    if needed > pool.num_pages:
        raise DoesNotFit(
            f"{prompt} prompt tokens and max_tokens {answer or 'not given'} need {needed} KV pages of {pool.page_size} tokens, "
            f"the pool has {pool.num_pages}",
            hint="lower max_tokens, or raise num_pages, kv_cache_memory or gpu_memory_utilization",
        )
    if answer is not None:
        return prompt + answer
    return min(context, pool.num_pages * pool.page_size + 1)


def check_context(prompt: int, answer: int | None, context: int, own: int) -> None:
    """Raises ContextTooLong where so many tokens of prompt and answer exceed the `context`; the model's `own` may be longer."""
    if prompt + (answer or 1) > context:
        asked = f"{prompt} prompt tokens and max_tokens {answer} make {prompt + answer}" if answer else f"{prompt} prompt tokens"
        room = (
            "the answer needs at least one token of it" if prompt >= context else f"leave max_tokens at most {context - prompt}"
        )
        raise ContextTooLong(
            f"{asked}, but the context is {context} tokens",
            hint=f"{_shorter(context, own)}; {room}",
            param="prompt" if prompt >= context else "max_tokens",
        )


def _shorter(context: int, own: int) -> str:
    """What helps against a prompt that is too long: a longer context only where the model has one."""
    more = own > context
    return "shorten the prompt or raise max_model_len" if more else "shorten the prompt: the model's own context is no longer"


def _pooling_limit(request: Request, limits: Limits, pool: PagePool) -> int:
    """`token_limit` of a request that pools: its vector stands in the place of one answer token, and takes no page."""
    sampling, prompt = request.sampling, len(request.prompt)
    if sampling.n != 1 or sampling.prompt_logprobs is not None or request.grammar is not None:
        raise InvalidRequest(
            "a request that pools has no answer, so n, prompt_logprobs and grammar mean nothing", param="pooling"
        )
    if prompt > limits.max_model_len:
        raise ContextTooLong(
            f"{prompt} prompt tokens, but the context is {limits.max_model_len} tokens",
            hint=_shorter(limits.max_model_len, limits.max_position),
            param="prompt",
        )
    if (needed := pool.pages_for(prompt)) > pool.num_pages:
        raise DoesNotFit(
            f"{prompt} prompt tokens need {needed} KV pages of {pool.page_size} tokens, the pool has {pool.num_pages}",
            hint="raise num_pages, kv_cache_memory or gpu_memory_utilization",
        )
    return prompt + 1
