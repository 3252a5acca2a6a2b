"""`redline plan MODEL`: what a model will do on this machine or on one that is not here, before a byte is loaded.

Config only: weights are not read, no GPU is touched, torch is not imported. The numbers are the plan room's; this file opens
the model's config, finds the machine and prints. Open `command`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from redline import env, shapes
from redline.cli.arguments import JSON, MODEL
from redline.errors import ConfigError
from redline.plan import compare as comparison
from redline.plan.document import document
from redline.plan.goal import Goal, parse
from redline.plan.place import Place, here, on_chips
from redline.plan.power_cap import CURVE
from redline.plan.power_cap import check as check_cap
from redline.plan.power_cap import read as read_watts
from redline.plan.precision import kv_format, weight_format
from redline.plan.search import Options, search
from redline.shapes import ModelShape

NOT_FEASIBLE = 3
RANDOM = "random:"

Figures = dict[str, Any]


@click.command("plan")
@MODEL
@click.option("--on", "on", metavar="CHIP", help="Plan for a chip of the table, or for several: t4, h200, 4xh100.")
@click.option(
    "--goal", default="", help="What to reach: 'ttft_ms<=200, itl_ms<=8, users=32, context=8192'; also best=tokens_per_joule."
)
@click.option("--compare", "compared", metavar="CHIPS", help="Rank machines for the goal: h100,4xl4,b200.")
@click.option(
    "--prices", type=click.Path(exists=True, dir_okay=False, path_type=Path), help='JSON of prices per hour: {"h100": 2.5}.'
)
@click.option("--format", "weights", help="Format of the weights: bf16, fp8, int8, q6_k, q4_k_m, int4 and others.")
@click.option("--kv-cache-dtype", "kv", help="Format of the KV cache: bf16, fp8, int4 and others.")
@click.option("--tensor-parallel-size", "-tp", "tensor", type=click.IntRange(1), help="Chips that share each layer.")
@click.option("--pipeline-parallel-size", "-pp", "pipeline", type=click.IntRange(1), help="Groups that share the layers.")
@click.option("--gpu-memory-utilization", "share", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True)
@click.option(
    "--corrections/--no-corrections",
    default=True,
    help="Correct forecasts for this machine by what steps of the model took on it.  [default: on]",
)
@click.option(
    "--power-cap",
    metavar="WATTS|curve",
    help="Plan under a lower power limit of each card, or for a range of them: curve. No card's limit is changed.",
)
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the roofline as PNG or SVG.")
@JSON
@click.pass_context
def command(ctx: click.Context, /, model: str, **options: Any) -> None:
    """Say what MODEL will do on this machine or another: memory, first token, time per token, throughput, energy.

    Every forecast has an error bar and the limit that the machine cannot beat. With a goal the least lossy layout that meets it is
    chosen; where none does the proof is given, what comes nearest and what would do, and the exit code is 3.
    """
    picture: Path | None = options["picture"]
    if options["prices"] and not options["compared"]:
        raise click.UsageError("--prices needs --compare")
    if options["power_cap"] and options["compared"]:
        raise click.UsageError("--power-cap goes with one machine, not with --compare")
    if picture is not None:
        from redline.bench.plot import require
        from redline.plan.picture import check

        check(picture)
        require()
    shape = shape_of(model)
    goal = parse(options["goal"], shape.max_position)
    fixed = _fixed(options)
    if options["compared"]:
        ctx.exit(_compare(model, shape, goal, fixed, options))
    place = (
        on_chips(options["on"], options["share"])
        if options["on"]
        else _this_machine(options["share"], corrections=options["corrections"])
    )
    cap = _cap(options["power_cap"], place)
    answer = search(shape, _under(place, cap), goal, fixed)
    told = document(model, shape, answer, options["goal"], cap)
    click.echo(json.dumps(told, indent=1) if options["as_json"] else "\n".join(text(told)))
    if picture is not None and answer.shown is not None:
        from redline.plan.picture import draw

        draw(model, answer.shown, picture, told["power_cap"])
    ctx.exit(0 if answer.best else NOT_FEASIBLE)


def shape_of(model: str) -> ModelShape:
    """The shape of a model from its config alone. Raises what opening a checkpoint raises."""
    if model.startswith(RANDOM):
        return shapes.known(model.removeprefix(RANDOM))
    from redline.checkpoint import json_file, store

    path = store.local_path(model)
    if path is None or not (path / "config.json").is_file():
        path = store.resolve(model)
    if path.is_dir():
        return shapes.from_hf(json_file.read_object(path / "config.json"))
    from redline.checkpoint.opener import open_path

    return open_path(path).shape


def _this_machine(share: float, *, corrections: bool) -> Place:
    from redline.hardware.ceilings import identify, load
    from redline.hardware.detect import detect
    from redline.plan.corrections import Shelf
    from redline.plan.links import links_of
    from redline.plan.resolve import choose_device

    machine = detect(visible=env.visible_gpus())
    device, _ = choose_device(machine)
    identity = identify(machine, device)
    known = load(identity)
    place = dataclasses.replace(here(machine, device, known, share), links=links_of(machine, device))
    return dataclasses.replace(place, learned=Shelf(identity, known)) if corrections else place


def _fixed(options: Figures) -> Options:
    weights, kv = options["weights"], options["kv"]
    return Options(
        weights=weight_format(weights) if weights else None,
        kv=kv_format(kv) if kv else None,
        tensor=options["tensor"],
        pipeline=options["pipeline"],
    )


def _cap(text: str | None, place: Place) -> float | str | None:
    """The watts of a cap that can be planned, or `curve`. Raises ConfigError."""
    if text is None or text == CURVE:
        return text
    watts = read_watts(text)
    check_cap(place, watts)
    return watts


def _under(place: Place, cap: float | str | None) -> Place:
    if not isinstance(cap, float):
        return place
    from redline.plan.trade_off import under

    return under(place, cap)


def _compare(model: str, shape: ModelShape, goal: Goal, fixed: Options, options: Figures) -> int:
    prices = comparison.read_prices(_json(options["prices"])) if options["prices"] else None
    places = comparison.places(options["compared"], options["share"])
    if options["on"]:
        places.insert(0, on_chips(options["on"], options["share"]))
    rows = comparison.compare(shape, places, goal, fixed, prices)
    if options["as_json"]:
        click.echo(json.dumps({"model": model, "goal": options["goal"] or None, "rows": rows}, indent=1))
    else:
        click.echo("\n".join(_ranking(rows)))
    return 0 if any(row["feasible"] for row in rows) else NOT_FEASIBLE


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no JSON file: {error}", param="prices") from error


def text(told: Figures) -> Iterator[str]:
    """The document as a person reads it."""
    place, load = told["place"], told["load"]
    rates = ", ".join(f"{name} {rate:g} TFLOP/s" for name, rate in place["matmul_tflops"].items())
    announced = ", announced figures" if place["announced"] else ""
    yield f"{'model':<12} {told['model']}, {told['parameters'] / 1e9:.2f} B parameters"
    yield f"{'machine':<12} {place['name']}: reads {place['read_gb_s']:g} GB/s, {rates} ({place['source']}{announced})"
    yield from _links(place)
    yield f"{'load':<12} {load['users']} users, {load['prompt']} tokens in, {load['output']} out"
    if told["layout"] is not None:
        note = f"  ({told['note']})" if told["note"] else ""
        yield f"{'layout':<12} {told['layout']['text']}{note}"
        yield from _memory(told["memory"])
        yield from _speed(told)
        yield from _doubts(told)
    if told["power_cap"] is not None:
        yield from _power(told["power_cap"])
    for goal in told["goals"]:
        forecast = _bar(goal["forecast"]) if goal["forecast"] else "not known"
        yield f"{'goal':<12} {goal['goal']}: {'met' if goal['met'] else 'NOT met'}, {forecast}"
    if told["goals"] or told["proof"]:
        verdict = "feasible" if told["feasible"] else "not feasible"
        yield f"{'verdict':<12} {verdict}{', at the bad end of every bar too' if told['sure'] and told['goals'] else ''}"
    yield from (f"{'because':<12} {sentence}" for sentence in told["proof"])
    yield from (f"{'what would':<12} {sentence}" for sentence in told["ways"])


def _links(place: Figures) -> Iterator[str]:
    """The ways to a chip and between chips, as measured there, or else as their lines are built."""
    measured = place["links"] or {}
    ways = []
    if rate := measured.get("host_bytes_per_s"):
        ways.append(f"{rate / 1e9:.3g} GB/s from the host (measured)")
    elif place["host_gb_s"]:
        ways.append(f"{place['host_gb_s']:g} GB/s from the host (line rate)")
    if rate := measured.get("sums_bytes_per_s"):
        small = f", a small one in {measured['sum_s'] * 1e6:.3g} us" if measured.get("sum_s") else ""
        ways.append(f"{rate / 1e9:.3g} GB/s from each of {measured['chips']} chips in a large sum{small} (measured)")
    elif place["link_gb_s"] and place["count"] > 1:
        ways.append(f"{place['link_gb_s']:g} GB/s between chips (line rate)")
    if ways:
        yield f"{'links':<12} {'; '.join(ways)}"


def _memory(memory: Figures) -> Iterator[str]:
    parts = ", ".join(f"{kind} {mib:,}" for kind, mib in memory["weights_mib"].items())
    yield (
        f"{'memory':<12} {memory['total_mib']:,} of {memory['usable_mib']:,} MiB a chip: weights {memory['weights_total_mib']:,}, KV "
        f"{memory['kv_mib']:,}, workspace {memory['workspace_mib']:,}, driver {memory['driver_mib']:,}, slack {memory['slack_mib']:,}, "
        f"others {memory['others_mib']:,}"
    )
    yield f"{'weights':<12} {parts} MiB"
    yield f"{'room':<12} {memory['most_sequences']:,} such sequences, or {memory['longest_context']:,} tokens each"


def _speed(told: Figures) -> Iterator[str]:
    firsts = "; ".join(f"{row['prompt']} tokens {_bar(row)} ms" for row in told["idle_first_token_ms"])
    yield f"{'first token':<12} on an idle engine: {firsts}"
    decode = told["steps"]["decode"]
    parts = sorted(decode["parts"], key=lambda part: -part["ms"])
    shares = ", ".join(f"{part['name']} {part['ms']:.3g}" for part in parts[:5])
    yield f"{'a step':<12} {_bar(decode['ms'])} ms, limit {decode['ms']['limit']:g}; most is {decode['limiting']}: {shares}"
    heads = ("users", "ms/token", "beside a prompt", "first token ms", "tokens/s", "J/token")
    rows: list[tuple[str, ...]] = [heads]
    for row in told["loads"]:
        figures = (_bar(row[key]) for key in ("itl_ms", "worst_itl_ms", "ttft_ms", "tokens_per_s"))
        joules = _bar(row["joules_per_token"]) if row["joules_per_token"] else "–"
        rows.append((str(row["users"]), *figures, joules))
    yield from _table(rows)
    if told["joules_reason"]:
        yield f"{'energy':<12} not known: {told['joules_reason']}"
    if told["swap_ms"]:
        yield f"{'swap in':<12} {_bar(told['swap_ms'])} ms from the host's memory"


def _doubts(told: Figures) -> Iterator[str]:
    learned = told["corrections"]
    if learned is not None:
        yield f"{'corrected':<12} by {learned['steps']:,} steps measured here on {learned['measured_at'][:10]} (--no-corrections: not)"
        for kind in learned["kinds"]:
            tokens = span(kind["tokens_from"], kind["tokens_to"])
            yield f"{'':<12} {kind['doing']} steps of {tokens}: x{kind['factor']:.3g}, within {kind['bar']:.0%}"
    unlike = " (of steps unlike those)" if learned is not None else ""
    for doubt in told["doubts"]:
        yield f"{'error bar':<12} {doubt['share']:.0%}: {doubt['reason']}{unlike}"


def _power(told: Figures) -> Iterator[str]:
    """A cap, or the curve of them."""
    if told["cap_w"] is not None:
        yield f"{'power cap':<12} {told['cap_w']:g} W of {told['limit_w']:g} W a card: {_held(told)}"
    rows: list[tuple[str, ...]] = [("cap W", "draws W", "ms/token", "first token ms", "tokens/s", "J/token", "")]
    for row in told["curve"] or ():
        figures = (
            _bar(row[key]) if row[key] else "–" for key in ("watts", "itl_ms", "ttft_ms", "tokens_per_s", "joules_per_token")
        )
        best = "most tokens per joule" if row["cap_w"] == told["best_w"] else "" if row["meets"] else "goal not met"
        rows.append((f"{row['cap_w']:g}", *figures, best))
    if len(rows) > 1:
        yield from _table(rows)
    if told["reason"]:
        yield f"{'power cap':<12} {'' if told['curve'] else 'no curve: '}{told['reason']}"
    if told["command"]:
        yield f"{'to set it':<12} {told['command']}  (redline changes no card's limit)"
    if told["model"]:
        yield f"{'under a cap':<12} {told['model']}; lowest here {told['least_w']:g} W: {told['least_reason']}"


def _held(told: Figures) -> str:
    """What a cap does to decode and to prompts."""
    if told["cap_w"] >= told["limit_w"]:
        return "that is no lower than the limit in force, so nothing changes"
    if told["holds"] is None:
        return "no layout fits, so there is nothing to slow down"
    return ", ".join(
        f"{name} takes {held['watts']:g} W without it"
        + (f" and keeps {held['clock']:.0%} of its clock" if held["slower"] else " and is not slowed")
        for name, held in told["holds"].items()
    )


def span(first: int, last: int) -> str:
    """A range of tokens in words."""
    return f"{first} to {last} tokens" if last > 1 else "one token"


def _ranking(rows: list[Figures]) -> Iterator[str]:
    table: list[tuple[str, ...]] = [
        ("machine", "goal", "tokens/s", "ms/token", "first token ms", "J/token", "cost of 1M", "ranks", "layout")
    ]
    for row in rows:
        figures = (_figure(row[key]) for key in ("tokens_per_s", "itl_ms", "ttft_ms", "joules_per_token", "cost_per_million"))
        ranks = "/".join(str(row[f"rank_{kind}"] or "–") for kind in ("speed", "joules", "cost"))
        layout = row["layout"] or "does not fit"
        table.append((row["place"], "met" if row["feasible"] else "not met", *figures, ranks, layout))
    yield from _table(table)
    yield "ranks are of speed, joules and cost; joules and cost are of an output token and of a million"
    for row in rows:
        yield from (f"{row['place']}: {sentence}" for sentence in row["proof"])


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


def _bar(value: Figures) -> str:
    return f"{_figure(value['value'])} ({_figure(value['low'])} to {_figure(value['high'])})"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
