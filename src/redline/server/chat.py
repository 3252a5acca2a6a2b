"""POST /v1/chat/completions: messages through the model's template, and the answer in the chat shape.

Knows nothing of how an answer is made or sent (generation.py, reply.py). Open `ChatCompletions.__call__` first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from redline.chat.parser import CallArguments, CallBegin, Event, Reasoning, Text
from redline.engine.answer import Delta
from redline.server import logprobs
from redline.server.answers import ChatChunk, ChatCompletion
from redline.server.caller import caller_of
from redline.server.chat_input import conversation_of
from redline.server.chat_schema import ChatBody
from redline.server.conversation import prepare
from redline.server.endpoint import Endpoint
from redline.server.generation import Piece
from redline.server.output_format import grammar_of, wanted_of
from redline.server.parameters import parameters_of
from redline.server.reply import Call, Json, reply
from redline.server.schema import body_of
from redline.server.service import Service
from redline.types import SamplingParams


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, ChatBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        asked = parameters_of(body, info)
        conversation = replace(conversation_of(body), grammar=await grammar_of(service, wanted_of(body)))
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
        may_call = bool(conversation.choice.of(conversation.tools))
        style = ChatStyle(service.tokenizer, prepared.sampling, may_call=may_call)
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
            answer=ChatCompletion,
            event=ChatChunk,
        )
    ]


class ChatStyle:
    """Writes chat choices. In a stream the first event of a choice brings its role, the last one its finish alone."""

    chunk_kind = "chat.completion.chunk"
    document_kind = "chat.completion"

    def __init__(self, spelling: logprobs.Spelling, sampling: SamplingParams, *, may_call: bool = False) -> None:
        """`may_call`: an answer may be calls without any text, so that its stream does not begin with an empty one."""
        self._spelling = spelling
        self._stop_ids = sampling.stop_token_ids
        self._first = {"role": "assistant", "content": None if may_call else ""}
        self._begun: set[int] = set()
        self._called: set[int] = set()

    def events(self, piece: Piece) -> Iterator[Json]:
        choice, delta = piece.choice, piece.delta
        scores = self._scores(delta)
        if choice not in self._begun:
            self._begun.add(choice)
            yield {"index": choice, "delta": self._first, "logprobs": None, "finish_reason": None}
        if piece.events or delta.logprobs or delta.prompt_logprobs:
            yield {"index": choice, "delta": self._told(choice, piece.events), **scores, "finish_reason": None}
        if delta.finish is not None:
            yield {"index": choice, "delta": {}, "logprobs": None, **self._finish(choice, delta)}

    def choice(self, whole: Piece) -> Json:
        told = self._told(whole.choice, whole.events)
        calls = [{key: value for key, value in call.items() if key != "index"} for call in told.get("tool_calls", ())]
        message = {"role": "assistant", "content": None if calls else "", "refusal": None, **told}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": whole.choice,
            "message": message,
            **self._scores(whole.delta),
            **self._finish(whole.choice, whole.delta),
        }

    def _told(self, choice: int, events: list[Event]) -> Json:
        """What the events add to a message: only the fields that they speak of."""
        told: Json = {}
        calls: dict[int, Json] = {}
        for event in events:
            match event:
                case Text(text):
                    told["content"] = told.get("content", "") + text
                case Reasoning(text):
                    told["reasoning_content"] = told.get("reasoning_content", "") + text
                case CallBegin(number, id, name):
                    self._called.add(choice)
                    calls[number] = {"index": number, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
                case CallArguments(number, text):
                    call = calls.setdefault(number, {"index": number, "function": {"arguments": ""}})
                    call["function"]["arguments"] += text
        if calls:
            told["tool_calls"] = list(calls.values())
        return told

    def _finish(self, choice: int, delta: Delta) -> Json:
        finish = finish_of(delta, self._stop_ids)
        called = choice in self._called and finish["finish_reason"] == "stop"
        return {**finish, "finish_reason": "tool_calls"} if called else finish

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
