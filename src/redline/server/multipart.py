"""multipart/form-data, cut into parts as its bytes arrive: strict and bounded, for the one endpoint that takes files.

RFC 7578 as browsers, curl and the SDKs write it: no preamble, CRLF line ends, a `form-data` disposition with a name for
every part. What holds more than `MAX_HEADER_BYTES` of headers or `MAX_PARTS` parts is refused. Holds no more of the data
than a boundary is long. Knows nothing of what the fields mean. Open `Reader.feed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from redline.errors import InvalidRequest
from redline.server.schema import quoted

MAX_HEADER_BYTES = 8 << 10
MAX_PARTS = 16
_TYPE = re.compile(r'multipart/form-data\s*;\s*boundary=(?:"([^"\\\r\n]{1,70})"|([^\s";,]{1,70}))\s*', re.IGNORECASE)
_PARAMETER = re.compile(r'\s*;\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_ESCAPED = re.compile(r'\\(["\\])')
_PLAIN_ENCODINGS = ("7bit", "8bit", "binary")


@dataclass(frozen=True)
class Part:
    """A part begins; the bytes that follow are its content. `filename` is None for a plain field."""

    name: str
    filename: str | None


def boundary_of(content_type: str) -> bytes:
    """The boundary that a content-type header announces. Raises InvalidRequest for any other kind of body."""
    match = _TYPE.fullmatch(content_type)
    if match is None:
        raise InvalidRequest("the body must be multipart/form-data with a boundary", hint="send the file as a form does")
    boundary: str = match[1] or match[2]
    try:
        return boundary.encode("ascii")
    except UnicodeEncodeError as error:
        raise _broken("the boundary is not ASCII") from error


class Reader:
    """Feed it bytes however they are cut; it yields `Part`, then `bytes` of that part, then the next `Part`."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # As if a line had ended before the body: then the first boundary looks like all others.
        self._held = bytearray(b"\r\n")
        self._step: Callable[[], Part | bytes | None] = self._opening
        self._parts = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Part | bytes]:
        """What `data` completes. Raises InvalidRequest at the first byte that cannot be right."""
        self._held += data
        while (found := self._step()) is not None:
            if found != b"":
                yield found

    def finish(self) -> None:
        """The body is over. Raises InvalidRequest unless the closing boundary was there."""
        if not self._ended:
            raise _broken("it ends before its closing boundary")

    # Each step looks at what is held, takes what it understands and returns it; b"" for nothing to tell, None for more bytes.

    def _opening(self) -> bytes | None:
        if not self._delimiter.startswith(self._held[: len(self._delimiter)]):
            raise _broken("it does not begin with its boundary")
        if len(self._held) < len(self._delimiter):
            return None
        del self._held[: len(self._delimiter)]
        self._step = self._after_boundary
        return b""

    def _after_boundary(self) -> bytes | None:
        if len(self._held) < 2:
            return None
        mark = bytes(self._held[:2])
        del self._held[:2]
        if mark == b"--":
            self._step = self._epilogue
        elif mark == b"\r\n":
            self._step = self._headers
        else:
            raise _broken("a boundary is followed by something else than a line end")
        return b""

    def _headers(self) -> Part | None:
        end = self._held.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
        if end < 0:
            if len(self._held) >= MAX_HEADER_BYTES:
                raise _broken(f"a part has headers of more than {MAX_HEADER_BYTES} bytes")
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _broken(f"it has more than {MAX_PARTS} parts")
        part = _part_of(bytes(self._held[:end]))
        del self._held[: end + 4]
        self._step = self._content
        return part

    def _content(self) -> bytes | None:
        end = self._held.find(self._delimiter)
        if end >= 0:
            content = bytes(self._held[:end])
            del self._held[: end + len(self._delimiter)]
            self._step = self._after_boundary
            return content
        sure = len(self._held) - len(self._delimiter) + 1
        if sure <= 0:
            return None
        content = bytes(self._held[:sure])
        del self._held[:sure]
        return content

    def _epilogue(self) -> None:
        self._ended = True
        if not b"\r\n".startswith(self._held[:3]):
            raise _broken("something follows its closing boundary")


def _part_of(block: bytes) -> Part:
    try:
        lines = block.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise _broken("the headers of a part are not UTF-8") from error
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or name in headers or not value.isprintable():
            raise _broken(f"{quoted(line)} is not a header of a part")
        headers[name] = value.strip()
    if headers.get("content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
        raise _broken("a part has a transfer encoding; send it as it is")
    return _disposition(headers.get("content-disposition", ""))


def _disposition(value: str) -> Part:
    kind, semicolon, _ = value.partition(";")
    if kind.strip().lower() != "form-data":
        raise _broken("a part has no form-data disposition")
    parameters: dict[str, str] = {}
    at = len(kind)
    while match := _PARAMETER.match(value, at):
        name = match[1].lower()
        if name in parameters:
            raise _broken(f"a part has two {quoted(name)}")
        parameters[name] = match[3] if match[2] is None else _ESCAPED.sub(r"\1", match[2])
        at = match.end()
    if value[at:].strip() or not parameters.get("name"):
        raise _broken(f"{quoted(value)} does not name its field")
    extended = parameters.get("filename*")  # RFC 5987: charset'language'percent-encoded
    filename = parameters.get("filename") if extended is None else unquote(extended.rpartition("'")[2], errors="replace")
    return Part(parameters["name"], filename)


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"the multipart body cannot be read: {why}")
