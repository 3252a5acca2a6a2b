"""A Jinja environment for templates that came with a file from somewhere: no reach into Python, and hard limits.

A template is a program of a stranger that runs in the server's process. Jinja's immutable sandbox keeps it from
Python's internals but lets it loop for ever or fill the memory, so on top of it every step is counted:

- No value is larger than `Limits` allows, so whatever Python does with one value takes milliseconds. Everything
  that makes a value (operators, calls, filters, literals, slices) goes through `Meter.admit`; what would grow by more
  than its operands' size (`"a" * 10**9`, `replace`, `join`, format widths) is measured before it runs.
- Whatever may happen often (a loop's turn, a call, a comparison, an output) looks at the clock.
- Filters and methods are lists of what is allowed, not of what is not.

Knows nothing of chats. Open `BoundedEnvironment` first, and `Meter` in bounds.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, Never, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from redline.chat import bounds
from redline.chat.bounds import LimitExceeded, Limits, current, metered


class Refused(jinja2.TemplateError):
    """The template itself rejected the messages, through `raise_exception`."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with the limits of this module."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            optimized=False, trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag], finalize=_output
        )
        self.filters = {name: _bounded_filter(name, self.filters[name]) for name in _FILTERS}
        self.filters |= {"tojson": _bounded_filter("tojson", _tojson), **_REWRITTEN}
        self.tests = {name: _ticking(cast(Callable[..., Any], test)) for name, test in self.tests.items()}
        self.globals = {
            "range": safe_range,
            "dict": _Dict(),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def compile_bounded(self, source: str) -> jinja2.Template:
        """Compile a template with the limits woven in. Raises jinja2.TemplateError."""
        return self.from_string(_Weaver().visit(self.parse(source)))

    def render_bounded(self, template: jinja2.Template, variables: Mapping[str, Any], limits: Limits) -> str:
        """Render within `limits`. Raises LimitExceeded, and whatever the template's own mistakes raise."""
        with metered(limits) as meter:
            meter.measure(dict(variables))
            parts, length = [], 0
            for part in template.generate(variables):
                length += len(part)
                if length > limits.chars:
                    raise LimitExceeded(f"wrote more than {limits.chars} characters")
                parts.append(part)
            return "".join(parts)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the output of a macro or a block."""
        written = list(parts)
        current().charge(sum(map(len, written)))
        return "".join(written)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        allowed = next((names for kind, names in _METHODS.items() if isinstance(obj, kind)), None)
        return super().is_safe_attribute(obj, attr, value) and (allowed is None or attr in allowed)

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        if attribute.startswith("_"):  # a reach into Python, not a key that happens to be called like a method
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")
        return super().unsafe_undefined(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        current().tick()  # a key may be a long tuple
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            bounds.check_braces(value.__self__, (args, kwargs))
            return wrapped(*args, **kwargs)

        return bounded

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        meter = current()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ == "join":
                args = tuple(meter.admit(list(meter.watch(values))) for values in args)
            check = _METHOD_CHECKS.get(__obj.__name__)
            if check is not None:
                check(owner, *args)  # these take no keywords; Jinja adds some of its own
            meter.charge(len(owner))  # what `split` and its like copy
        elif isinstance(__obj, LoopContext):  # a recursive loop goes into its next level
            args = tuple(meter.watch(values) for values in args or (kwargs.pop("iterable"),))
        elif isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs):
            meter.measure((args, kwargs))
        return meter.admit(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            bounds.check_product(left, right)
        elif operator == "**":
            bounds.check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            bounds.check_percent(left, right)
        return current().admit(super().call_binop(context, operator, left, right))


class _Weaver(NodeTransformer):
    """Puts the limits into a parsed template where Jinja has no hook: literals, loops, comparisons, `~`, slices."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("#watch", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        return _through("#tick", node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _through("#admit", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _through("#admit", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through("#admit", node) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("#concat", nodes.Tuple(node.nodes, "load", lineno=node.lineno, environment=node.environment))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through("#slice", node) if isinstance(node.arg, nodes.Slice) else node

    def _refuse(self, node: nodes.Node) -> Never:
        raise jinja2.TemplateSyntaxError(f"{type(node).__name__.lower()} is not available in a chat template", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_ScopedEvalContextModifier = _refuse


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    """`node|name`, where the name is one that no template can write."""
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is its contents."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """`namespace()`. Names with an underscore are refused, as transformers does; its text does not show what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: B902  (so that namespace(self=...) works)
        self, rest = args[0], args[1:]
        held = dict(*rest, **kwargs)
        for name in held:
            _check_name(name)
        Namespace.__init__(self, held)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


class _Dict:
    """`dict(...)` and `dict.fromkeys(...)`, without the type behind them."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*(value if isinstance(value, Mapping) else current().watch(value) for value in args), **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(current().watch(keys), value)


def _raise_exception(message: Any) -> Never:
    raise Refused(str(message))


def _strftime_now(format: str) -> str:
    if not isinstance(format, str) or len(format) > 200 or re.search(r"\d{3}", format):
        raise LimitExceeded("asked for a date of more than 200 characters")
    return datetime.now().strftime(format)


def _output(value: Any) -> str:
    """Every expression that a template writes comes through here."""
    meter = current()
    meter.tick()
    text = str(value)
    if text is not value:
        meter.charge(len(text))
    return text


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """JSON as transformers writes it: characters as they are, nothing escaped for HTML, keys in their order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_METHOD_CHECKS: dict[str, Callable[..., None]] = {
    "join": bounds.check_join,
    "replace": bounds.check_replace,
    "title": bounds.check_long,
}
_FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "float": bounds.check_number,
    "format": lambda text, *args, **kwargs: bounds.check_percent(str(text), kwargs or args),
    "indent": bounds.check_indent,
    "int": bounds.check_number,
    "join": lambda values, d="", attribute=None: bounds.check_join(str(d), values),
    "replace": lambda text, old, new, count=None: bounds.check_replace(str(text), old, new),
    "round": bounds.check_round,
    "sum": bounds.check_sum,
    "title": bounds.check_long,
    "tojson": bounds.check_tojson,
}

# Filters that look at every item, so at the clock for each.
_ITERATING = frozenset("groupby join list map max min reject rejectattr select selectattr sort sum unique".split())
_FILTERS = _ITERATING | frozenset(
    "abs attr capitalize count d default dictsort e escape first float format indent int items last length lower "
    "replace reverse round safe string title trim upper".split()
)
_STR_METHODS = frozenset(
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace "
    "istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip "
    "split splitlines startswith strip swapcase title upper".split()
)
_METHODS: dict[type | tuple[type, ...], frozenset[str]] = {
    str: _STR_METHODS,
    dict: frozenset(("get", "items", "keys", "values")),
    (list, tuple): frozenset(("count", "index")),
    (int, float, bytes, range): frozenset(),
}


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments checked, its input watched and its result admitted."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja may pass its context before the value
    check = _FILTER_CHECKS.get(name)
    iterates = name in _ITERATING

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        meter = current()
        if iterates:
            value = meter.watch(args[at])
            args = (*args[:at], meter.admit(list(value)) if name == "join" else value, *args[at + 1 :])
        if check is not None:
            check(*args[at:], **kwargs)
        return meter.admit(function(*args, **kwargs))

    return bounded


def _ticking(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    def ticking(*args: Any, **kwargs: Any) -> Any:
        current().tick()
        return test(*args, **kwargs)

    return ticking


def _tick(value: Any) -> Any:
    current().tick()
    return value


def _concat(values: tuple[Any, ...]) -> str:
    return BoundedEnvironment.concat(map(str, values))


def _slice(value: Any) -> Any:
    """A slice of a value that was admitted: only what was copied counts."""
    current().tick()
    current().charge(len(value) * (1 if isinstance(value, str) else 16))
    return value


_REWRITTEN: dict[str, Callable[..., Any]] = {
    "#admit": lambda value: current().admit(value),
    "#concat": _concat,
    "#slice": _slice,
    "#tick": _tick,
    "#watch": lambda values: current().watch(values),
}
