"""POST /v1/chat/completions: messages through the model's template, and the answer in the chat shape.

Knows nothing of how an answer is made or sent (generation.py, reply.py). Open `ChatCompletions.__call__` first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from redline.chat.parser import Text
from redline.engine.answer import Delta
from redline.errors import InvalidRequest, UnsupportedField
from redline.server import logprobs
from redline.server.caller import caller_of
from redline.server.chat_schema import ChatBody, Message
from redline.server.connection import read_body
from redline.server.conversation import Conversation, prepare
from redline.server.endpoint import Endpoint
from redline.server.generation import Piece
from redline.server.parameters import parameters_of
from redline.server.reply import Call, Json, reply
from redline.server.schema import decode, quoted
from redline.server.service import Service
from redline.types import SamplingParams

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_UNBUILT_ROLES = ("tool", "function")
_RESERVED = {"self", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = decode(await read_body(receive), ChatBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        asked = parameters_of(body, info)
        conversation = conversation_of(body)
        prepared = await prepare(service, conversation, asked)
        call = Call(
            prefix="chatcmpl",
            model=service.served_name,
            asked=asked,
            stream=bool(body.stream),
            arrival=arrival,
            continues=conversation.continues,
            caller=caller_of(scope),
        )
        style = ChatStyle(service.tokenizer, prepared.sampling)
        request = call.request(0, prepared.tokens, prepared.sampling, grammar=prepared.grammar)
        await reply(service, call, [request], style, receive, send, parser=prepared.parser)


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path="/v1/chat/completions",
            handler=ChatCompletions(service),
            scope="inference",
            summary="Answer a conversation.",
            body=ChatBody,
        )
    ]


def conversation_of(body: ChatBody) -> Conversation:
    """The conversation of a body. Raises InvalidRequest or UnsupportedField."""
    if not body.messages:
        raise InvalidRequest("messages is empty", param="messages")
    messages = [_plain(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    goes_on = bool(body.continue_final_message)
    opens = not goes_on if body.add_generation_prompt is None else body.add_generation_prompt
    if goes_on and opens:
        raise InvalidRequest("continue_final_message contradicts add_generation_prompt", param="continue_final_message")
    if goes_on and messages[-1]["role"] != "assistant":
        raise InvalidRequest("continue_final_message needs a last message of the assistant", param="continue_final_message")
    extra = body.chat_template_kwargs or {}
    for name in sorted(_RESERVED & extra.keys()):
        raise InvalidRequest(f"chat_template_kwargs must not set {name}", param=f"chat_template_kwargs.{name}")
    template = {"add_generation_prompt": opens, "continue_final_message": goes_on, **extra}
    return Conversation(messages=messages, template=template)


def _plain(message: Message, path: str) -> Json:
    if message.role in _UNBUILT_ROLES:
        raise UnsupportedField(f"{path}: messages of role {quoted(message.role)} are not supported", param=f"{path}.role")
    if message.role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InvalidRequest(f"{path}: there is no role {quoted(message.role)}", hint=f"use one of {known}", param=f"{path}.role")
    if message.content is None:
        raise InvalidRequest(f"{path}.content is required", param=f"{path}.content")
    parts = message.content
    content = parts if isinstance(parts, str) else [{"type": "text", "text": part.text} for part in parts]
    named = {} if message.name is None else {"name": message.name}
    return {"role": _ROLES[message.role], "content": content, **named}


class ChatStyle:
    """Writes chat choices. In a stream the first event of a choice brings its role, the last one its finish alone."""

    chunk_kind = "chat.completion.chunk"
    document_kind = "chat.completion"

    def __init__(self, spelling: logprobs.Spelling, sampling: SamplingParams) -> None:
        self._spelling = spelling
        self._stop_ids = sampling.stop_token_ids
        self._begun: set[int] = set()

    def events(self, piece: Piece) -> Iterator[Json]:
        choice, delta = piece.choice, piece.delta
        scores = self._scores(delta)
        if choice not in self._begun:
            self._begun.add(choice)
            yield {"index": choice, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        if piece.events or delta.logprobs or delta.prompt_logprobs:
            text = "".join(event.text for event in piece.events if isinstance(event, Text))
            yield {"index": choice, "delta": {"content": text}, **scores, "finish_reason": None}
        if delta.finish is not None:
            yield {"index": choice, "delta": {}, "logprobs": None, **finish_of(delta, self._stop_ids)}

    def choice(self, whole: Piece) -> Json:
        text = "".join(event.text for event in whole.events if isinstance(event, Text))
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": whole.choice,
            "message": message,
            **self._scores(whole.delta),
            **finish_of(whole.delta, self._stop_ids),
        }

    def _scores(self, delta: Delta) -> Json:
        told: Json = {"logprobs": None}
        if delta.logprobs is not None:
            told["logprobs"] = logprobs.chat_logprobs(delta.logprobs, self._spelling)
        if delta.prompt_logprobs is not None:
            told["prompt_logprobs"] = logprobs.prompt_logprobs(delta.prompt_logprobs, self._spelling)
        return told


def finish_of(delta: Delta, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """How a choice ended, and the stop string or stop id of the request that ended it."""
    told = isinstance(delta.stop, str) or delta.stop in stop_ids
    return {"finish_reason": delta.finish, "stop_reason": delta.stop if told else None}
