"""The options that say what an answer must match: --json-schema, --yaml-schema, --regex, --choice, --grammar.

Each takes a file or the thing itself. Open `grammar_options`, then `grammar_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from redline.errors import InvalidRequest

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--json-schema", metavar="FILE|JSON", default=None, help="Answer with JSON that this schema allows."),
    click.option("--yaml-schema", metavar="FILE|JSON", default=None, help="Answer with YAML that this JSON schema allows."),
    click.option("--regex", metavar="PATTERN", default=None, help="Answer with a text that matches as a whole."),
    click.option("--choice", metavar="TEXT", multiple=True, help="Answer with one of these; repeat the option for each."),
    click.option("--grammar", metavar="FILE|LARK", default=None, help="Answer with a text of this Lark grammar."),
)


def grammar_options(function: Decorated) -> Decorated:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def grammar_of(options: Mapping[str, Any]) -> str | None:
    """The grammar that the options ask for. Raises InvalidRequest for two of them, UnsupportedField for what cannot be enforced."""
    names = ("json_schema", "yaml_schema", "regex", "choice", "grammar")
    given = [(name, options[name]) for name in names if options.get(name)]
    if not given:
        return None
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name, _ in given)
        raise InvalidRequest(f"{flags} contradict each other", hint="give one of them", param=given[1][0])
    from redline.engine import grammar

    name, value = given[0]
    if name == "regex":
        return grammar.of_regex(value, name)
    if name == "choice":
        return grammar.of_choice(value, name)
    if name == "grammar":
        return grammar.of_lark(_text(value), name)
    build = grammar.of_json_schema if name == "json_schema" else grammar.of_yaml
    return build(_schema(_text(value), name), name)


def _schema(text: str, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the schema is neither a file nor JSON: {error}", param=name) from error


def _text(given: str) -> str:
    """The content of a file, or what was given where there is no such file."""
    try:
        return Path(given).read_text(encoding="utf-8") if "\n" not in given and Path(given).is_file() else given
    except (OSError, UnicodeDecodeError):  # a long text is no file name
        return given
