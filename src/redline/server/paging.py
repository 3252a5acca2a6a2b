"""Query strings of lists: `limit`, `after` and `order`, as the OpenAI API has them. What is unknown is refused. Open `page_of`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from redline.errors import InvalidRequest
from redline.server.schema import quoted

_KNOWN = ("limit", "after", "order")
QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1},
    "after": {"type": "string"},
    "order": {"enum": ["asc", "desc"]},
}


@dataclass(frozen=True)
class Page:
    limit: int
    after: str | None
    newest_first: bool


def page_of(request: Request, default: int, most: int, *, also: tuple[str, ...] = (), ordered: bool = True) -> Page:
    """Which part of a list is asked for; `also` names further parameters of the endpoint, which may have but one order.
    Raises InvalidRequest by name."""
    query = request.query_params
    for name, _ in query.multi_items():
        if name not in _KNOWN + also or (name == "order" and not ordered):
            raise InvalidRequest(f"there is no parameter {quoted(name)}", param=name[:64])
        if len(query.getlist(name)) > 1:
            raise InvalidRequest(f"{name} is there twice", param=name)
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"limit must be between 1 and {most}, not {quoted(text)}", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order must be asc or desc, not {quoted(order)}", param="order")
    return Page(int(text), query.get("after"), order == "desc")
