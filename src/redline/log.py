"""Logging: one logger tree under `redline`, set up by the command line alone, and the record of fallbacks.

A fallback is never silent: `fallback` writes one line for each (name, reason), counts it in `FALLBACKS` for the metrics
page, and raises where the configuration is strict. A line says which request it belongs to where there is one, and what
is given as `extra={"fields": {...}}` becomes fields of a JSON line and `name=value` of a text line. Libraries that embed
redline keep their own logging: nothing here runs at import. Open `setup` first, then `fallback`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from contextvars import ContextVar
from typing import Any

from redline.errors import ConfigError

ROOT = "redline"
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this task works for."""

FALLBACKS: Counter[tuple[str, str]] = Counter()
"""How often each (name, reason) fell back, since the process began."""


def get(name: str) -> logging.Logger:
    """The logger of a room or file: `get("checkpoint")`."""
    return logging.getLogger(f"{ROOT}.{name}")


def setup(level: str = "info", *, json: bool = False) -> None:
    """Send redline's log to standard error, as text or as one JSON object a line. A second call replaces the first.

    Raises ConfigError for a level that is not one of `LEVELS`.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level must be one of {', '.join(LEVELS)}, not {level!r}", param="log_level")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if json else _TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def fallback(name: str, reason: str, *, strict: bool = False) -> None:
    """Record that `name` was not done the intended way, because of `reason` (a sentence without numbers that vary).

    Raises ConfigError where `strict`; otherwise warns once for each (name, reason) and counts every call.
    """
    if strict:
        raise ConfigError(f"{name} would fall back: {reason}", hint="strict mode turns every fallback into an error")
    FALLBACKS[name, reason] += 1
    if FALLBACKS[name, reason] == 1:
        get("fallback").warning("%s: %s", name, reason)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the line says beside its message."""
    request_id = REQUEST_ID.get()
    return ({"request_id": request_id} if request_id else {}) | getattr(record, "fields", {})


class _TextLines(logging.Formatter):
    """One line, fields at its end, a trace below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        said = record.args or ()  # in the message, and not again
        fields = {name: value for name, value in _fields(record).items() if value not in said}
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


class _JsonLines(logging.Formatter):
    """One JSON object a line: time in seconds since the epoch, level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
