"""What is written is read alike by readers of YAML 1.1 and 1.2, in one order and one style, with notes that never break it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saidata.format.document import Text
from saidata.format.emit import emit

FILE = {
    "ports": [{"protocol": "tcp", "port": 80}],
    "packages": [{"version": "1.22", "package_name": "nginx", "name": "nginx", "alternatives": ["nginx-full", "nginx-light"]}],
    "metadata": {
        "license": "BSD-2-Clause",
        "name": "nginx",
        "language": "no",
        "urls": {"website": "https://nginx.example.org/a?b=c"},
    },
    "version": "0.3",
    "files": [{"path": "/etc/nginx/nginx.conf", "name": "config", "mode": "0644"}],
    "own": {"b": 1, "a": [[1], {"c": None}]},
}

WRITTEN = """\
version: "0.3"

metadata:
  name: nginx
  license: BSD-2-Clause
  language: "no"
  urls:
    website: "https://nginx.example.org/a?b=c"

packages:
  - name: nginx
    package_name: nginx  # debian bookworm has it
    version: "1.22"
    alternatives: [nginx-full, nginx-light]

files:
  - name: config
    path: /etc/nginx/nginx.conf
    mode: "0644"

ports:
  - port: 80  # not checked: nothing names it
    protocol: tcp

own:
  b: 1
  a:
    - [1]
    - c: null
"""


def test_keys_order_quotes_and_notes() -> None:
    notes = {("packages", 0, "package_name"): "debian bookworm has it", ("ports", 0): "not checked:\nnothing\x07names it"}
    assert emit(FILE, notes) == WRITTEN
    assert emit({key: FILE[key] for key in sorted(FILE)}, notes) == WRITTEN
    assert Text.parse(WRITTEN, "nginx").value == FILE


def test_a_note_on_one_item_of_a_list_opens_the_list() -> None:
    text = emit({"metadata": {"tags": ["a", "b"]}}, {("metadata", "tags", 1): "hm # hm"})
    assert text == "metadata:\n  tags:\n    - a\n    - b  # hm # hm\n"


def test_long_lists_stand_one_below_the_other() -> None:
    tags = [f"word-{number}" for number in range(20)]
    assert emit({"metadata": {"tags": tags}}).count("\n") == 22


TRAPS = [
    "no",
    "Off",
    "y",
    "0644",
    "22:22",
    "1.10",
    "1_000",
    "0x1f",
    "0o17",
    "1e3",
    ".5",
    ".inf",
    "~",
    "null",
    "",
    " a",
    "a ",
    "a: b",
    "a #b",
]
TRAPS += [
    "- a",
    "-",
    "?",
    ":",
    "key:",
    "@a",
    "`a",
    "%a",
    "&a",
    "*a",
    "!a",
    "|",
    ">",
    "'a'",
    '"a"',
    "[a]",
    "{a}",
    "a, b",
    "=",
    "<<",
    "\\",
    "\t",
]
TRAPS += [
    "a\nb",
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "\U0001f600",
    "2024-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "+1",
    "a]",
    "a}",
    "_1",
    "1:2",
]


def read_alike(data: dict[str, Any]) -> None:
    text = emit(data)
    assert yaml.safe_load(text) == data, text  # a reader of YAML 1.1
    assert Text.parse(text, "written").value == data, text  # of YAML 1.2
    assert json.loads(json.dumps(data)) == data


@pytest.mark.parametrize("trap", TRAPS, ids=ascii)
def test_text_that_looks_like_something_else(trap: str) -> None:
    read_alike({"key": trap, "list": [trap], trap or "k": {"inner": trap}, "deep": [[trap], {"in": [trap, {"x": trap}]}]})


def test_numbers_and_truths() -> None:
    read_alike(
        {"a": 1e300, "b": -0.5, "c": 10**30, "d": True, "e": None, "f": 1e-7, "g": [1.0, -3], "h": float("inf"), "i": {}, "j": []}
    )


@pytest.mark.soak
def test_any_data_is_read_back(effort: int) -> None:
    texts = st.text(max_size=20) | st.sampled_from(TRAPS)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    )

    @settings(max_examples=50 * effort, deadline=None, suppress_health_check=list(HealthCheck), derandomize=effort == 1)
    @given(st.dictionaries(texts, values, max_size=5))
    def run(data: dict[str, Any]) -> None:
        text = emit(data)
        assert yaml.safe_load(text) == data
        assert Text.parse(text, "written").value == data

    run()
