"""The log: one set-up, text or JSON lines; a fallback is one line a reason, counted, and an error where strict."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from redline import log
from redline.errors import ConfigError


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Leave logging and the counts as they were."""
    logger = logging.getLogger("redline")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    log.FALLBACKS.clear()


def test_lines_are_text_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    log.setup("info")
    log.get("engine").info("ready in %d s", 3)
    log.get("engine").debug("not shown")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.endswith("INFO redline.engine: ready in 3 s\n")


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("warning", json=True)
    try:
        raise ValueError("broken")
    except ValueError:
        log.get("server").exception("line\nbreak é")
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == ("error", "redline.server", "line\nbreak é")
    assert "ValueError: broken" in record["exception"] and record["time"] > 1e9


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="debug, info, warning, error"):
        log.setup("loud")


def test_a_fallback_is_one_line_a_reason_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    for _ in range(3):
        log.fallback("attention", "this head size has no kernel")
    log.fallback("attention", "no GPU")
    assert capsys.readouterr().err.count("redline.fallback") == 2
    assert log.FALLBACKS == {("attention", "this head size has no kernel"): 3, ("attention", "no GPU"): 1}


def test_strict_makes_a_fallback_an_error() -> None:
    with pytest.raises(ConfigError, match="attention would fall back: no GPU"):
        log.fallback("attention", "no GPU", strict=True)
    assert not log.FALLBACKS


def test_fields_are_told_in_both_formats_and_the_message_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"fields": {"path": "/v1", "tokens": 7}}
    log.setup("info")
    log.get("access").info("GET %s", "/v1", extra=told)
    assert capsys.readouterr().err.endswith("redline.access: GET /v1 tokens=7\n")
    log.setup("info", json=True)
    log.get("access").info("GET %s", "/v1", extra=told)
    record = json.loads(capsys.readouterr().err)
    assert (record["message"], record["path"], record["tokens"]) == ("GET /v1", "/v1", 7)


def test_a_line_says_which_request_it_belongs_to(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", json=True)
    token = log.REQUEST_ID.set("req_1")
    log.get("server").info("in")
    log.REQUEST_ID.reset(token)
    log.get("server").info("out")
    inside, outside = map(json.loads, capsys.readouterr().err.splitlines())
    assert inside["request_id"] == "req_1" and "request_id" not in outside
