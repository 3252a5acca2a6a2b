"""What benchmarks through the offline door share: an opened model, prompts nobody has seen, one timed run.

A run is timed on the host around `LLM.generate`, as a user would time it. Beside it stand the engine's own steps of that
run (device and host seconds by phase) and the joules that the device counted. Open `Bench`, then `Bench.run`.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline import checkpoint as checkpoints
from redline import env
from redline.bench import report
from redline.bench.report import Rates, Voice
from redline.config import AUTO
from redline.engine.admission import check_context
from redline.hardware.detect import detect
from redline.hardware.power import energy_counter
from redline.llm import LLM
from redline.plan.receipt import Totals
from redline.plan.resolve import choose_sizes
from redline.types import SamplingParams


@dataclass(frozen=True)
class Run:
    """One timed call: host seconds, the engine's steps by phase, joules (None: nothing counts them), requests preempted."""

    seconds: float
    prefill: Totals
    decode: Totals
    joules: float | None
    preemptions: int
    rest: dict[str, Any]  # where the requests' steps went beyond the limit, as the last request's receipt says


class Bench:
    """A model opened for measuring. `rows` is the largest batch that will be asked for, `longest` the most tokens of a prompt and of its answer.

    The prefix cache is off where the options say nothing, and no prompt comes twice. Raises what `LLM` raises, and ContextTooLong before the model is loaded.
    """

    def __init__(self, model: str, engine: Mapping[str, Any], voice: Voice, *, rows: int, longest: tuple[int, int], rates: Rates):
        own = checkpoints.open(model, revision=engine.get("revision")).shape.max_position
        check_context(
            *longest, min(own, engine.get("max_model_len") or own), own
        )  # or it is told when other sizes have been timed
        machine = detect(visible=env.visible_gpus())
        settings: dict[str, Any] = {"enable_prefix_caching": False, "seed": 0, **engine}
        asked = settings.get("device", AUTO)
        gpu = (machine.gpus or (None,))[0] if asked in (AUTO, "cuda") else machine.gpu(asked)
        if rows > choose_sizes(gpu).max_num_seqs:
            settings.setdefault("max_num_seqs", rows)
        self.llm = LLM(model, progress=voice.progress, **settings)
        self.voice = voice
        self.shape = self.llm.checkpoint.shape
        self.meter = self.llm.meter
        self.meter.ceilings = rates.over(self.meter.ceilings, self.meter.dtype)
        self._engine = dict(engine)
        self._joules = energy_counter(machine, self.llm.info.device)
        self._random = np.random.default_rng(0)
        voice.tell(report.ceiling_line(self.meter.ceilings, self.meter.dtype))

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.llm.close()

    def prepare(self) -> None:
        """Capture the common decode steps before anything is timed, as a server does in its idle moments."""
        if self.llm.info.device != "cpu":
            self.voice.hint("capturing decode steps")
        self.llm.prepare()

    def run(self, batch: int, prompt: int, output: int) -> Run:
        """Answer `batch` new prompts of `prompt` tokens with `output` tokens each, greedy, end of text ignored."""
        prompts: list[Sequence[int]] = self._random.integers(0, self.shape.vocab_size, (batch, prompt)).tolist()
        sampling = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
        before, preempted = self._totals(), self.llm.stats.preemptions
        joules, began = self._energy(), time.perf_counter()
        answers = self.llm.generate(prompts, sampling)
        seconds, spent = time.perf_counter() - began, self._energy()
        after = self._totals()
        assert all(answer.usage.completion_tokens == output for answer in answers), "an answer of another length"
        return Run(
            seconds=seconds,
            prefill=minus(after["prefill"], before["prefill"]),
            decode=minus(after["decode"], before["decode"]),
            joules=None if joules is None or spent is None else spent - joules,
            preemptions=self.llm.stats.preemptions - preempted,
            rest=dict((answers[-1].receipt or {}).get("rest") or {}),
        )

    def document(self, kind: str, options: Mapping[str, Any], rows: Sequence[report.Row]) -> report.Document:
        """The document of what was measured with this model."""
        info = self.llm.info
        about = {
            "device": self.meter.device,
            "dtype": info.dtype,
            "ceilings": report.ceilings_of(self.meter.ceilings),
            "engine": {
                "max_model_len": info.max_model_len,
                "max_num_seqs": info.max_num_seqs,
                "num_pages": info.num_pages,
                "page_size": info.page_size,
                "weight_bytes": info.weight_bytes,
            },
            "counters": _counters(self.llm.stats.more),
            "fallbacks": [list(fallback) for fallback in self.llm.stats.fallbacks],
        }
        return report.document(kind, info.model, about=about, options={**self._engine, **options}, rows=rows)

    def _totals(self) -> dict[str, Totals]:
        return {name: copy.deepcopy(total) for name, total in self.meter.totals.items()}

    def _energy(self) -> float | None:
        return None if self._joules is None else self._joules()


def _counters(more: Mapping[str, float]) -> dict[str, float]:
    """What the engine counted of its graphs and failures, beside the phases, which the rows hold."""
    return {name: value for name, value in more.items() if not name.startswith(("prefill_", "decode_", "ceiling_"))}


def minus(after: Totals, before: Totals) -> Totals:
    """What came to the sums between two moments, or what one run has more than another."""
    names = [field.name for field in dataclasses.fields(Totals)]
    return Totals(**{name: _difference(getattr(after, name), getattr(before, name)) for name in names})


def _difference(after: Any, before: Any) -> Any:
    if isinstance(after, dict):
        return {name: value - before.get(name, 0) for name, value in after.items()}
    return after - before
