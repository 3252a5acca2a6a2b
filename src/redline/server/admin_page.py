"""The admin page: keys and what they used in the last week, written as HTML by the server. No script, nothing from elsewhere.

Every text of a person (the names of keys and models) is escaped, and the policy of the page allows its own style alone, by
hash. Open `page`.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from redline.server.accounts import Accounts
from redline.server.keys import Key, state_of
from redline.server.usage import Count, Row
from redline.server.usage_report import Total

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.over { color: #777; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
_COUNTS = Total.__struct_fields__
_HEADS = ("Requests", "Prompt tokens", "of them cached", "Completion tokens")


def page(keys: Sequence[Key], rows: Sequence[Row], accounts: Accounts) -> str:
    """The whole document."""
    by_key: dict[str, Count] = defaultdict(Count)
    by_day: dict[tuple[str, str, str], Count] = defaultdict(Count)
    names = {key.id: key.settings.name for key in keys}
    for row in rows:
        count = Count(**{name: getattr(row, name) for name in _COUNTS})
        by_key[row.key].add(count)
        by_day[time.strftime("%Y-%m-%d", time.gmtime(row.hour)), names.get(row.key, row.key), row.model].add(count)
    key_rows = [_key_row(key, by_key[key.id], accounts) for key in keys]
    if by_key[""].requests:
        key_rows.append(_row([("", ""), ("without a key of its own", ""), ("", ""), ("", ""), ("", ""), *_numbers(by_key[""])]))
    day_rows = [_row([*((cell, "") for cell in day), *_numbers(count)]) for day, count in sorted(by_day.items(), reverse=True)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>redline: keys and usage</title>'
        f"<style>{STYLE}</style></head><body><h1>Keys and usage</h1><h2>Keys, last seven days</h2>"
        f"{_table(('Id', 'Name', 'Scopes', 'State', 'Tokens left', *_HEADS), key_rows)}"
        f"<h2>Days (UTC)</h2>{_table(('Day', 'Key', 'Model', *_HEADS), day_rows)}</body></html>"
    )


def _key_row(key: Key, count: Count, accounts: Accounts) -> str:
    state = state_of(key)
    _, tokens = accounts.standing(key.id)
    left = "no limit" if tokens is None else f"{tokens.remaining} of {tokens.limit}"
    cells = [(key.id, ""), (key.settings.name, ""), (", ".join(key.settings.scopes), ""), (state, ""), (left, "number")]
    return _row([*cells, *_numbers(count)], "over" if state in ("revoked", "expired") else "")


def _numbers(count: Count) -> list[tuple[str, str]]:
    return [(f"{getattr(count, name):,}", "number") for name in _COUNTS]


def _row(cells: Iterable[tuple[str, str]], kind: str = "") -> str:
    inside = "".join(f"<td{_class(of)}>{escape(text)}</td>" for text, of in cells)
    return f"<tr{_class(kind)}>{inside}</tr>"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    first = len(heads) - len(_COUNTS)
    inside = "".join(f"<th{_class('number' if i >= first else '')}>{head}</th>" for i, head in enumerate(heads))
    body = "".join(rows) or f'<tr><td colspan="{len(heads)}">nothing yet</td></tr>'
    return f"<table><thead><tr>{inside}</tr></thead><tbody>{body}</tbody></table>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
