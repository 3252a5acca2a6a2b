"""The memory of a layout on one chip, to the byte: weights by kind and format, workspace, driver, slack, and what is left for KV.

The same terms as `memory.py`, for formats and layouts that may not run yet; of a group it is the fullest chip. Open `footprint`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from redline.plan.memory import CPU_PROCESS_BYTES, CUDA_CONTEXT_BYTES, MEBI, Limits, needed_workspace
from redline.plan.place import Place
from redline.plan.precision import KvFormat, WeightFormat
from redline.plan.roofline import NORM_BYTES, weight_parts
from redline.plan.split import Layout, rank_shape
from redline.shapes import ModelShape

PAGE = 64  # tokens
_GROUP_BYTES = 64 * MEBI  # buffers of sums between chips: of a few thousand tokens' activations
ROUNDING_BYTES = 16 * MEBI  # of what torch takes from the device: 2 MiB at a time, 20 for what is not large


@dataclass(frozen=True)
class Footprint:
    """Bytes on the fullest chip. `weights` is (kind, bits per weight, bytes); `usable` what all of this may take together."""

    weights: tuple[tuple[str, float, int], ...]
    workspace: int
    driver: int
    slack: int
    taken: int
    usable: int
    kv_token: float  # of one token of one sequence

    @property
    def weights_bytes(self) -> int:
        return sum(size for _, _, size in self.weights)

    @property
    def fixed(self) -> int:
        """All but KV."""
        return self.weights_bytes + self.workspace + self.driver + self.slack + self.taken

    @property
    def kv_room(self) -> int:
        """Bytes left for KV pages; negative where not even the rest fits."""
        return self.usable - self.fixed

    @property
    def kv_tokens(self) -> int:
        """Tokens of all sequences together that the pages hold."""
        return max(0, int(self.kv_room // (self.kv_token * PAGE))) * PAGE

    def sequences(self, context: int) -> int:
        """Sequences of `context` tokens that fit at once."""
        return self.kv_tokens // (-(-context // PAGE) * PAGE)

    def longest(self, users: int) -> int:
        """Tokens of each of `users` sequences."""
        return self.kv_tokens // users // PAGE * PAGE

    def as_dict(self, users: int, context: int) -> dict[str, object]:
        """MiB by part, JSON-able; `kv` is what `users` sequences of `context` tokens take."""
        kv = users * -(-context // PAGE) * PAGE * self.kv_token
        return {
            "weights_mib": {kind: _mib(size) for kind, _, size in self.weights},
            "weights_bits": {kind: round(bits, 3) for kind, bits, _ in self.weights},
            "weights_total_mib": _mib(self.weights_bytes),
            "kv_mib": _mib(kv),
            "kv_bytes_per_token": round(self.kv_token),
            "workspace_mib": _mib(self.workspace),
            "driver_mib": _mib(self.driver),
            "slack_mib": _mib(self.slack),
            "others_mib": _mib(self.taken),
            "total_mib": _mib(self.fixed + kv),
            "usable_mib": _mib(self.usable),
            "most_sequences": self.sequences(context),
            "longest_context": self.longest(users),
        }


def footprint(shape: ModelShape, place: Place, weights: WeightFormat, kv: KvFormat, layout: Layout, limits: Limits) -> Footprint:
    """The memory of `shape` in these formats; `limits` are of one group of chips."""
    rank = rank_shape(shape, layout)
    parts = []
    for kind, count in weight_parts(rank):
        bits = 8.0 * NORM_BYTES if kind == "norms" else weights.part_bits(kind)
        parts.append((kind, bits, int(count * bits / 8)))
    limits = replace(limits, gpu=not place.on_cpu)
    space = needed_workspace(rank, 4 if place.dtype == "float32" else 2, PAGE, limits)
    return Footprint(
        weights=tuple(parts),
        workspace=space.total - space.driver,
        driver=CPU_PROCESS_BYTES if place.on_cpu else CUDA_CONTEXT_BYTES + space.driver,
        slack=(0 if place.on_cpu else ROUNDING_BYTES) + (_GROUP_BYTES if layout.chips > 1 else 0),
        taken=place.taken_bytes,
        usable=place.usable_bytes,
        kv_token=2 * rank.num_layers * rank.num_kv_heads * rank.head_size * kv.bits / 8,
    )


def _mib(size: float) -> int:
    """Whole MiB, up."""
    return -(-int(size) // MEBI)
