"""Lines of OpenAI batch files: what a line of an input must be, and how a line of an output is written.

One file for the server and for `redline run-batch`. Reads a line at a time and never holds a whole file. Knows nothing of
who answers. Open `read_lines`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from redline.server.batch_store import Line, Result, Tokens
from redline.server.schema import quoted

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINES = 50_000
MAX_LINE_BYTES = 16 << 20  # as much as a request's body may have
MAX_CUSTOM_ID = 512
MAX_ERRORS = 100  # are told; the file is not read further

EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "This request was not executed: the batch was cancelled.")


class Fault(NamedTuple):
    """Why a line of the input cannot be run; `line` counts from 1, None is the file."""

    code: str
    message: str
    line: int | None
    param: str | None = None


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Glance(msgspec.Struct):
    """The two fields of a body that matter to a batch; all else is its endpoint's business."""

    model: str | None = None
    stream: bool | None = None


_input = msgspec.json.Decoder(_Input)
_glance = msgspec.json.Decoder(_Glance)


def read_lines(file: BinaryIO, endpoint: str | None, *, most_lines: int = MAX_LINES) -> Iterator[Line | Fault]:
    """Every line of `file` as a `Line`, or as the `Fault` that keeps it from being run; numbers count from 1.

    `endpoint` is the one that all lines must ask; None takes any that a batch may ask. Empty lines are passed over. Ends
    after `MAX_ERRORS` faults.
    """
    known: set[str] = set()
    faults = number = start = 0
    while (text := file.readline(MAX_LINE_BYTES + 1)) and faults < MAX_ERRORS:
        number += 1
        size = len(text)
        if size > MAX_LINE_BYTES:
            size += _rest_of_line(file)
            found: Line | Fault | None = Fault("line_too_long", f"the line has more than {MAX_LINE_BYTES} bytes", number)
        else:
            found = _checked(text, endpoint, number, start, known)
        start += size
        if found is None:
            continue
        if isinstance(found, Line) and len(known) > most_lines:
            found = Fault("too_many_lines", f"a batch may have at most {most_lines} lines", None)
            faults = MAX_ERRORS
        faults += isinstance(found, Fault)
        yield found
    if not known and not faults:
        yield Fault("empty_file", "the file has no lines", None)


def body_of(text: bytes) -> tuple[str, bytes]:
    """The endpoint and the request body of a line that was checked."""
    line = _input.decode(text)
    return line.url, bytes(line.body)


def model_of(text: bytes) -> str | None:
    """The model that a checked line asks for."""
    return _glance.decode(_input.decode(text).body).model


def answered(line: Line, status: int, request_id: str, body: bytes) -> Result:
    """The end of a line that an endpoint answered, well or not."""
    told = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    used = _used(body) if status == 200 else Tokens()
    return Result(line.number, status == 200, _text(line.custom_id, told, None), used)


def unanswered(custom_id: str, code: str, message: str) -> bytes:
    """The line of the error file for a line that was never answered."""
    return _text(custom_id, None, {"code": code, "message": message})


def _text(custom_id: str, response: object, error: object) -> bytes:
    id = f"batch_req_{uuid.uuid4().hex}"
    return msgspec.json.encode({"id": id, "custom_id": custom_id, "response": response, "error": error}) + b"\n"


def _checked(text: bytes, endpoint: str | None, number: int, start: int, known: set[str]) -> Line | Fault | None:
    if not text.strip():
        return None
    try:
        line = _input.decode(text)
        if not bytes(line.body).lstrip().startswith(b"{"):
            return Fault("invalid_body", "body must be a JSON object", number, "body")
        glance = _glance.decode(line.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Fault("invalid_json_line", f"this line is not a request of a batch: {str(error)[:200]}", number)
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        return Fault("invalid_custom_id", f"custom_id must have 1 to {MAX_CUSTOM_ID} characters", number, "custom_id")
    if line.custom_id in known:
        return Fault("duplicate_custom_id", f"the custom_id {quoted(line.custom_id)} is there twice", number, "custom_id")
    known.add(line.custom_id)
    if line.method != "POST":
        return Fault("invalid_method", f"the method must be POST, not {quoted(line.method)}", number, "method")
    if endpoint is not None and line.url != endpoint:
        return Fault("invalid_url", f"the url must be {endpoint}, as the batch says, not {quoted(line.url)}", number, "url")
    if line.url not in ENDPOINTS:
        return Fault("invalid_url", f"the url must be one of {', '.join(ENDPOINTS)}, not {quoted(line.url)}", number, "url")
    if glance.stream:
        return Fault("invalid_body", "stream is not supported in a batch: leave it out", number, "body.stream")
    return Line(number, line.custom_id, start, len(text))


def _rest_of_line(file: BinaryIO) -> int:
    size = 0
    while text := file.readline(1 << 20):
        size += len(text)
        if text.endswith(b"\n"):
            break
    return size


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    """The usage of any of the APIs: each has its own names for the same numbers."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_answer = msgspec.json.Decoder(_Answer)


def _used(body: bytes) -> Tokens:
    try:
        usage = _answer.decode(body).usage or _Usage()
    except msgspec.MsgspecError:
        return Tokens()
    of_input = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    of_output = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return Tokens(
        input=usage.prompt_tokens + usage.input_tokens,
        output=usage.completion_tokens + usage.output_tokens,
        cached=of_input.cached_tokens,
        reasoning=of_output.reasoning_tokens,
    )
