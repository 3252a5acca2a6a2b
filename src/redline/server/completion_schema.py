"""The body of POST /v1/completions. Open `CompletionBody`."""

from __future__ import annotations

from typing import Any

from redline.server.schema import Body, Int


class CompletionBody(Body, frozen=True, kw_only=True):
    prompt: str | list[str | Int | list[Int]]  # one kind of item in a list: parameters.py sees to that
    echo: bool | None = None
    logprobs: Int | None = None
    best_of: Int | None = None
    suffix: Any = None

    _unbuilt = {"suffix": ("",)}
