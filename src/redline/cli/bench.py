"""`redline bench KIND MODEL`: how fast a model runs here, beside the limit that this machine's measured rates set.

Each kind prints the ceiling first, then a table; with --plot it draws a picture; last on standard output comes one JSON
document, alone with --json. The measuring is `redline.bench`'s. Open `command`, then `_measured`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from redline.cli.arguments import JSON, MODEL
from redline.cli.fetch import make_local
from redline.cli.options import ENGINE_SECTIONS, config_options, split
from redline.cli.progress import Progress
from redline.errors import InvalidRequest

if TYPE_CHECKING:
    from redline.bench.report import Document, Voice

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

MOST_REPEATS = 1000


@click.group("bench")
def command() -> None:
    """Measure what a model reaches on this machine, and how far that is from the machine's limit.

    random:NAME takes random weights of a known shape, so that every figure can be repeated without a download.
    """


def _shared(function: Decorated) -> Decorated:
    """The model, the engine's options and those that every kind has."""
    decorators = (
        MODEL,
        config_options(*ENGINE_SECTIONS),
        click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Draw the result as a PNG."),
        JSON,
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def _repeats(default: int) -> Callable[[Decorated], Decorated]:
    kind = click.IntRange(1, MOST_REPEATS)
    return click.option("--repeats", type=kind, default=default, show_default=True, help="Rounds; figures are their median.")


def _rates(function: Decorated) -> Decorated:
    """Ceilings by hand."""
    kind = click.FloatRange(0, min_open=True)
    for flag, what in (("--matmul-tflops", "matrix rate, TFLOP/s"), ("--read-gb-s", "read bandwidth, GB/s")):
        help = f"Hold against this {what}, instead of the measured one."
        function = click.option(flag, type=kind, default=None, help=help)(function)
    return function


@command.command("decode", short_help="Decode steps, or a set of requests.")
@click.option("--batch", default="1,8,32", show_default=True, help="Sequences together; 1@128 has a prompt of its own.")
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True, help="Prompt tokens of each.")
@click.option("--output", type=click.IntRange(2), default=256, show_default=True, help="Answer tokens of each.")
@click.option("--requests", type=click.IntRange(1), default=None, help="Instead: time so many requests from first to last.")
@click.option("--trace/--no-trace", default=True, show_default=True, help="Count the kernels of a step, on a GPU.")
@_repeats(3)
@_rates
@_shared
def decode(model: str, **options: Any) -> None:
    """Seconds of a decode step in the steady state, by batch; with --requests the throughput of a whole set."""

    def measure(engine: Mapping[str, Any], asked: Mapping[str, Any], voice: Voice) -> Document:
        from redline.bench import decode, throughput
        from redline.bench.report import Rates

        rates = Rates(asked.get("read_gb_s"), asked.get("matmul_tflops"))
        if (requests := asked.get("requests")) is not None:
            size = (requests, asked["prompt"], asked["output"])
            return throughput.measure(model, engine, size, voice, repeats=asked["repeats"], rates=rates)
        cases = decode.cases(asked["batch"], asked["prompt"], asked["output"])
        return decode.measure(model, engine, cases, voice, repeats=asked["repeats"], trace=asked["trace"], rates=rates)

    _measured(model, options, measure)


@command.command("prefill", short_help="Prompts to first tokens.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Prompts together.")
@click.option("--prompt", type=click.IntRange(1), default=4096, show_default=True, help="Tokens of each.")
@click.option("--first", default="128,512,4096", show_default=True, help="Single prompts, timed to the first token.")
@_repeats(5)
@_rates
@_shared
def prefill(model: str, **options: Any) -> None:
    """Prompts to first tokens: a batch of long ones, and single ones on an idle engine."""

    def measure(engine: Mapping[str, Any], asked: Mapping[str, Any], voice: Voice) -> Document:
        from redline.bench import prefill
        from redline.bench.report import Rates

        sizes = dict.fromkeys(
            [(asked["batch"], asked["prompt"]), *((1, size) for size in whole_numbers(asked["first"], "first"))]
        )
        rates = Rates(asked.get("read_gb_s"), asked.get("matmul_tflops"))
        return prefill.measure(model, engine, list(sizes), voice, repeats=asked["repeats"], rates=rates)

    _measured(model, options, measure)


@command.command("serve", short_help="A server under load, over HTTP.")
@click.option("--rate", default="1,4", show_default=True, help="Requests a second; several are offered one after the other.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Of arrivals at a rate."
)
@click.option("--mix", type=click.Choice(["sharegpt", "fixed"]), default="sharegpt", show_default=True, help="Lengths.")
@click.option("--prompt", type=click.IntRange(1), default=1000, show_default=True, help="Prompt tokens of the fixed mix.")
@click.option("--output", type=click.IntRange(2), default=1000, show_default=True, help="Answer tokens of the fixed mix.")
@click.option("--longest", type=click.IntRange(4), default=1024, show_default=True, help="Cut of the sharegpt mix, each way.")
@click.option("--first", default="128,512,4096", show_default=True, help="Single prompts, timed on the idle server.")
@click.option("--goal-ttft-ms", type=float, default=500.0, show_default=True, help="First token, for the goodput.")
@click.option("--goal-itl-ms", type=float, default=50.0, show_default=True, help="Mean time between tokens, for the goodput.")
@click.option("--url", default=None, help="Load this server instead of one of our own.")
@_repeats(5)
@_rates
@_shared
def serve(model: str, **options: Any) -> None:
    """A server under a Poisson load over HTTP: first tokens, times between tokens, goodput, failures."""

    def measure(engine: Mapping[str, Any], asked: Mapping[str, Any], voice: Voice) -> Document:
        from redline.bench import load, serve
        from redline.bench.report import Rates

        fixed = asked["mix"] == "fixed"
        wanted = serve.Asked(
            rates=_positive(asked["rate"], "rate"),
            seconds=asked["seconds"],
            mix=load.Fixed(asked["prompt"], asked["output"]) if fixed else load.ShareGpt(asked["longest"]),
            first=tuple(whole_numbers(asked["first"], "first")),
            repeats=asked["repeats"],
            ttft_s=asked["goal_ttft_ms"] / 1e3,
            itl_s=asked["goal_itl_ms"] / 1e3,
        )
        rates = Rates(asked.get("read_gb_s"), asked.get("matmul_tflops"))
        return serve.measure(model, engine, wanted, voice, url=asked.get("url"), rates=rates)

    _measured(model, options, measure)


@command.command("start", short_help="Process start to first token.")
@click.option("--serve", "with_server", is_flag=True, help="Also through redline serve, to the first token over HTTP.")
@_repeats(3)
@_shared
def start(model: str, **options: Any) -> None:
    """From the start of a process to the first token, in stages: with an empty compile cache, and with a warm one."""

    def measure(engine: Mapping[str, Any], asked: Mapping[str, Any], voice: Voice) -> Document:
        from redline.bench import start

        return start.measure(model, engine, voice, repeats=asked["repeats"], with_server=asked["with_server"])

    _measured(model, options, measure)


@command.command("kernels", short_help="Every op: check, time, share of the ceiling.")
@click.option("--ops", default="", help="Only ops whose names contain one of these, such as norm,attention.")
@click.option("--quick", is_flag=True, help="Check the smallest and the largest case of an op only.")
@_repeats(7)
@_rates
@_shared
def kernels(model: str, **options: Any) -> None:
    """Every op of redline at the model's sizes: its check, its time, its share of the ceiling. Loads no weights."""

    def measure(engine: Mapping[str, Any], asked: Mapping[str, Any], voice: Voice) -> Document:
        from redline.bench import kernels
        from redline.bench.report import Rates

        names = tuple(part.strip() for part in asked.get("ops", "").split(",") if part.strip())
        wanted = kernels.Asked(names, asked["quick"], asked["repeats"])
        rates = Rates(asked.get("read_gb_s"), asked.get("matmul_tflops"))
        return kernels.measure(model, engine, wanted, voice, rates=rates)

    _measured(model, options, measure)


def whole_numbers(text: str, name: str) -> list[int]:
    """The numbers of a list such as 128,512. Raises InvalidRequest."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not (part.isdecimal() and int(part)):
            raise InvalidRequest(f"{part!r} is no size", hint=f"write --{name} 128,512", param=name)
    return [int(part) for part in parts]


def _positive(text: str, name: str) -> tuple[float, ...]:
    """The numbers of a list such as 0.5,4. Raises InvalidRequest."""
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0.0,)
    if not all(0 < rate < float("inf") for rate in found):
        raise InvalidRequest(f"{text!r} is no list of rates", hint=f"write --{name} 0.5,4", param=name)
    return found


def _measured(model: str, options: dict[str, Any], measure: Callable[[Any, Any, Voice], Document]) -> None:
    """Run `measure`(engine options, own options, voice) and print what it found."""
    as_json, picture = options.pop("as_json"), options.pop("plot")
    engine, asked = split(options, *ENGINE_SECTIONS)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=as_json))
        if picture is not None:
            from redline.bench import plot

            plot.require()
        make_local(model, revision=engine.get("revision"), progress=progress)
        progress("importing")
        from redline.bench.report import Voice

        def say(text: str, *, err: bool) -> None:
            stack.close()
            if not as_json:
                click.echo(text, err=err)

        document = measure(
            engine,
            asked,
            Voice(
                tell=lambda text: say(text, err=False),
                hint=lambda text: say(text, err=True),
                progress=lambda stage, percent: progress(stage, percent / 100),
            ),
        )
    if picture is not None:
        plot.draw(document, picture)
        if not as_json:
            click.echo(f"drawn: {picture}")
    click.echo(json.dumps(document))
