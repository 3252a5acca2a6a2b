"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same conversations and answers.

Knows that API's JSON. Errors on these paths have its envelope (failures.py). Open `Messages.create`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from redline.chat import tools as chat
from redline.engine.message import EngineInfo
from redline.errors import InvalidRequest
from redline.server.answers import CountedTokens, MessagesAnswer, NamedEvent
from redline.server.caller import caller_of
from redline.server.chat_schema import ChatBody
from redline.server.connection import send_json, while_connected
from redline.server.conversation import Conversation, Prepared, check_variables, prepare, tokens_of
from redline.server.endpoint import Application, Endpoint
from redline.server.failures import MESSAGES_PATH
from redline.server.field_names import as_written
from redline.server.functions import checked, checked_choice
from redline.server.generation import Generation
from redline.server.messages_input import messages_of
from redline.server.messages_schema import CountTokensBody, MessagesBody, ToolChoice, tool
from redline.server.messages_writer import MessageWriter
from redline.server.output_format import Wanted, grammar_of, of_named_schema
from redline.server.parameters import Parameters, parameters_of
from redline.server.reply import Call
from redline.server.schema import body_of
from redline.server.service import Service
from redline.server.sse import NAMED, send_events

Json = dict[str, Any]

_SAMPLED = (
    "max_tokens temperature top_p top_k seed frequency_penalty presence_penalty logit_bias min_p repetition_penalty min_tokens "
    "stop_token_ids ignore_eos priority deadline_ms cache_salt redline"
).split()

_NAMES = {"stop": "stop_sequences", "reasoning_effort": "thinking", "response_format": "output_config.format"}


class Messages:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, MessagesBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        asked = parameters(body, info)
        conversation = await self._conversation(body)
        with as_written(_NAMES):
            prepared = await prepare(service, conversation, asked)
        call = Call(
            prefix="msg",
            model=service.served_name,
            asked=asked,
            stream=bool(body.stream),
            arrival=arrival,
            continues=conversation.continues,
            caller=caller_of(scope),
        )
        writer = MessageWriter(f"msg_{call.id}", call.model)
        events = self._events(call, prepared, writer)
        work = send_events(send, events, NAMED) if call.stream else _send_collected(events, writer, send)
        await while_connected(receive, work)

    async def count(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive, CountTokensBody)
        self._service.check_model(body.model)
        with as_written(_NAMES):
            tokens = await tokens_of(self._service, await self._conversation(body))
        await send_json(send, {"input_tokens": len(tokens)})

    async def _conversation(self, body: CountTokensBody) -> Conversation:
        return replace(conversation_of(body), grammar=await grammar_of(self._service, _wanted(body)))

    async def _events(self, call: Call, prepared: Prepared, writer: MessageWriter) -> AsyncGenerator[list[Json]]:
        request = call.request(0, prepared.tokens, prepared.sampling, grammar=prepared.grammar)
        generation = Generation(self._service, [request], call.arrival, continues=call.continues, parser=prepared.parser)
        began = False
        async with aclosing(generation.pieces()) as source:
            async for pieces in source:
                batch = [] if began else writer.begin(len(prepared.tokens))
                began = True
                yield batch + [event for piece in pieces for event in writer.push(piece)]
        thinking = writer.thinking
        tokens = self._service.tokenizer.encode(thinking, add_special_tokens=False) if thinking else []
        last = writer.finish(generation.usage, len(tokens))
        if call.asked.want_receipt:
            writer.message["redline"] = last[-1]["redline"] = generation.receipt
        yield last


def endpoints(service: Service) -> list[Endpoint]:
    messages = Messages(service)
    return [
        Endpoint(
            method="POST",
            path=MESSAGES_PATH,
            handler=Application(messages.create),
            scope="inference",
            summary="Answer a conversation, as Anthropic's API does.",
            body=MessagesBody,
            answer=MessagesAnswer,
            event=NamedEvent,
        ),
        Endpoint(
            method="POST",
            path=f"{MESSAGES_PATH}/count_tokens",
            handler=Application(messages.count),
            scope="inference",
            summary="Count the tokens of a conversation.",
            body=CountTokensBody,
            answer=CountedTokens,
        ),
    ]


def parameters(body: MessagesBody, info: EngineInfo) -> Parameters:
    """What the body asks of its prompt. Raises InvalidRequest or UnsupportedField with the field's name."""
    sampled = {name: getattr(body, name) for name in _SAMPLED}
    with as_written(_NAMES):
        return parameters_of(ChatBody(messages=[], stop=body.stop_sequences, **sampled), info)


def conversation_of(body: CountTokensBody) -> Conversation:
    """The conversation that a body asks to be answered; a last turn of the assistant is continued."""
    messages = messages_of(body)
    goes_on = messages[-1]["role"] == "assistant"
    if goes_on and "tool_calls" in messages[-1]:
        where = f"messages[{len(body.messages) - 1}]"
        raise InvalidRequest(f"{where}: a tool_use needs its tool_result", hint="send it as a user's message", param=where)
    extra = body.chat_template_kwargs or {}
    check_variables(extra)
    tools = checked(_tool(each, f"tools[{i}]") for i, each in enumerate(body.tools or ()))
    choice = body.tool_choice or ToolChoice(type="auto")
    return Conversation(
        messages=messages,
        template={"add_generation_prompt": not goes_on, "continue_final_message": goes_on, **extra},
        tools=tools,
        choice=checked_choice(_choice(choice), tools),
        parallel=not choice.disable_parallel_tool_use,
        effort=_effort(body),
    )


def _tool(given: Json, path: str) -> chat.Tool:
    read = tool(given, path)
    return chat.Tool(name=read.name, description=read.description, parameters=read.input_schema, strict=read.strict)


def _choice(choice: ToolChoice) -> chat.ToolChoice:
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequest("tool_choice.name is required", param="tool_choice.name")
        return chat.ToolChoice(mode="required", names=(choice.name,))
    if choice.name is not None:
        raise InvalidRequest(f"tool_choice: type {choice.type} takes no name", param="tool_choice.name")
    return chat.ToolChoice(mode={"auto": "auto", "any": "required", "none": "none"}[choice.type])  # type: ignore[arg-type]


def _effort(body: CountTokensBody) -> str | None:
    """How much to reason, in the words that other APIs have for it; None: as the model does by itself."""
    effort = None if body.output_config is None else body.output_config.effort
    if body.thinking is None or body.thinking.type == "adaptive":
        return effort
    return "none" if body.thinking.type == "disabled" else effort or "medium"


def _wanted(body: CountTokensBody) -> Wanted | None:
    """The form that the answer is to have; it may be asked for in two places."""
    config = None if body.output_config is None else body.output_config.format
    if config is not None and body.output_format is not None:
        raise InvalidRequest("output_format contradicts output_config.format", hint="send one of them", param="output_format")
    format, path = (config, "output_config.format") if config is not None else (body.output_format, "output_format")
    return None if format is None else of_named_schema("answer", format.schema, path)


async def _send_collected(events: AsyncGenerator[list[Json]], writer: MessageWriter, send: Send) -> None:
    async with aclosing(events):
        async for _ in events:
            pass
    await send_json(send, writer.message)
