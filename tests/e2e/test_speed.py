"""The speed that a stranger is promised, as ratios within one run: absolute times belong to machines, ratios to the code."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REDLINE = [sys.executable, "-m", "redline.cli.main"]


def test_faster_than_transformers_and_batches_and_prefixes_pay() -> None:
    """One request at least as fast as transformers' generate, sixteen at least 3 times one, a prefix hit at least 5 times cold.

    In the type that is the default on this machine, interleaved, medians; all in one run, of at most three: whoever else takes a core for a while
    slows a step of two threads more than one of transformers, which has one for most of it.
    """
    reports: list[dict[str, float]] = []
    while len(reports) < 3 and not (reports and _pays(reports[-1])):
        command = [sys.executable, "bench/against_transformers.py", "--dtype", "auto", "--rounds", "3", "--tokens", "24"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=95)
        assert printed.returncode == 0, printed.stderr
        reports.append(json.loads(printed.stdout.splitlines()[-1]))
    assert _pays(reports[-1]), reports


def _pays(report: dict[str, float]) -> bool:
    return report["redline_over_transformers"] >= 1.0 and report["sixteen_over_one"] >= 3.0 and report["cold_over_hit"] >= 5.0


@pytest.mark.real_model
def test_a_small_model_is_served_within_five_seconds(smollm2: Path) -> None:
    """From the command to the ready block."""
    _check_seconds(lambda: _seconds_to_ready(smollm2), 5.0)


def _seconds_to_ready(model: Path) -> float:
    began = time.monotonic()
    server = subprocess.Popen([*REDLINE, "serve", str(model), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        seconds = time.monotonic() - began
        assert re.search(r"http://127\.0\.0\.1:\d+/v1", ready), ready
    finally:
        server.terminate()
        server.communicate(timeout=30)
    return seconds


def test_help_answers_within_a_third_of_a_second() -> None:
    def seconds() -> float:
        began = time.monotonic()
        subprocess.run([*REDLINE, "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began

    _check_seconds(seconds, 0.3)


@pytest.mark.parametrize(
    ("asked", "goal"),
    [
        ("random:llama-3.1-70b --on 2xh200", "itl_ms<=15, users=8, context=8192"),
        (
            "random:llama-3.1-70b --on 2xh200",
            "ttft_ms<=200, itl_ms<=8, users=32, context=8192",
        ),  # met by none: more cards are tried
        ("random:llama-3.1-8b --on h200 --power-cap curve", "users=16, itl_ms<=8, best=tokens_per_joule"),
    ],
)
def test_a_plan_takes_half_a_second(asked: str, goal: str) -> None:
    """Of processor time, start of Python included: on a quiet machine that is what a person waits."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*REDLINE, "plan", *asked.split(), "--goal", goal], capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode in (0, 3), done.stderr
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    _check_seconds(seconds, 0.5)


def _check_seconds(measure: Callable[[], float], most: float) -> None:
    """The best of three, of which one that is good enough is the last: what the code needs, not what else the machine does."""
    taken: list[float] = []
    while len(taken) < 3 and not (taken and taken[-1] <= most):
        taken.append(measure())
    assert min(taken) <= most, taken
