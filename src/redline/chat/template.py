"""Chat templates: a conversation as the text that a model was trained to see.

Renders as transformers does (the Jinja settings, `tojson`, `raise_exception`, `strftime_now`), inside the sandbox of
sandbox.py. Knows nothing of tokenizers or HTTP. Open `ChatTemplate.render` first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes

from redline.chat.bounds import DEFAULT_LIMITS, LimitExceeded, Limits
from redline.chat.sandbox import BoundedEnvironment, Refused
from redline.errors import InvalidRequest, NotFound, TemplateError

MAX_SOURCE_CHARS = 128 * 1024
MAX_DEPTH = 48  # of nesting in messages, tools and variables

_END = "REDLINE_END_OF_FINAL_MESSAGE "  # its last space tells whether the template strips messages


class ChatTemplate:
    """One template, compiled once; safe to share between threads.

    `tokens` are the texts that templates name (`bos_token`, `eos_token` ...); `variables` the names that this one reads.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None, *, limits: Limits = DEFAULT_LIMITS):
        """Raises TemplateError for a source that is too long or does not compile."""
        self.source = source
        self.tokens = dict(tokens or {})
        self.is_missing = False
        self._limits = limits
        self._environment = BoundedEnvironment()
        self._template, self._takes_parts, self.variables = self._compile(source)

    @classmethod
    def of_model(cls, source: str | None, tokens: Mapping[str, str], *, file: str | None = None) -> ChatTemplate:
        """The template that a checkpoint brings, or for None one whose `render` says that the model has none.

        A `file` that the user names goes before the checkpoint's own. Raises NotFound where there is none.
        """
        if file is not None:
            source = _read(file)
        template = cls(source or "", tokens)
        template.is_missing = source is None
        return template

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation, special tokens spelled out; encode it with `add_special_tokens=False`.

        `add_generation_prompt` opens an answer (by default, unless `continue_final_message` leaves the last message
        open to be continued). Further arguments are variables of the template.

        Contents: a list of {"type": "text", "text": ...} parts stays a list if the template loops over something
        called `content`, and else becomes one string, a line break between parts. Arguments of tool calls that are
        JSON in a string, as the OpenAI API sends them, become the object, as templates write them with `tojson`; a template
        that fails with an object gets the string.

        Raises InvalidRequest for messages that are not plain data or options that contradict each other,
        TemplateError where the template refuses the messages, fails or uses more than `Limits`.
        """
        if self.is_missing:
            raise TemplateError("this model has no chat template", hint="use /v1/completions, or redline generate --raw")
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        elif add_generation_prompt and continue_final_message:
            raise InvalidRequest("continue_final_message contradicts add_generation_prompt", param="continue_final_message")
        chat = [self._message(message, number) for number, message in enumerate(messages)]
        final = _mark_end(chat) if continue_final_message else ""
        variables = {
            "documents": None,
            **self.tokens,
            **plain_data(kwargs, "chat_template_kwargs"),
            "messages": chat,
            "tools": plain_data(tools, "tools"),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(variables, chat)
        return _cut_at_end(text, final) if continue_final_message else text

    def _compile(self, source: str) -> tuple[jinja2.Template, bool, frozenset[str]]:
        """The template; whether it takes contents in parts; the variables that it reads and does not set first."""
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateError(f"the chat template has {len(source)} characters, at most {MAX_SOURCE_CHARS} are read")
        try:
            tree = self._environment.parse(source)
            variables = frozenset(meta.find_undeclared_variables(tree))
            return self._environment.compile_bounded(source), _loops_over_content(tree), variables
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template does not compile: line {error.lineno}: {error.message}") from error
        except Exception as error:  # Python's own limits on nesting, in several guises
            raise TemplateError(f"the chat template does not compile: {type(error).__name__}: {error}") from error

    def _run(self, variables: dict[str, Any], chat: list[dict[str, Any]]) -> str:
        try:
            try:
                return self._environment.render_bounded(self._template, variables, self._limits)
            except TypeError:  # some templates add the arguments of a call to a text
                written = [_write_arguments(call) for message in chat for call in message.get("tool_calls") or ()]
                if not any(written):
                    raise
                return self._environment.render_bounded(self._template, variables, self._limits)
        except LimitExceeded as error:
            raise TemplateError(f"the chat template {error}") from error
        except Refused as error:
            raise TemplateError(f"the chat template refused the messages: {_brief(error)}") from error
        except RecursionError as error:
            raise TemplateError("the chat template calls itself without end") from error
        except Exception as error:  # a template is a program, and may fail in any way that a program can
            raise TemplateError(f"the chat template failed: {type(error).__name__}: {_brief(error)}") from error

    def _message(self, message: Mapping[str, Any], number: int) -> dict[str, Any]:
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise InvalidRequest(f"{where} is not an object", param=where)
        plain: dict[str, Any] = plain_data(message, where)
        if isinstance(plain.get("content"), list) and not self._takes_parts:
            plain["content"] = "\n".join(_part_text(part, f"{where}.content") for part in plain["content"])
        for call in plain.get("tool_calls") or ():
            _parse_arguments(call)
        return plain


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of JSON's types alone, so that a template meets no object with methods of its own.

    Raises InvalidRequest, naming `where`, for anything else and for what is nested more than `MAX_DEPTH` deep.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{where} is nested more than {MAX_DEPTH} deep", param=where)
    if isinstance(value, Mapping):
        return {plain_data(key, where, depth + 1): plain_data(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item, where, depth + 1) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind):  # a subclass, such as an enum
            return kind(value)
    raise InvalidRequest(f"{where} holds a {type(value).__name__}, which is not JSON", param=where)


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise InvalidRequest(f"{where} has a part of type {kind!r}: this model's template takes text alone", param=where)


def _parse_arguments(call: Any) -> None:
    function = call.get("function", call) if isinstance(call, dict) else None
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        try:
            parsed = json.loads(function["arguments"])
        except (ValueError, RecursionError):
            return  # a model may have written what is no JSON: the template sees it as it was
        if isinstance(parsed, dict):
            function["arguments"] = plain_data(parsed, "tool_calls")


def _write_arguments(call: Any) -> bool:
    """Make the arguments of a call their JSON text; whether they were an object."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return False
    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return True


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as lines:
            return lines.read(MAX_SOURCE_CHARS + 1)
    except UnicodeDecodeError as error:
        raise TemplateError(f"the chat template {file} is not UTF-8", param="chat_template") from error
    except OSError as error:
        raise NotFound(f"the chat template {file} cannot be read: {error.strerror}", param="chat_template") from error


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether the template has a loop over `….content`, `…["content"]` or a variable called `content`."""
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node | None) -> bool:
    while isinstance(node, nodes.Filter) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name == "content"
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _mark_end(chat: list[dict[str, Any]]) -> str:
    """Mark where the text of the last message ends, and return that text."""
    content = chat[-1].get("content") if chat else None
    if isinstance(content, str):
        chat[-1]["content"] = content + _END
        return content
    for part in reversed(content or ()):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + _END
            return text
    raise InvalidRequest("continue_final_message needs a last message with text", param="continue_final_message")


def _cut_at_end(text: str, final: str) -> str:
    """Drop everything from the mark on, and the space before it where the template strips its messages."""
    at = text.rfind(_END.strip())
    if at < 0 or final.strip() not in text:
        raise TemplateError("the chat template does not show the last message as it is, so it cannot be continued")
    return text[:at] if text.startswith(_END, at) else text[:at].rstrip()


def _brief(error: Exception) -> str:
    message = str(error)
    return message if len(message) <= 500 else message[:500] + " …"
