"""Errors leave in one envelope, with status, hint and Retry-After, and without anything of ours."""

from __future__ import annotations

import json

import pytest

from redline import errors
from redline.server import failures


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("bad", param="n"), 400, "invalid_request_error"),
        (errors.Unauthorized("no"), 401, "authentication_error"),
        (errors.NotFound("none"), 404, "not_found_error"),
        (errors.TooLarge("big"), 413, "invalid_request_error"),
        (errors.Overloaded("full", retry_after_s=2.2), 429, "rate_limit_error"),
        (errors.EngineDead("gone"), 503, "server_error"),
        (errors.DeadlineExceeded("late"), 504, "server_error"),
        (errors.InternalError("ours"), 500, "server_error"),
    ],
)
def test_each_class_has_its_status_and_type(error: errors.RedlineError, status: int, kind: str) -> None:
    response = failures.response(error)
    told = json.loads(bytes(response.body))["error"]
    assert response.status_code == status
    assert told == {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    expected = {"overloaded": "3", "engine_dead": "1"}.get(error.code)
    assert response.headers.get("retry-after") == expected


def test_the_hint_is_part_of_the_message() -> None:
    error = errors.ConfigError("no room", hint="try less")
    assert failures.envelope(error)["error"]["message"] == "no room (try less)"
