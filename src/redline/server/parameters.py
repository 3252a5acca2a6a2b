"""From a request body to what the engine is asked: sampling parameters, deadline, the place in the context.

A field that is absent takes the model's own default, then the API's. Contradictions are refused, never resolved in
silence. Knows nothing of text or HTTP. Open `sampling_of` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from redline.engine.message import EngineInfo
from redline.errors import ContextTooLong, InvalidRequest, UnsupportedField
from redline.server.chat_schema import ChatBody
from redline.server.completion_schema import CompletionBody
from redline.server.embeddings_schema import PoolingBody
from redline.server.prompt import check
from redline.server.schema import Body
from redline.types import MAX_LOGPROBS, SamplingParams

T = TypeVar("T", int, float)

COMPLETION_MAX_TOKENS = 16  # the completions API's own default
MAX_DEADLINE_MS = 24 * 3600 * 1000.0
MAX_PRIORITY = 1 << 31
MAX_SALT = 256


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What a body asks of every prompt in it. `max_tokens_given` is false where the API's default stands in."""

    sampling: SamplingParams
    max_tokens_given: bool
    max_tokens_name: str = "max_tokens"  # of the field that it was given in
    priority: int = 0
    deadline_s: float | None = None
    cache_salt: str = ""
    want_receipt: bool = False
    include_usage: bool = False


def parameters_of(body: Body, info: EngineInfo) -> Parameters:
    """Everything but the prompt. Raises InvalidRequest or UnsupportedField with the field's name."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    sampling = sampling_of(body, info)
    return Parameters(
        sampling=sampling,
        max_tokens_given=_max_tokens(body) is not None,
        max_tokens_name=_max_tokens_name(body),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        **_way(body, info),
    )


def parameters_without_answer(body: PoolingBody, info: EngineInfo) -> Parameters:
    """Those of prompts that only become vectors. What is reserved for an answer is as little as can be: one token."""
    return Parameters(sampling=SamplingParams(max_tokens=1), max_tokens_given=False, **_way(body, info))


def _way(body: Body | PoolingBody, info: EngineInfo) -> dict[str, Any]:
    """How a request goes through the engine, whatever it asks."""
    if body.redline and not info.receipts:
        raise UnsupportedField("this server makes no receipts", hint="it was started with --no-receipts", param="redline")
    return {
        "priority": int(_bounded(body.priority or 0, "priority", -MAX_PRIORITY, MAX_PRIORITY)),
        "deadline_s": None if body.deadline_ms is None else _bounded(body.deadline_ms, "deadline_ms", 1, MAX_DEADLINE_MS) / 1000,
        "cache_salt": _salt(body.cache_salt or ""),
        "want_receipt": bool(body.redline),
    }


def sampling_of(body: Body, info: EngineInfo) -> SamplingParams:
    """The sampling parameters of a body, checked. Raises InvalidRequest with the body's own field name."""

    def chosen(value: T | None, name: str, otherwise: T) -> T:
        return value if value is not None else type(otherwise)(info.defaults.get(name, otherwise))

    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    top_k = chosen(body.top_k, "top_k", 0)
    max_tokens = _max_tokens(body)
    if max_tokens is None and isinstance(body, CompletionBody):
        max_tokens = max(COMPLETION_MAX_TOKENS, body.min_tokens or 0)
    sampling = SamplingParams(
        temperature=chosen(body.temperature, "temperature", 1.0),
        top_k=0 if top_k == -1 else top_k,  # -1 is how other servers spell "off"
        top_p=chosen(body.top_p, "top_p", 1.0),
        min_p=chosen(body.min_p, "min_p", 0.0),
        repetition_penalty=chosen(body.repetition_penalty, "repetition_penalty", 1.0),
        frequency_penalty=chosen(body.frequency_penalty, "frequency_penalty", 0.0),
        presence_penalty=chosen(body.presence_penalty, "presence_penalty", 0.0),
        logit_bias=body.logit_bias or {},
        seed=body.seed,
        n=1 if body.n is None else body.n,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        stop=stop,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop=bool(body.include_stop_str_in_output),
        ignore_eos=bool(body.ignore_eos),
        logprobs=_logprobs(body),
        prompt_logprobs=_prompt_logprobs(body),
    )
    try:
        sampling.check(info.vocab_size)
    except InvalidRequest as error:
        name = _max_tokens_name(body)
        if error.param == "max_tokens" != name:
            raise InvalidRequest(error.message.replace("max_tokens", name), param=name) from error
        raise
    if isinstance(body, CompletionBody) and body.best_of not in (None, sampling.n):
        raise UnsupportedField("best_of other than n is not supported", hint="leave it out", param="best_of")
    return sampling


def fit(prompt: list[int], asked: Parameters, info: EngineInfo, param: str) -> SamplingParams:
    """The sampling parameters for this prompt in this context.

    A limit that the caller gave is kept or refused; one that the API gave is cut to what is left. Raises
    ContextTooLong with the numbers, InvalidRequest for an empty prompt or a token that does not exist.
    """
    size, room = len(prompt), info.max_model_len - len(prompt)
    check(prompt, info, param)
    sampling = asked.sampling
    if sampling.max_tokens is None or sampling.max_tokens <= room:
        return sampling
    if asked.max_tokens_given:
        raise ContextTooLong(
            f"the prompt has {size} tokens and {asked.max_tokens_name} is {sampling.max_tokens}: {size + sampling.max_tokens} in all, "
            f"and the context holds {info.max_model_len}",
            hint=f"ask for at most {room} tokens",
            param=asked.max_tokens_name,
        )
    return msgspec.structs.replace(sampling, max_tokens=room)


def _max_tokens_name(body: Body) -> str:
    return "max_completion_tokens" if isinstance(body, ChatBody) and body.max_completion_tokens is not None else "max_tokens"


def _max_tokens(body: Body) -> int | None:
    if not isinstance(body, ChatBody) or body.max_completion_tokens is None:
        return body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise InvalidRequest(
            f"max_tokens is {body.max_tokens} and max_completion_tokens {body.max_completion_tokens}",
            hint="send one of them",
            param="max_completion_tokens",
        )
    return body.max_completion_tokens


def _logprobs(body: Body) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    assert isinstance(body, ChatBody)
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        return None
    return int(_bounded(body.top_logprobs or 0, "top_logprobs", 0, MAX_LOGPROBS))


def _prompt_logprobs(body: Body) -> int | None:
    """An echoed prompt is scored like the answer."""
    if not isinstance(body, CompletionBody) or not body.echo or body.logprobs is None:
        return body.prompt_logprobs
    if body.n not in (None, 1):
        raise UnsupportedField("echo with logprobs is not supported for n above 1", hint="send n: 1", param="echo")
    return max(body.logprobs, body.prompt_logprobs or 0)


def _bounded(value: float, name: str, low: float, high: float) -> float:
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value:g}", param=name)
    return value


def _salt(salt: str) -> str:
    if len(salt) > MAX_SALT:
        raise InvalidRequest(f"cache_salt has {len(salt)} characters, at most {MAX_SALT} are allowed", param="cache_salt")
    return salt
