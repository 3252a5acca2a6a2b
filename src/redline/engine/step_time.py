"""How long the next step will take, from what steps took before.

Made for announcing long steps (worker.py), so it errs on the long side: a slow step is believed at once, a quick one little
by little. A decode step is held against those of about as many sequences; a step with prompt tokens against the roofline's count of
its bytes and FLOPs, of which such a step takes some multiple. Torch-free; of devices it knows their rates. Open `StepTime`.
"""

from __future__ import annotations

from redline.engine.draft import Plan
from redline.plan.receipt import Meter
from redline.plan.roofline import StepWork

FIRST_FACTOR = 4.0  # over the limit of a measured machine, before a step was seen
SLOW_CPU = (5e9, 20e9)  # bytes/s and FLOP/s of a machine that was not measured: fewer than any that is worth using
SLOW_GPU = (100e9, 5e12)
FORGET = 0.05  # of the gap to a quicker step, each step


class StepTime:
    """Learns from every step. `window` is the model's sliding window, 0 for none."""

    def __init__(self, meter: Meter, *, on_cpu: bool, window: int = 0) -> None:
        self._meter = meter
        self._window = window
        self._factor = 1.0  # what a step with prompt tokens takes, over its nominal time
        self._decode_s: dict[int, float] = {}  # of a decode step, by the bit length of its number of sequences
        self._bytes_per_s, self._flops_per_s = SLOW_CPU if on_cpu else SLOW_GPU
        if (known := meter.ceilings) is not None:
            self._factor = FIRST_FACTOR
            self._bytes_per_s = known.read_bytes_per_s
            self._flops_per_s = known.matmul_flops.get(meter.dtype, self._flops_per_s)

    def predict(self, plan: Plan) -> float:
        """Seconds, rather too many than too few."""
        if plan.num_tokens != len(plan.entries) or not self._decode_s:
            return self._nominal(plan) * self._factor
        size = len(plan.entries).bit_length()
        nearest = max((seen for seen in self._decode_s if seen <= size), default=min(self._decode_s))
        return self._decode_s[nearest] * (1 << max(0, size - nearest))

    def learn(self, plan: Plan, seconds: float) -> None:
        """`plan` took `seconds`."""
        if plan.num_tokens != len(plan.entries):
            self._factor = _believed(self._factor, seconds / self._nominal(plan))
        else:
            size = len(plan.entries).bit_length()
            self._decode_s[size] = _believed(self._decode_s.get(size, seconds), seconds)

    def _work(self, plan: Plan) -> StepWork:
        return plan.work(self._window)

    def _nominal(self, plan: Plan) -> float:
        due = self._meter.cost(self._work(plan))
        return due.bytes / self._bytes_per_s + due.flops / self._flops_per_s


def _believed(known: float, seen: float) -> float:
    return max(seen, known + (seen - known) * FORGET)
