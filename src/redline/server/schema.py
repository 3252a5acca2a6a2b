"""Request bodies, as records that forbid what they do not know: the ground that every endpoint's own records stand on.

Every field of an API is there: honoured, accepted because it cannot change the answer, or known and refused by name
(`_unbuilt` of each record says which). Fields beyond that API are marked as extensions. null means absent. Knows how a
body reads, not what it does. Open `decode` first; the bodies of the endpoints lie in `*_schema.py`.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import re
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import msgspec
from starlette.types import Receive

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.connection import read_body
from redline.server.exchange import current
from redline.server.unknown import converted
from redline.server.weight import check_weight

INLINE_BYTES = 64 << 10  # a longer body is decoded in a thread, beside the event loop
MAX_SHOWN = 64  # characters of a caller's own words that an error repeats
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # a longer one has no place in a message to the engine


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object. `_unbuilt` maps a field that redline does not honour to the values that ask for nothing."""

    _unbuilt: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def refuse_unbuilt(self, path: str = "") -> None:
        """Raise UnsupportedField for the first field that asks for what is not built, in this record or one inside it."""
        written = dict(zip(self.__struct_fields__, self.__struct_encode_fields__, strict=True))
        for attribute, harmless in self._unbuilt.items():
            value, name = getattr(self, attribute), written[attribute]
            if value is not None and value not in harmless:
                only = " or ".join(msgspec.json.encode(value).decode() for value in harmless)
                hint = f"leave it out, or send {only}" if harmless else "leave it out"
                raise UnsupportedField(f"{path}{name} is not supported", hint=hint, param=f"{path}{name}")
        for name in _nesting(type(self)):
            value = getattr(self, name)
            if isinstance(value, Record):
                value.refuse_unbuilt(f"{path}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Record):
                        item.refuse_unbuilt(f"{path}{name}[{i}].")


@functools.cache
def _nesting(kind: type[Record]) -> tuple[str, ...]:
    """The fields that may hold records: nobody looks at each token of a prompt."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if _names_record(field.type))


def _names_record(annotation: Any) -> bool:
    parts = get_args(annotation)
    return any(map(_names_record, parts)) if parts else isinstance(annotation, type) and issubclass(annotation, Record)


class StreamOptions(Record, frozen=True, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None

    _unbuilt = {"include_obfuscation": (False,)}


class StructuredOutputs(Record, frozen=True, kw_only=True):
    """What every answer must match: one of these. A JSON schema may come as text; `yaml` true is any document."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None  # Lark, in llguidance's dialect
    json_object: bool | None = None
    yaml: bool | dict[str, Any] | None = None


class Body(Record, frozen=True, kw_only=True):
    """What every body that asks for an answer shares."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[Int, float] | None = None
    seed: Int | None = None
    stop: str | list[str] | None = None

    # Accepted: they cannot change the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None

    # Extensions.
    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int | None = None
    stop_token_ids: list[Int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: Int | None = None
    priority: Int | None = None
    deadline_ms: float | None = None
    cache_salt: str | None = None
    redline: bool | None = None  # answer with the request's receipt
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


B = TypeVar("B", bound=Record)

_PLACE = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$\.?(?P<path>[\w.\[\]]*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)


async def body_of(receive: Receive, kind: type[B]) -> B:
    """The body of a request, read and decoded. Raises what `read_body` and `decode` raise."""
    data = await read_body(receive)
    return await asyncio.to_thread(decode, data, kind) if len(data) > INLINE_BYTES else decode(data, kind)


def decode(data: bytes, kind: type[B]) -> B:
    """The body of a request. Raises InvalidRequest or UnsupportedField, naming the field by its path, TooLarge for too many.

    Unknown fields are refused, or dropped with a warning where the exchange is lenient.
    """
    if not data.strip():
        raise InvalidRequest("the request has no body", hint="send a JSON object")
    check_weight(data)
    try:
        exchange = current()
        if exchange is not None and exchange.lenient:
            body = converted(msgspec.json.decode(data), kind, exchange)
        else:
            body = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    body.refuse_unbuilt()
    return body


def convert(value: object, kind: type[B], path: str) -> B:
    """A part of a body whose record depends on what it says it is; `path` is its place in the body. Raises as `decode`."""
    exchange = current()
    try:
        part = (
            converted(value, kind, exchange, path) if exchange is not None and exchange.lenient else msgspec.convert(value, kind)
        )
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind, path) from error
    part.refuse_unbuilt(f"{path}.")
    return part


def quoted(text: str) -> str:
    """A caller's own words in quotation marks, the beginning of them where they are many."""
    return repr(_short(text))


def _short(text: str, most: int = MAX_SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _invalid(complaint: str, kind: type[Record], root: str = "") -> InvalidRequest:
    """msgspec's sentence about a body as ours: the path first, which is also `param`."""
    match = _PLACE.fullmatch(complaint)
    what, inner = (match["what"], match["path"]) if match else (complaint, "")
    path = f"{root}.{inner}" if root and inner and not inner.startswith("[") else root + inner
    field = _FIELD.fullmatch(what)
    if field is None:
        said = _short(what.replace("`", ""), 3 * MAX_SHOWN)
        subject = f"{path}: " if path else "the body: "
        key = "a key: " if match and match["key"] else ""
        return InvalidRequest(f"{subject}{key}{said[:1].lower()}{said[1:]}", param=path or None)
    name = _short(field["name"])
    param = f"{path}.{name}" if path else name
    if field["kind"] == "missing required":
        return InvalidRequest(f"{param} is required", param=param)
    near = difflib.get_close_matches(name, kind.__struct_fields__, n=1) if not inner else []
    return InvalidRequest(f"there is no field {param}", hint=f"did you mean {near[0]}?" if near else "", param=param)
