"""A rate and how far to trust it: `ratio`, a bootstrap over files. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

RESAMPLES = 2000


class Interval(msgspec.Struct, frozen=True):
    """A rate, its 95 % interval, and what it was counted from."""

    value: float
    low: float
    high: float
    above: float  # the sum that the rate is of
    of: float
    files: int  # that bear on it

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(pairs: Sequence[tuple[float, float]], seed: int = 0) -> Interval:
    """Sum of the first over sum of the second, resampling pairs (files), 2.5 % to 97.5 %.

    Where every file says the same the bootstrap knows no doubt; the bound that n equal files allow (1 - 0.025^(1/n)) stands
    in then. Pairs whose second part is 0 bear on nothing.
    """
    counted = np.array([pair for pair in pairs if pair[1] > 0], dtype=float).reshape(-1, 2)
    if not len(counted):
        raise ValueError("no file bears on this rate")
    above, below = counted.sum(axis=0)
    value = float(above / below)
    if value in (0.0, 1.0) or len(counted) == 1:
        doubt = 1 - 0.025 ** (1 / len(counted))
        low, high = max(0.0, value - doubt), min(1.0, value + doubt)
    else:
        drawn = np.random.default_rng(seed).integers(len(counted), size=(RESAMPLES, len(counted)))
        sums = counted[drawn].sum(axis=1)
        low, high = (float(edge) for edge in np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5)))
    return Interval(value, low, high, float(above), float(below), len(counted))


def middle(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a quantity per file and its interval, in the same way. An empty sequence is a mistake of the caller."""
    counted = np.array(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(counted), size=(RESAMPLES, len(counted)))
    low, high = (float(edge) for edge in np.percentile(counted[drawn].mean(axis=1), (2.5, 97.5)))
    return Interval(float(counted.mean()), low, high, float(counted.sum()), float(len(counted)), len(counted))
