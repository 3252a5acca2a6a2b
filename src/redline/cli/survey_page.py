"""What was measured of a device as a person reads it: a table of figures with units, each with its share of the data sheet.

Open `rows`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from redline.hardware.survey import GROUP, Figure, Survey, Unit

_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s")),
    "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
}
_NOISY = 0.25
_INDENT = "  "


def rows(survey: Survey) -> Iterator[tuple[str, str]]:
    """(heading, text) of the page: when it was measured, the figures, and why some are missing."""
    whose = "all GPUs together" if survey.device == GROUP else survey.device
    despite = f"; {survey.despite}" if survey.despite else ""
    known = [figure for figure in survey.figures if figure.value is not None]
    shares = ", shares are of its data sheet" if any(figure.share is not None for figure in known) else ""
    yield "measured", f"{whose}, in {survey.seconds:.1f} s ({survey.measured_at}){shares}{despite}"
    width = max((len(figure.name) for figure in known), default=0)
    for figure in known:
        yield "", f"{_INDENT}{figure.name:<{width}}  {value(figure):>14}  {_share(figure):>5}  {_how(figure)}".rstrip()
    missing: dict[str, list[str]] = defaultdict(list)
    for figure in survey.figures:
        if figure.value is None:
            missing[figure.reason or "not told"].append(figure.name)
    for reason, names in missing.items():
        yield "", f"{_INDENT}not measured: {', '.join(names)}: {reason}"


def value(figure: Figure) -> str:
    """A figure in the unit that gives it a short number."""
    assert figure.value is not None
    scales = _SCALES[figure.unit]
    scale, unit = next((pair for pair in scales if figure.value >= pair[0]), scales[-1])
    number = figure.value / scale
    return f"{number:,.{0 if number >= 1000 else 1 if number >= 100 else 2}f} {unit}"


def _share(figure: Figure) -> str:
    return "" if figure.share is None else f"{figure.share:.0%}"


def _how(figure: Figure) -> str:
    noisy = f"repeats {figure.spread:.0%} apart" if figure.spread is not None and figure.spread > _NOISY else ""
    return "; ".join(part for part in (figure.how, noisy) if part)
