"""What a decode step is made of: as somebody watched its kernels, or as many steps together show it. Open `Fit` first.

Torch-free; a microsecond a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OVER = ("weights_over", "kv_over", "sampling", "launches")
"""Causes beyond the limit that lie inside a step's kernels and between them."""

_NAMES = {
    "kv": {"_attend", "_decode", "_reduce", "_prepare", "_rotate", "_write_kv", "decode_attention"},
    "sampling": {"_pick", "_pick_part", "_threshold", "_mask", "_end"},
}  # our own kernels (kernels/)
_MARKS = {
    "kv": ("attention", "attn", "flash", "fmha", "sdpa"),
    "sampling": ("sample", "argmax", "topk", "softmax", "sort"),
}  # in the names of libraries' kernels

_MEMORY = 512  # steps: older ones count less and less
_SPREAD = 0.1  # of the bytes: where steps differ by more, they and not the first guess say what a byte takes
_USUAL_SHARE = 0.8  # of the read rate, that attention reaches: the first guess


class Fit:
    """What decode steps of so many rows take: `fixed`, the same in each of them, and a part that grows with the KV they read.

    seconds = fixed + slope * kv_bytes, by least squares over the newest steps with the slope drawn towards a first guess
    (ridge regression): what grows with the context is attention's, and only as far as contexts differ can it be told apart.
    """

    __slots__ = ("_count", "_guess", "_kv", "_kv_variance", "_seconds", "_together")

    def __init__(self) -> None:
        self._count = 0
        self._guess = 0.0  # s/byte
        self._kv = self._seconds = 0.0  # means
        self._kv_variance = self._together = 0.0  # variance of the bytes, covariance of both

    def step(self, kv_bytes: float, kv_limit_s: float, seconds: float) -> tuple[float, float]:
        """Take in a step whose KV takes `kv_limit_s` at the limit. Its fixed seconds, and those of its KV."""
        self._count += 1
        if kv_bytes:
            self._guess = kv_limit_s / kv_bytes / _USUAL_SHARE
        share = max(1 / self._count, 1 / _MEMORY)
        kv, late = kv_bytes - self._kv, seconds - self._seconds
        self._kv += share * kv
        self._seconds += share * late
        self._kv_variance = (1 - share) * (self._kv_variance + share * kv * kv)
        self._together = (1 - share) * (self._together + share * kv * late)
        pull = (_SPREAD * self._kv) ** 2
        weight = self._kv_variance + pull
        slope = max(0.0, (self._together + pull * self._guess) / weight) if weight else 0.0
        return self._seconds - slope * self._kv, slope * kv_bytes


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Seconds of the kernels of one decode step of `rows` rows, by what they are there for, as somebody saw them.

    `weights`: projections, with the norms, activations and embeddings between them; `kv`: attention, over `kv_bytes`;
    `sampling`; `launches`: when no kernel ran. Kernels that overlap count once.
    """

    rows: int
    weights_s: float
    kv_s: float
    sampling_s: float
    launches_s: float
    kv_bytes: float

    @classmethod
    def of(cls, kernels: Mapping[str, float], *, step_s: float, rows: int, kv_bytes: float) -> Anatomy:
        """From the seconds of each kernel in a step of `step_s` seconds of the device.

        Kernels that begin before the one before them ends add up to more than the step; then all shrink alike.
        """
        seconds = dict.fromkeys(("weights", "kv", "sampling"), 0.0)
        for name, each in kernels.items():
            seconds[_purpose(name)] += each
        busy = sum(seconds.values())
        fit = min(1.0, step_s / busy) if busy > 0 else 1.0
        weights, kv, sampling = (fit * each for each in seconds.values())
        return cls(rows, weights, kv, sampling, max(0.0, step_s - busy), kv_bytes)


def _purpose(kernel: str) -> str:
    """What a kernel is there for, by its name; "weights" where nothing else is known."""
    own = next((purpose for purpose, names in _NAMES.items() if kernel in names), None)
    name = kernel.lower()
    return own or next((purpose for purpose, marks in _MARKS.items() if any(mark in name for mark in marks)), "weights")
