"""One call whose prompts become vectors: all of them at the engine together, cancelled when nobody waits any more.

They go the way of every other call (`Call`, `Generation`), so keys, budgets, deadlines and metrics hold for them too. Knows
nothing of what the vectors are for. Open `pooled`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast, get_args

import msgspec
from starlette.types import Scope

from redline import vectors
from redline.engine.message import EngineInfo
from redline.errors import InternalError, InvalidRequest, UnsupportedField
from redline.server.caller import caller_of
from redline.server.embeddings_schema import EmbeddingUsage, PoolingBody
from redline.server.generation import Generation
from redline.server.parameters import parameters_without_answer
from redline.server.prompt import INLINE_CHARS, Prompt, check, encoded
from redline.server.reply import Call
from redline.server.service import Service
from redline.types import Pooling
from redline.vectors import Vectors

MAX_INPUTS = 2048


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The vectors of one call, in the order of its prompts, as the model gave them."""

    call: Call
    vectors_ND: Vectors
    usage: EmbeddingUsage
    receipt: Any  # of the one prompt, or a list of them

    @property
    def told(self) -> dict[str, Any]:
        """What belongs to the end of an answer: the usage, and the receipt if it was asked for."""
        return {"usage": self.usage, **({"redline": self.receipt} if self.call.asked.want_receipt else {})}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call that was checked, tokenised, and can run."""

    call: Call
    prompts: list[list[int]]
    pooling: Pooling


async def asked_of(
    service: Service, scope: Scope, body: PoolingBody, prefix: str, arrival: float, prompts: Sequence[tuple[str, Prompt]]
) -> Asked:
    """`prompts` with the names of their fields. Raises what a prompt or a field of `body` deserves."""
    info = service.ready()
    service.check_model(body.model)
    call = Call(
        prefix=prefix,
        model=service.served_name,
        asked=parameters_without_answer(body, info),
        stream=False,
        arrival=arrival,
        continues=False,
        caller=caller_of(scope),
    )
    pooling = _pooling(body.pooling, info)
    most = min(MAX_INPUTS, service.client.config.scheduler.max_queued_requests)  # more could never all wait
    if not 0 < len(prompts) <= most:
        name = prompts[0][0].partition("[")[0] if prompts else "input"
        raise InvalidRequest(f"1 to {most} texts can be sent at a time, not {len(prompts)}", param=name)

    def tokens() -> list[list[int]]:
        special = body.add_special_tokens is not False
        found = encoded(service.tokenizer, prompts, info, add_special_tokens=special, answer=0)
        for (param, _), prompt in zip(prompts, found, strict=True):
            check(prompt, info, param, answer=0)
        return found

    long = sum(len(prompt) for _, prompt in prompts) > INLINE_CHARS
    return Asked(call=call, prompts=await asyncio.to_thread(tokens) if long else tokens(), pooling=pooling)


async def pooled(service: Service, asked: Asked) -> Pooled:
    """Run the call. Raises the error that ends it; whatever the reason to stop, what still runs is cancelled."""
    call = asked.call
    with_receipt = call.asked.want_receipt or len(asked.prompts) == 1  # a thousand that nobody asked for are much to keep
    requests = [
        msgspec.structs.replace(call.request(i, prompt, call.asked.sampling), pooling=asked.pooling, want_receipt=with_receipt)
        for i, prompt in enumerate(asked.prompts)
    ]
    generation = Generation(service, requests, call.arrival, continues=False)
    found: dict[int, bytes] = {}
    async with aclosing(generation.pieces()) as source:
        async for pieces in source:
            for choice, delta, _ in pieces:
                if delta.embedding is not None:
                    found[choice] = delta.embedding
    vectors_ND = vectors.of_bytes([found[i] for i in range(len(requests))])
    if not vectors.are_finite(vectors_ND):
        raise InternalError("the model's vectors are not finite numbers", hint="serve it with --dtype float32 or bfloat16")
    usage = generation.usage
    return Pooled(
        call=call,
        vectors_ND=vectors_ND,
        usage=EmbeddingUsage(
            prompt_tokens=usage.prompt_tokens,
            total_tokens=usage.total_tokens,
            prompt_tokens_details={"cached_tokens": usage.cached_tokens},
        ),
        receipt=generation.receipt,
    )


def _pooling(wanted: Pooling | None, info: EngineInfo) -> Pooling:
    """The caller's, else the model's own, else that of the last token."""
    chosen = wanted or info.pooling or "last"
    for known in get_args(Pooling):
        if chosen == known:
            return cast(Pooling, known)
    raise UnsupportedField(
        f"this model pools by {chosen}, which is not supported", hint="choose pooling last or mean", param="pooling"
    )
