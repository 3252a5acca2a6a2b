"""Forecasts beside measurements: `python bench/prediction.py measure|compare|fit POINTS.jsonl`.

POINTS holds documents of `redline bench decode` and `redline bench prefill`, one a line (their last line of output), or lines of
bench/results/ that hold such rows. `measure` appends them, `compare` prints a table and a JSON line with the errors, and `fit`
prints curves for `plan/efficiency.py`, with the error of points that the fit had not seen.

    python bench/prediction.py measure cpu.jsonl --device cpu --models smollm2-135m,random:qwen2.5-0.5b
    python bench/prediction.py compare cpu.jsonl --spread 0.3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.hardware.ceilings import Ceilings
from redline.plan.efficiency import CPU, HOPPER, Efficiency
from redline.plan.place import Place
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import Estimate, Predictor
from redline.plan.split import Layout
from redline.shapes import KNOWN, ModelShape, known

DECODE = {
    "cpu": "1@64,2@64,4@64,8@64,16@64,1@512",
    "gpu": "1@128,2@512,8@128,8@512,32@512,64@512,128@128,128@512,256@128,256@512,1@2048,8@2048,32@2048,1@32000,8@16000",
}
PREFILL = {"cpu": "1@64,1@256,1@512", "gpu": "1@512,1@1024,1@2048,1@4096,1@8192,1@16384,8@4096,4@1024"}
MODELS = {
    "cpu": "smollm2-135m,random:smollm2-135m,random:smollm2-360m,random:qwen2.5-0.5b",
    "gpu": "random:llama-3.1-8b,random:llama-3.2-1b",
}
OUTPUT = {"cpu": 24, "gpu": 256}
CURVES = ("linear", "layer_s", "decode_attention", "prompt_attention", "burst")
FOLDS = 5


@dataclass(frozen=True)
class Point:
    """One measured step or prefill, in milliseconds; `context` is 0 for a prefill."""

    model: str
    shape: ModelShape
    place: Place
    dtype: str
    batch: int
    prompt: int
    context: int
    tokens: int  # budget of a step
    measured_ms: float

    def forecast(self, curves: Efficiency | None = None) -> Estimate:
        place = self.place if curves is None else dataclasses.replace(self.place, efficiency=curves)
        layout = Layout()
        predictor = Predictor(self.shape, place, weight_format(self.dtype), kv_format(self.dtype), layout, tokens=self.tokens)
        if self.context:
            return predictor.decode(self.batch, self.context).seconds.times(1e3)
        return predictor.first_token(self.prompt, self.batch).times(1e3)


def read(path: Path, spread: float) -> list[Point]:
    """Every decode and prefill row of a file whose samples lie within `spread` of each other: others say more of the neighbours."""
    found = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        command = entry.get("command", "")
        document = entry if "bench" in entry else entry["result"]
        if isinstance(document, dict) and "bench" in document:
            found += _of_document(document, spread)
        elif re.match(r"redline bench (decode|prefill) ", command) and isinstance(entry["result"], list):
            found += _of_result(command, entry["result"])
    return found


def _of_document(document: dict[str, Any], spread: float) -> list[Point]:
    if document["bench"] not in ("decode", "prefill") or document["ceilings"] is None:
        return []
    if document["options"].get("determinism") == "batch_invariant":
        return []  # other kernels, for which there is no forecast
    rates = document["ceilings"]
    matmul = {dtype: rate * 1e12 for dtype, rate in rates["matmul_tflops"].items()}
    place = _place(document["device"], rates["read_gb_s"] * 1e9, matmul, rates.get("spread") or 0.0)
    shape, key = _shape(document["model"]), "step_ms" if document["bench"] == "decode" else "ms"
    tokens = document["options"].get("max_num_batched_tokens") or (512 if place.on_cpu else 8192)
    return [
        Point(
            model=document["model"],
            shape=shape,
            place=place,
            dtype=document["dtype"],
            batch=row["batch"],
            prompt=row["prompt"],
            context=row.get("context", 0),
            tokens=tokens,
            measured_ms=row[key],
        )
        for row in document["rows"]
        if (row["spread"] or 0.0) <= spread
    ]


def _of_result(command: str, rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Rows of a published line, whose ceilings are in its command. A steady step stands at prompt + 144 of 256 tokens."""
    words = shlex.split(command)
    if "--read-gb-s" not in words:
        return []
    read_s, rate = (float(words[words.index(flag) + 1]) for flag in ("--read-gb-s", "--matmul-tflops"))
    place, shape = _place("NVIDIA H200", read_s * 1e9, {"bfloat16": rate * 1e12}, 0.0), _shape(words[3])
    steady = 144 if words[2] == "decode" else 0
    return [
        Point(words[3], shape, place, "bfloat16", row["batch"], row["prompt"], steady and row["prompt"] + steady, 8192, row["ms"])
        for row in rows
        if "batch" in row
    ]


def _place(name: str, read_bytes_per_s: float, matmul: dict[str, float], spread: float) -> Place:
    """The machine of a document, as measured there."""
    on_cpu = not re.search(r"NVIDIA|GeForce|Tesla", name)
    ceilings = Ceilings("cpu" if on_cpu else "cuda:0", name, read_bytes_per_s, matmul, "then", "measured", spread)
    return Place(
        name=name,
        chip=name,
        count=1,
        ceilings=ceilings,
        peak=ceilings,
        memory_bytes=1 << 40,
        usable_bytes=1 << 40,
        native=frozenset(matmul),
        efficiency=CPU if on_cpu else HOPPER,
        doubts=(),
        on_cpu=on_cpu,
    )


def _shape(model: str) -> ModelShape:
    """Of a model that need not be here, if its name is that of a known shape."""
    name = model.removeprefix("random:")
    if model != name or name in KNOWN:
        return known(name)
    from redline import checkpoint

    return checkpoint.open(model).shape


HEAD = ("model", "batch", "prompt", "context", "measured", "forecast", "low", "high", "error", "limit")


def compare(points: Sequence[Point], curves: Efficiency | None = None, page: Path | None = None) -> dict[str, Any]:
    """Prints every point with its forecast, as a page too if asked, and returns the errors: shares of the measured time."""
    errors, inside, widths = [], 0, []
    table: list[tuple[str, ...]] = [HEAD]
    for point in points:
        told = point.forecast(curves)
        error = told.value / point.measured_ms - 1
        errors.append(abs(error))
        inside += told.low <= point.measured_ms <= told.high
        widths.append(max(told.high / told.value - 1, 1 - told.low / told.value))
        times = (f"{ms:.3f}" for ms in (point.measured_ms, told.value, told.low, told.high))
        sizes = (str(point.batch), str(point.prompt), str(point.context or ""))
        table.append((point.model, *sizes, *times, f"{error:.1%}", f"{told.limit or 0:.3f}"))
    for row in table:
        print(f"{row[0]:<24}" + "".join(f"{cell:>10}" for cell in row[1:]))
    beaten = [point for point in points if (point.forecast(curves).limit or 0) > point.measured_ms * 1.01]
    result = {
        "points": len(points),
        "median_error": round(statistics.median(errors), 4),
        "p90_error": round(sorted(errors)[math.ceil(0.9 * len(errors)) - 1], 4),
        "inside_bar": round(inside / len(points), 3),
        "widest_bar": round(max(widths), 3),
        "limits_beaten": len(beaten),
    }
    if page is not None:
        page.write_text(_page(table, result))
    return result


def _page(table: Sequence[tuple[str, ...]], result: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = [" | ".join(("", *row, "")).strip() for row in table]
    lines.insert(1, "| --- |" + " ---: |" * (len(HEAD) - 1))
    return (
        (
            "# Forecasts beside what was measured\n\nMilliseconds of a decode step (with its context) or of a prompt (without), as "
            "`redline plan` foretells them and as they were; *limit* is what the\nmeasured bandwidth and matrix rate allow. Generated by "
            f"`{shlex.join(['python', *sys.argv])}`.\n\n{result['points']} points: median error {result['median_error']:.1%}, 90th percentile "
            f"{result['p90_error']:.1%}, {result['inside_bar']:.1%} inside their error bar, which is ±{result['widest_bar']:.0%} at the widest.\n\n"
        )
        + "\n".join(lines)
        + "\n"
    )


def fit(points: Sequence[Point], start: Efficiency) -> Efficiency:
    """Curves that come nearest to the points, in logarithms, held a little to where they start from."""
    best, loss, step = start, _loss(points, start, start), 0.16
    while step > 0.004:
        better = False
        for changed in _neighbours(best, step):
            other = _loss(points, changed, start)
            if other < loss:
                best, loss, better = changed, other, True
        if not better:
            step /= 2
    return best


def _neighbours(curves: Efficiency, step: float) -> list[Efficiency]:
    found = []
    for factor in (1 + step, 1 / (1 + step)):
        for name in CURVES:
            points = getattr(curves, name)
            for i, (x, y) in enumerate(points):
                found.append(dataclasses.replace(curves, **{name: (*points[:i], (x, y * factor), *points[i + 1 :])}))
        found.append(dataclasses.replace(curves, prompt_s=curves.prompt_s * factor))
    return found


def _loss(points: Sequence[Point], curves: Efficiency, start: Efficiency) -> float:
    """Mean square of errors, with a little for leaving the start, for jumps within a curve, and for shares above 1."""
    total = sum(math.log(point.forecast(curves).value / point.measured_ms) ** 2 for point in points)
    for name in CURVES:
        ours, theirs = getattr(curves, name), getattr(start, name)
        total += 0.01 * sum(math.log(y / z) ** 2 for (_, y), (_, z) in zip(ours, theirs, strict=True))
        total += 0.005 * sum(math.log(y / z) ** 2 for (_, y), (_, z) in zip(ours, ours[1:], strict=False))
        if name != "layer_s":
            total += 10 * sum(max(0.0, y - 1.0) ** 2 for _, y in ours)
    return total


def unseen(points: Sequence[Point], start: Efficiency) -> float:
    """The error that nine of ten points have whom the fit did not see: by leaving out a fifth at a time.

    It begins from flat curves: those of the table may have been made from these very points.
    """
    flat, errors = _flat(start), []
    for fold in range(FOLDS):
        curves = fit([point for i, point in enumerate(points) if i % FOLDS != fold], flat)
        errors += [
            abs(point.forecast(curves).value / point.measured_ms - 1) for i, point in enumerate(points) if i % FOLDS == fold
        ]
    return sorted(errors)[math.ceil(0.9 * len(errors)) - 1]


def _flat(curves: Efficiency) -> Efficiency:
    """Each curve at its geometric mean."""
    found = {}
    for name in CURVES:
        points = getattr(curves, name)
        mean = math.exp(statistics.fmean(math.log(y) for _, y in points))
        found[name] = tuple((x, mean) for x, _ in points)
    return dataclasses.replace(curves, **found)


def measure(options: argparse.Namespace) -> None:
    """Append what `redline bench` measures of each model; on a CPU answers are short, or it would take an hour."""
    from redline.bench import decode, prefill
    from redline.bench.report import Rates, Voice

    kind = "cpu" if options.device == "cpu" else "gpu"
    # Now, not when the machine may have been busy; and in a process of its own, or torch keeps a second pool of threads.
    subprocess.run([sys.executable, "-m", "redline.cli.main", "doctor", "--measure"], check=True)
    voice = Voice(tell=print, hint=lambda text: print(text, file=sys.stderr))
    engine, repeats = {"device": options.device}, options.repeats
    cases = decode.cases(options.decode or DECODE[kind], 128, options.output or OUTPUT[kind])
    sizes = [
        (int(batch), int(prompt)) for batch, prompt in (each.split("@") for each in (options.prefill or PREFILL[kind]).split(","))
    ]
    with options.points[0].open("a") as file:
        for model in (options.models or MODELS[kind]).split(","):
            for document in (
                decode.measure(model, engine, cases, voice, repeats=repeats, trace=False, rates=Rates()),
                prefill.measure(model, engine, sizes, voice, repeats=repeats, rates=Rates()),
            ):
                file.write(json.dumps(document) + "\n")
                file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "compare", "fit"))
    parser.add_argument("points", type=Path, nargs="+")
    parser.add_argument("--spread", type=float, default=math.inf, help="leave out rows whose samples lie further apart: 0.3")
    parser.add_argument("--page", type=Path, help="write the comparison there, as Markdown")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", help="comma separated")
    parser.add_argument("--decode", help="batches, as 1@128,8@512")
    parser.add_argument("--prefill", help="prompts, as 1@512,8@4096")
    parser.add_argument("--output", type=int, default=0, help="tokens of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.what == "measure":
        return measure(options)
    points = [point for path in options.points for point in read(path, options.spread)]
    if not points:
        parser.error("there are no rows of `redline bench decode` or `prefill` in these files")
    curves = None
    if options.what == "fit":
        start = points[0].place.efficiency
        curves = dataclasses.replace(fit(points, start), num_points=len(points), error=round(unseen(points, start), 3))
        print(curves)
    print(json.dumps(compare(points, curves, options.page)))


if __name__ == "__main__":
    main()
