"""What an answer must look like, in each of the ways that a body may say it: `response_format`, `structured_outputs`, `guided_*`.

They all become one grammar; two of them in one body contradict each other. Knows nothing of tokens or of the engine.
Open `wanted_of`, then `grammar_of`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from redline.engine import grammar
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_schema import ChatBody, ResponseFormat
from redline.server.schema import Body, StructuredOutputs, quoted
from redline.server.service import Service
from redline.server.weight import check_weight

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Wanted:
    """A grammar that was asked for by the field `param`. `build` makes it, which may take a while and may raise."""

    param: str
    build: Callable[[], str]


async def grammar_of(service: Service, wanted: Wanted | None) -> str | None:
    """The grammar, made and tried beside the event loop. Raises UnsupportedField or InvalidRequest with the field's name."""
    if wanted is None:
        return None
    made = await asyncio.to_thread(wanted.build)
    await service.grammars.check(made, wanted.param)
    return made


def wanted_of(body: Body) -> Wanted | None:
    """What a body asks of the form of its answers, or None. Raises InvalidRequest where it asks for two things."""
    found = [*_guided(body), *(_structured(body.structured_outputs) if body.structured_outputs is not None else ())]
    if isinstance(body, ChatBody) and body.response_format is not None:
        wanted = of_response_format(body.response_format)
        found = [wanted, *found] if wanted is not None else found
    if len(found) > 1:
        raise InvalidRequest(f"{found[1].param} contradicts {found[0].param}", hint="send one of them", param=found[1].param)
    return found[0] if found else None


def of_response_format(format: ResponseFormat, param: str = "response_format") -> Wanted | None:
    """The chat API's form: text (None), any JSON object, or a schema with a name."""
    if format.type != "json_schema" and format.json_schema is not None:
        raise InvalidRequest(f"{param}: type {quoted(format.type)} has no json_schema", param=f"{param}.json_schema")
    if format.type == "text":
        return None
    if format.type == "json_object":
        return Wanted(param, grammar.of_json_object)
    if format.type != "json_schema":
        raise UnsupportedField(
            f"{param}: there is no type {quoted(format.type)}", hint="use text, json_object or json_schema", param=f"{param}.type"
        )
    if format.json_schema is None:
        raise InvalidRequest(f"{param}.json_schema is required", param=f"{param}.json_schema")
    return of_named_schema(format.json_schema.name, format.json_schema.schema, f"{param}.json_schema")


def of_named_schema(name: str, schema: Any, param: str) -> Wanted:
    """A schema with the name that OpenAI's APIs ask for; `param` is the object that holds both."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{param}.name must be 1 to 64 letters, digits, _ and -", param=f"{param}.name")
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{param}.schema must be a JSON schema", param=f"{param}.schema")
    return _json(schema, f"{param}.schema")


def _guided(body: Body) -> list[Wanted]:
    """The older spelling of the same extensions."""
    found = []
    if body.guided_json is not None:
        found.append(_json(body.guided_json, "guided_json"))
    if body.guided_regex is not None:
        found.append(_made(grammar.of_regex, body.guided_regex, "guided_regex"))
    if body.guided_choice is not None:
        found.append(_made(grammar.of_choice, body.guided_choice, "guided_choice"))
    if body.guided_grammar is not None:
        found.append(_made(grammar.of_lark, body.guided_grammar, "guided_grammar"))
    return found


def _structured(asked: StructuredOutputs) -> list[Wanted]:
    at = "structured_outputs"
    found = []
    if asked.json is not None:
        found.append(_json(asked.json, f"{at}.json"))
    if asked.regex is not None:
        found.append(_made(grammar.of_regex, asked.regex, f"{at}.regex"))
    if asked.choice is not None:
        found.append(_made(grammar.of_choice, asked.choice, f"{at}.choice"))
    if asked.grammar is not None:
        found.append(_made(grammar.of_lark, asked.grammar, f"{at}.grammar"))
    if asked.json_object:
        found.append(Wanted(f"{at}.json_object", grammar.of_json_object))
    if asked.yaml is not None and asked.yaml is not False:
        schema = None if asked.yaml is True else asked.yaml
        found.append(_made(grammar.of_yaml, schema, f"{at}.yaml"))
    if not found and asked.json_object is None and asked.yaml is None:
        raise InvalidRequest(f"{at} asks for nothing", hint="give json, regex, choice, grammar, json_object or yaml", param=at)
    return found


def _json(schema: Any, param: str) -> Wanted:
    """A schema, or the text of one."""
    if isinstance(schema, str):
        try:
            check_weight(schema.encode())
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"{param} is not JSON: {error}", param=param) from error
    return _made(grammar.of_json_schema, schema, param)


def _made(build: Callable[[Any, str], str], source: Any, param: str) -> Wanted:
    return Wanted(param, lambda: build(source, param))
