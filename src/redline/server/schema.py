"""Request bodies, as records that forbid what they do not know: the ground that every endpoint's own records stand on.

Every field of an API is there: honoured, accepted because it cannot change the answer, or known and refused by name
(`_unbuilt` of each record says which). Fields beyond that API are marked as extensions. null means absent. Knows how a
body reads, not what it does. Open `decode` first; the bodies of the endpoints lie in `*_schema.py`.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from redline.errors import InvalidRequest, UnsupportedField

MAX_SHOWN = 64  # characters of a caller's own words that an error repeats
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # a longer one has no place in a message to the engine


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object. `_unbuilt` maps a field that redline does not honour to the values that ask for nothing."""

    _unbuilt: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def refuse_unbuilt(self, path: str = "") -> None:
        """Raise UnsupportedField for the first field that asks for what is not built, in this record or one inside it."""
        for name, harmless in self._unbuilt.items():
            value = getattr(self, name)
            if value is not None and value not in harmless:
                only = " or ".join(msgspec.json.encode(value).decode() for value in harmless)
                hint = f"leave it out, or send {only}" if harmless else "leave it out"
                raise UnsupportedField(f"{path}{name} is not supported", hint=hint, param=f"{path}{name}")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, Record):
                value.refuse_unbuilt(f"{path}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Record):
                        item.refuse_unbuilt(f"{path}{name}[{i}].")


class StreamOptions(Record, frozen=True, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None

    _unbuilt = {"include_obfuscation": (False,)}


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
    metadata: Any = None
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


B = TypeVar("B", bound=Record)

_PLACE = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$\.?(?P<path>[\w.\[\]]*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)


def decode(data: bytes, kind: type[B]) -> B:
    """The body of a request. Raises InvalidRequest or UnsupportedField, naming the field by its path."""
    if not data.strip():
        raise InvalidRequest("the request has no body", hint="send a JSON object")
    try:
        body = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    body.refuse_unbuilt()
    return body


def quoted(text: str) -> str:
    """A caller's own words in quotation marks, the beginning of them where they are many."""
    return repr(_short(text))


def _short(text: str, most: int = MAX_SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _invalid(complaint: str, kind: type[Record]) -> InvalidRequest:
    """msgspec's sentence about a body as ours: the path first, which is also `param`."""
    match = _PLACE.fullmatch(complaint)
    what, path = (match["what"], match["path"]) if match else (complaint, "")
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
    near = difflib.get_close_matches(name, kind.__struct_fields__, n=1) if not path else []
    return InvalidRequest(f"there is no field {param}", hint=f"did you mean {near[0]}?" if near else "", param=param)
