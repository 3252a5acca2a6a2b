"""The functions that a request offers, checked: the same rules whichever API it came through. Open `checked`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from redline.chat.tools import Tool, ToolChoice
from redline.errors import InvalidRequest
from redline.server.schema import quoted

MAX_TOOLS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def checked(tools: Iterable[Tool], name: str = "tools[{}].name") -> tuple[Tool, ...]:
    """The tools, if they are not too many and each has a name of its own; `name` is where it stands in the body."""
    known: dict[str, Tool] = {}
    for number, tool in enumerate(tools):
        path = name.format(number)
        if number == MAX_TOOLS:
            raise InvalidRequest(f"tools has more than {MAX_TOOLS} entries", param="tools")
        if not _NAME.fullmatch(tool.name):
            what = f"{path}: {quoted(tool.name)} is no name of a function"
            raise InvalidRequest(what, hint="1 to 128 letters, digits, and _ - . : /", param=path)
        if tool.name in known:
            raise InvalidRequest(f"{path}: there are two functions {quoted(tool.name)}", param=path)
        known[tool.name] = tool
    return tuple(known.values())


def checked_choice(choice: ToolChoice, tools: tuple[Tool, ...]) -> ToolChoice:
    """The choice, if there is what it chooses from."""
    if choice.mode == "required" or choice.names is not None:
        if not tools:
            raise InvalidRequest("tool_choice needs tools", param="tool_choice")
        if choice.names == ():
            raise InvalidRequest("tool_choice allows no function", param="tool_choice")
    known = {tool.name for tool in tools}
    for name in choice.names or ():
        if name not in known:
            raise InvalidRequest(f"tool_choice: there is no function {quoted(name)} among the tools", param="tool_choice")
    return choice
