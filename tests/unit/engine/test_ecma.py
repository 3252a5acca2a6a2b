"""Patterns of schemas: what the matcher accepts, an ECMA reader accepts; the oracle is jsonschema-rs, and the refusals are named."""

from __future__ import annotations

import json
from random import Random

import jsonschema_rs
import pytest

from redline.engine.ecma import portable
from redline.engine.grammar import Compiler, of_json_schema
from redline.errors import UnsupportedField
from schemas import byte_compiler, walk

PATTERNS = [
    *("^(a|b)$", "^.?a$", "^a$", "^a.c$", r"^\S+$", r"^\s+$", r"^[\s]{1,3}$", r"^[^\s]{2}$", r"^[\Sx]$", r"^[^\S]$", "^[[a]]$"),
    *(
        "^[a&&b]$",
        r"^\x41\u0042\u{43}$",
        r"^\cJ$",
        "^(?:a|b){2,3}?$",
        "^(?<year>[0-9]{4})$",
        r"^\p{L}+$",
        r"^[\p{Lu}\d]$",
        r"^\W\D$",
    ),
    *("^$", "^[^a-c]$", r"^\/\-\.$", "(^a)b$", "^[a~~b]+$", r"^[\]\\[]+$", "^.{3}$", r"^[a-c\-]$", r"^(\d|x)*$"),
]


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return byte_compiler()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_that_the_matcher_makes_are_matches(pattern: str, compiler: Compiler) -> None:
    schema = {"type": "string", "pattern": pattern}
    grammar, validator, rng = of_json_schema(schema), jsonschema_rs.Draft202012Validator(schema), Random(3)
    made = [walk(compiler.matcher(grammar), rng, most=100) for _ in range(60)]
    ended = [json.loads(text) for text in made if text is not None]
    assert len(ended) > 20
    assert [text for text in ended if not validator.is_valid(text)] == []


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("^[[a]]$", ["[]", "a]"], ["a"]),  # Rust would nest the classes
        ("a.c", ["abc"], ["a\rc", "a\u2028c"]),  # Rust's dot takes them
        (r"^\s$", [" ", "\u00a0"], ["\x85", "\ufeff"]),  # each is a space to one of the two
        (r"^\S$", ["x"], ["\x85", "\ufeff", " "]),
        (r"^[^\s]$", ["x"], ["\x85", "\ufeff"]),
        ("^a{,3}$", ["a{,3}"], ["aaa"]),  # no quantifier in ECMA
        ("^[a&&b]$", ["a", "&"], [""]),
        (r"^\ud83d\ude00$", ["😀"], [""]),
        ("^{x}$", ["{x}"], ["x"]),
    ],
)
def test_where_the_dialects_differ(pattern: str, texts: list[str], others: list[str], compiler: Compiler) -> None:
    """Only texts that both readings accept get through."""
    grammar = of_json_schema({"type": "string", "pattern": pattern})
    for text, accepted in [*((text, True) for text in texts), *((text, False) for text in others)]:
        matcher = compiler.matcher(grammar)
        spelled = json.dumps(text, ensure_ascii=False).encode()
        taken = all(matcher.consume(byte) for byte in spelled)
        assert (taken and matcher.complete) == accepted, text


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b",
        "(?!a)b",
        "(?<=a)b",
        "(?i)a",
        "(?P<n>a)",
        r"\bfoo",
        r"(a)\1",
        r"\k<n>",
        "[]a]",
        "[+--]",
        "[^]",
        "a++",
        "*a",
        "[a",
        r"\A",
        r"\ud83d",
        "\\",
    ],
)
def test_what_has_no_sound_form_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedField, match="cannot be enforced"):
        portable(pattern)
    with pytest.raises(UnsupportedField, match="'pattern' cannot be enforced"):
        of_json_schema({"type": "string", "pattern": pattern})


def test_a_pattern_without_end_is_refused() -> None:
    with pytest.raises(UnsupportedField, match="too long"):
        portable("a" * 5000)
