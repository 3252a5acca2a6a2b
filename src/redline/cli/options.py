"""Command-line options, generated from the fields of config.py: one place documents an option, whoever asks.

A field `max_model_len` becomes `--max-model-len`, with its help, choices and extra flags. Only what the user wrote is
handed on, so a default is decided in one place too. Knows nothing of commands. Open `config_options` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

from redline.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig
from redline.types import SamplingParams

ENGINE_SECTIONS = (ModelConfig, CacheConfig, SchedulerConfig, DeviceConfig)

# How one answer is sampled: field of SamplingParams, type, help.
SAMPLING = (
    ("temperature", float, "Randomness; 0 always takes the likeliest token."),
    ("top_k", int, "Sample among the K likeliest tokens; 0 is off."),
    ("top_p", float, "Sample among the likeliest tokens that together have probability P."),
    ("min_p", float, "Sample among tokens of at least P times the likeliest one's probability."),
    ("repetition_penalty", float, "Above 1, tokens of the prompt and the answer become less likely."),
    ("frequency_penalty", float, "Above 0, tokens become less likely with every time the answer has them, -2 to 2."),
    ("presence_penalty", float, "Above 0, tokens that the answer has become less likely, -2 to 2."),
    ("max_tokens", int, "Longest answer in tokens; to the end of the context where not given."),
    ("min_tokens", int, "Tokens before which the answer does not end by itself."),
    ("ignore_eos", bool, "Go on after an end token, to --max-tokens: for benchmarks."),
)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def config_options(*sections: type) -> Callable[[Decorated], Decorated]:
    """A decorator that adds an option for every field of `sections`; the model itself is an argument, not an option."""
    fields = [(section, field) for section in sections for field in dataclasses.fields(section) if field.name != "model"]

    def decorate(function: Decorated) -> Decorated:
        for section, field in reversed(fields):
            function = _option(section, field)(function)
        return function

    return decorate


def sampling_options(function: Decorated) -> Decorated:
    """Adds the sampling options and `--stop`."""
    function = click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated.")(
        function
    )
    for name, kind, text in reversed(SAMPLING):
        function = click.option(_flag(name), name, type=kind, is_flag=kind is bool, default=None, help=text)(function)
    return function


def split(options: Mapping[str, Any], *sections: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user wrote: the fields of `sections`, and the rest."""
    names = {field.name for section in sections for field in dataclasses.fields(section)}
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    return {k: v for k, v in given.items() if k in names}, {k: v for k, v in given.items() if k not in names}


def sampling_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling fields the user wrote, checked. Raises InvalidRequest for a value out of range."""
    names = {name for name, _, _ in SAMPLING} | {"stop", "n"}
    given = {name: value for name, value in options.items() if name in names and value is not None and value != ()}
    SamplingParams(**given).check()
    return given


def _option(section: type, field: dataclasses.Field[Any]) -> Callable[[Decorated], Decorated]:
    declared = get_type_hints(section)[field.name]
    kind = next(kind for kind in (bool, int, float, str) if kind in (get_args(declared) or (declared,)))
    choices: tuple[str, ...] = field.metadata["choices"]
    flag = _flag(field.name)
    shown = None if field.default in (None, ()) else field.default
    several = get_origin(declared) is tuple
    return click.option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        *field.metadata["flags"],
        field.name,
        type=click.Choice(choices) if choices else kind,
        default=() if several else None,
        multiple=several,
        help=field.metadata["help"] + (f"  [default: {_shown(shown)}]" if shown is not None else ""),
    )


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
