"""How models write tool calls and reasoning, as data: markers, order, names of keys. One parser reads them all.

The markers are the very text that a model was trained to write, white space included; parsers are lenient about the white
space, grammars are not. Which model writes what is decided in formats.py. Open `ToolSyntax` first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ToolSyntax:
    """A group of calls is `begin`, calls with `separator` between them, `end`; a call is `call_begin`, body, `call_end`.

    The body is an object, {"name": NAME, "arguments": OBJECT} with the keys named here, or where `named` the name,
    `name_end` and the arguments' object. `optional_begin`: a group may begin without its marker, but then only where an
    answer begins. `id_chars`: ids of calls must have that many letters and digits for the template.
    """

    name: str
    begin: str = ""
    call_begin: str = ""
    call_end: str = ""
    separator: str = ""
    end: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"
    named: bool = False
    name_end: str = ""
    id_begin: str = ""  # an id may stand between the name and `name_end`, after this
    optional_begin: bool = False
    parallel: bool = True
    id_chars: int = 0

    @property
    def trigger(self) -> str:
        """The text that announces a call, or "" where only the place does."""
        return self.begin.rstrip(" \n[").strip() or self.call_begin.strip()

    @property
    def bare(self) -> bool:
        """Whether a call may be an object at the beginning of an answer, with nothing to announce it."""
        return self.optional_begin or not self.trigger

    @property
    def markers(self) -> tuple[str, ...]:
        """Every marker that is not JSON's own punctuation, without the white space around it."""
        found = (self.trigger, self.call_begin, self.id_begin, self.name_end, self.call_end, self.end.lstrip(" \n]"))
        return tuple(dict.fromkeys(marker.strip() for marker in found if marker.strip()))


@dataclass(frozen=True, kw_only=True)
class ReasoningSyntax:
    """A block of reasoning before the answer. The prompt may have opened it already."""

    begin: str
    end: str


HERMES = ToolSyntax(
    name="hermes", call_begin="<tool_call>\n", call_end="\n</tool_call>", separator="\n"
)  # NousResearch's Hermes 2 Pro, Qwen 2.5 and 3
LLAMA = ToolSyntax(
    name="llama3_json", begin="<|python_tag|>", separator="; ", arguments_key="parameters", optional_begin=True
)  # Llama 3.1 to 3.3
MISTRAL_LIST = ToolSyntax(
    name="mistral",
    begin="[TOOL_CALLS] [",
    separator=", ",
    end="]",
    id_begin="[CALL_ID]",
    name_end="[ARGS]",
    id_chars=9,
)  # tokenizers v3 to v7
MISTRAL_NAMED = ToolSyntax(
    name="mistral", call_begin="[TOOL_CALLS]", named=True, id_begin="[CALL_ID]", name_end="[ARGS]", id_chars=9
)  # v11 and later
THINK = ReasoningSyntax(begin="<think>\n", end="\n</think>\n\n")
