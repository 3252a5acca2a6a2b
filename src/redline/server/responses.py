"""/v1/responses: make a response, get it back, cancel or delete it, list what it was asked, count what would be asked.

What is stored belongs to the caller who asked; to all others it is not there. Knows the API's JSON; how input becomes
messages, an answer events and a response rows lies in the other response files. Open `Responses.create`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from redline.engine.message import EngineInfo
from redline.errors import Forbidden, InvalidRequest, UnsupportedField
from redline.server.answers import DeletedResponse, ItemList, NamedEvent, ResponseAnswer, ResponseTokens
from redline.server.caller import Caller, caller_of
from redline.server.chat_schema import ChatBody
from redline.server.connection import json_response, send_json, while_connected
from redline.server.conversation import Conversation, check_variables, prepare, tokens_of
from redline.server.endpoint import Application, Endpoint
from redline.server.field_names import as_written
from redline.server.functions import checked_choice
from redline.server.lease import Lease
from redline.server.output_format import grammar_of
from redline.server.paging import QUERY, page_of
from redline.server.parameters import Parameters, parameters_of
from redline.server.reply import Call
from redline.server.response_input import items_of, messages_of, references, stored
from redline.server.response_run import Background, Run
from redline.server.response_schema import LOGPROBS, ConversationBody, CountBody, ResponseBody
from redline.server.response_store import MIGRATIONS, RUNNING, ResponseStore
from redline.server.response_tools import choice_of, tools_of, wanted_of
from redline.server.response_writer import ResponseWriter, error_event
from redline.server.schema import body_of, quoted
from redline.server.service import Service
from redline.server.sse import Dialect, named_event, send_events

Json = dict[str, Any]

PATH = "/v1/responses"
MAX_PAGE, PAGE = 100, 20
_SAMPLED = (
    "temperature top_p top_logprobs seed stop frequency_penalty presence_penalty logit_bias top_k min_p repetition_penalty "
    "min_tokens stop_token_ids ignore_eos priority deadline_ms cache_salt redline"
).split()

EVENTS = Dialect(event=named_event, end=b"", error=error_event)
_NAMES = {
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "messages": "input",
}


class Responses:
    """All endpoints, over one store."""

    def __init__(self, service: Service) -> None:
        self._service = service
        database = service.database("responses.sqlite", MIGRATIONS)
        lease = Lease(None if service.state_dir is None else service.state_dir / "responses.locks")
        service.at_close(lease.release)
        self._store = ResponseStore(database, lease)
        self._background = Background(self._store)
        service.at_close(self._background.close)

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, ResponseBody)
        run = await self._planned(body, caller_of(scope), arrival)
        if run.background:
            await self._background.start(run)
            await send_json(send, run.writer.document)
        elif run.call.stream:
            await while_connected(receive, send_events(send, run.events(), EVENTS))
        else:
            await while_connected(receive, _send_collected(run, send))

    async def count(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive, CountBody)
        self._service.check_model(body.model)
        conversation, _ = await self._conversation(body, caller_of(scope))
        with as_written(_NAMES):
            tokens = await tokens_of(self._service, conversation, "input")
        await send_json(send, {"object": "response.input_tokens", "input_tokens": len(tokens)})

    async def one(self, request: Request) -> Response:
        for name in ("stream", "starting_after", "include_obfuscation"):
            if request.query_params.get(name) not in (None, "false"):
                raise UnsupportedField(f"{name} is not supported", hint="ask again until the status changes", param=name)
        for name, value in request.query_params.multi_items():
            if name in ("include", "include[]") and value != LOGPROBS:
                raise UnsupportedField(f"include: {quoted(value)} is not supported", param="include")
        _check_query(request, {"stream", "starting_after", "include_obfuscation", "include", "include[]"})
        return json_response(await self._store.get(*_asked_for(request)))

    async def delete(self, request: Request) -> Response:
        _check_query(request, set())
        tenant, id = _asked_for(request)
        await self._store.delete(tenant, id)
        self._background.cancel(id)
        return json_response({"id": id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        _check_query(request, set())
        tenant, id = _asked_for(request)
        document = await self._store.get(tenant, id)
        if not document["background"]:
            raise InvalidRequest(
                "only a response in the background can be cancelled", hint="close the connection", param="response_id"
            )
        if document["status"] in RUNNING:
            await self._store.change(tenant, {**document, "status": "cancelled"})
            self._background.cancel(id)
        return json_response(await self._store.get(tenant, id))

    async def input_items(self, request: Request) -> Response:
        page = page_of(request, PAGE, MAX_PAGE, also=("include", "include[]"))
        for name, value in request.query_params.multi_items():
            if name in ("include", "include[]") and value != LOGPROBS:
                raise UnsupportedField(f"include: {quoted(value)} is not supported", param="include")
        items, more = await self._store.input_items(*_asked_for(request), page)
        ids = [item["id"] for item in items] or [None]
        return json_response({"object": "list", "data": items, "first_id": ids[0], "last_id": ids[-1], "has_more": more})

    async def _planned(self, body: ResponseBody, caller: Caller, arrival: float) -> Run:
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        keep = _keeps(body, caller)
        asked = parameters(body, info)
        conversation, items = await self._conversation(body, caller)
        with as_written(_NAMES):
            prepared = await prepare(service, conversation, asked, "input")
        call = Call(
            prefix="resp",
            model=service.served_name,
            asked=asked,
            stream=bool(body.stream),
            arrival=arrival,
            continues=conversation.continues,
            caller=caller,
        )
        writer = ResponseWriter(document_of(body, call, keep), service.tokenizer if body.scored else None)
        background = bool(body.background)
        return Run(
            service=service,
            store=self._store,
            call=call,
            prepared=prepared,
            writer=writer,
            items=items,
            keep=keep,
            background=background,
        )

    async def _conversation(self, body: ConversationBody, caller: Caller) -> tuple[Conversation, list[Json]]:
        """The whole conversation, and the items that are new in it."""
        given = items_of(body.input)
        earlier, found = await self._store.chain(caller.id, body.previous_response_id, references(given))
        new = stored(given, found)
        conversation = conversation_of(body, messages_of(earlier, new, body.instructions))
        return replace(conversation, grammar=await grammar_of(self._service, wanted_of(body.text))), new


def endpoints(service: Service) -> list[Endpoint]:
    responses = Responses(service)
    one = f"{PATH}/{{response_id}}"
    return [
        Endpoint(
            method="POST",
            path=PATH,
            handler=Application(responses.create),
            scope="inference",
            summary="Make a response.",
            body=ResponseBody,
            answer=ResponseAnswer,
            event=NamedEvent,
        ),
        Endpoint(
            method="POST",
            path=f"{PATH}/input_tokens",
            handler=Application(responses.count),
            scope="inference",
            summary="Count the tokens that a response would be asked.",
            body=CountBody,
            answer=ResponseTokens,
        ),
        Endpoint(
            method="GET", path=one, handler=responses.one, scope="files", summary="A stored response.", answer=ResponseAnswer
        ),
        Endpoint(
            method="DELETE",
            path=one,
            handler=responses.delete,
            scope="files",
            summary="Forget a response.",
            answer=DeletedResponse,
        ),
        Endpoint(
            method="POST",
            path=f"{one}/cancel",
            handler=responses.cancel,
            scope="files",
            summary="End one in the background.",
            answer=ResponseAnswer,
        ),
        Endpoint(
            method="GET",
            path=f"{one}/input_items",
            handler=responses.input_items,
            scope="files",
            summary="What a stored response was asked.",
            answer=ItemList,
            query=QUERY,
        ),
    ]


def parameters(body: ResponseBody, info: EngineInfo) -> Parameters:
    """What the body asks of its prompt. Raises InvalidRequest or UnsupportedField with the field's name."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    sampled = {name: getattr(body, name) for name in _SAMPLED}
    chat = ChatBody(messages=[], max_tokens=body.max_output_tokens, logprobs=body.scored or None, **sampled)
    with as_written(_NAMES):
        return replace(parameters_of(chat, info), max_tokens_name="max_output_tokens")


def conversation_of(body: ConversationBody, messages: list[Json]) -> Conversation:
    """The conversation that a body asks to be answered. Raises InvalidRequest or UnsupportedField."""
    extra = body.chat_template_kwargs or {}
    tools = tools_of(body.tools)
    check_variables(extra)
    return Conversation(
        messages=messages,
        template={"add_generation_prompt": True, "continue_final_message": False, **extra},
        tools=tools,
        choice=checked_choice(choice_of(body.tool_choice), tools),
        parallel=body.parallel_tool_calls is not False,
        effort=None if body.reasoning is None else body.reasoning.effort,
    )


def document_of(body: ResponseBody, call: Call, keep: bool) -> Json:
    """Everything of a response that is known before its answer."""
    sampling = call.asked.sampling
    effort = None if body.reasoning is None else body.reasoning.effort
    shape = {"type": "text"} if body.text is None or body.text.format is None else msgspec.to_builtins(body.text.format)
    return {
        "id": f"resp_{call.id}",
        "object": "response",
        "created_at": call.created,
        "completed_at": None,
        "model": call.model,
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": keep,
        "temperature": sampling.temperature,
        "text": {"format": {name: value for name, value in shape.items() if value is not None}, "verbosity": "medium"},
        "tool_choice": body.tool_choice or "auto",
        "tools": [{"strict": False, "parameters": None, **tool} for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


async def _send_collected(run: Run, send: Send) -> None:
    await send_json(send, await run.collected())


def _keeps(body: ResponseBody, caller: Caller) -> bool:
    """Whether the response is stored. Raises InvalidRequest, and Forbidden for a key that may keep nothing."""
    may = "files" in caller.scopes
    if not may and (body.store or body.previous_response_id):
        param = "store" if body.store else "previous_response_id"
        raise Forbidden(f"{param}: this key may not keep responses", hint="send store: false", param=param)
    keep = may if body.store is None else body.store
    if body.background and not keep:
        raise InvalidRequest("background needs store: true", param="background")
    if body.background and body.stream:
        raise UnsupportedField("stream is not supported with background", hint="ask for the response by its id", param="stream")
    return keep


def _asked_for(request: Request) -> tuple[str, str]:
    return caller_of(request.scope).id, request.path_params["response_id"]


def _check_query(request: Request, known: set[str]) -> None:
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(f"there is no parameter {quoted(name)}", param=name[:64])
