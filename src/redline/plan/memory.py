"""What must fit into a device's memory: weights, workspace and the KV pages. Numbers only, torch-free.

The plan is made before a byte is loaded and the engine follows it. Open `plan_memory` first.
"""

from __future__ import annotations

from dataclasses import dataclass

from redline.errors import DoesNotFit
from redline.plan.roofline import NORM_BYTES, norm_weights, weight_count
from redline.plan.workspace import Workspace, workspace
from redline.shapes import ModelShape

KIBI, MEBI, GIBI = 1 << 10, 1 << 20, 1 << 30
CPU_PROCESS_BYTES = 512 * MEBI  # interpreter, libraries and the server process
CUDA_CONTEXT_BYTES = 530 * MEBI  # an H200's, with 132 multiprocessors; there when free memory is read, not in the plan


@dataclass(frozen=True)
class Budget:
    """Bytes that redline may use in one place. `name` is how a sentence calls it ("cuda:0", "this machine").

    `kv_most` caps the KV pages (the CPU's modest default); `kv_asked` is what the user gave with --kv-cache-memory and
    must be there.
    """

    total_bytes: int
    name: str
    kv_most: int | None = None
    kv_asked: int | None = None


@dataclass(frozen=True)
class Limits:
    """How much may run at once. `num_pages` is the user's own number, or None."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    prefix_caching: bool = True
    num_pages: int | None = None
    graphs: bool = False  # decode steps are captured
    gpu: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each part; `total_bytes` is their sum, without the driver's context, and at most `budget_bytes`."""

    weights_bytes: int
    kv_page_bytes: int
    num_pages: int
    workspace: Workspace
    budget_bytes: int

    @property
    def kv_bytes(self) -> int:
        return self.num_pages * self.kv_page_bytes

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.workspace.total + self.kv_bytes


def weights_bytes(shape: ModelShape, dtype_bytes: int) -> int:
    """All weights as they lie in memory once loaded: matrices in the model's type, norms in float32."""
    norms = norm_weights(shape)
    return (weight_count(shape) - norms) * dtype_bytes + norms * NORM_BYTES


def page_bytes(shape: ModelShape, page_size: int, dtype_bytes: int) -> int:
    """One page: K and V of `page_size` tokens in every layer."""
    return 2 * shape.num_layers * page_size * shape.num_kv_heads * shape.head_size * dtype_bytes


def needed_workspace(
    shape: ModelShape, dtype_bytes: int, page_size: int, limits: Limits, kv_tokens: int | None = None
) -> Workspace:
    """The workspace under `limits`. A step has no more tokens than the KV pages hold (`kv_tokens`), where that is known."""
    rows, tokens = limits.max_num_seqs, limits.max_num_batched_tokens
    if kv_tokens is not None:
        rows, tokens = max(1, min(rows, kv_tokens // page_size)), max(1, min(tokens, kv_tokens))
    found = workspace(
        shape,
        dtype_bytes,
        rows=rows,
        tokens=tokens,
        max_len=limits.max_model_len,
        page_size=page_size,
        gpu=limits.gpu,
        graph_rows=limits.max_num_seqs if limits.graphs else 0,
    )
    return found


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold `tokens` tokens of one sequence."""
    return -(-tokens // page_size)


def most_pages(limits: Limits, page_size: int) -> int:
    """More pages than these would never be used: every sequence at its longest, and as many again for prefixes.

    With the prefix cache on, pages whose sequence has ended are kept as long as nobody needs them; a pool twice the
    live maximum lets a full batch find its predecessors' prefixes.
    """
    live = limits.max_num_seqs * pages_for(limits.max_model_len, page_size)
    return 2 * live if limits.prefix_caching else live


def plan_memory(shape: ModelShape, dtype_bytes: int, page_size: int, budget: Budget, limits: Limits) -> MemoryPlan:
    """Share the budget out. Raises DoesNotFit, with the numbers and what to change, if the weights do not fit or if
    the pages that are left cannot hold one sequence of max_model_len tokens.
    """
    needs = _Needs.of(shape, dtype_bytes, page_size, budget, limits)
    if needs.room < needs.page:
        raise needs.weights_do_not_fit()
    pages = needs.pages()
    if pages * needs.page > needs.room:
        raise needs.asked_too_much(pages)
    if pages < pages_for(limits.max_model_len, page_size):
        raise needs.context_does_not_fit(pages)
    return MemoryPlan(
        weights_bytes=needs.weights,
        kv_page_bytes=needs.page,
        num_pages=pages,
        workspace=needs.workspace,
        budget_bytes=budget.total_bytes,
    )


def longest_context(shape: ModelShape, dtype_bytes: int, page_size: int, budget: Budget, limits: Limits) -> int:
    """Tokens of one sequence that the pages of this budget could hold, at most `limits.max_model_len`; 0: none."""
    needs = _Needs.of(shape, dtype_bytes, page_size, budget, limits)
    pages = min(needs.pages(), needs.room // needs.page)
    return max(0, min(limits.max_model_len, pages * page_size))


@dataclass(frozen=True)
class _Needs:
    """The sums behind one plan, and the sentences for when they do not add up. Bytes, but for `page_size` (tokens)."""

    weights: int
    workspace: Workspace
    page: int
    page_size: int
    dtype_bytes: int
    budget: Budget
    limits: Limits

    @classmethod
    def of(cls, shape: ModelShape, dtype_bytes: int, page_size: int, budget: Budget, limits: Limits) -> _Needs:
        page, asked = page_bytes(shape, page_size, dtype_bytes), limits.num_pages
        if asked is None and budget.kv_asked is not None:
            asked = budget.kv_asked // page
        return cls(
            weights=weights_bytes(shape, dtype_bytes),
            workspace=needed_workspace(shape, dtype_bytes, page_size, limits, None if asked is None else asked * page_size),
            page=page,
            page_size=page_size,
            dtype_bytes=dtype_bytes,
            budget=budget,
            limits=limits,
        )

    @property
    def room(self) -> int:
        """What weights and workspace leave for KV pages; negative if not even they fit."""
        return self.budget.total_bytes - self.weights - self.workspace.total

    def pages(self) -> int:
        """Pages of the pool: the user's own number or bytes if given, else what fits, at most what could be used."""
        if self.limits.num_pages is not None:
            return self.limits.num_pages
        if self.budget.kv_asked is not None:
            return self.budget.kv_asked // self.page
        room = self.room if self.budget.kv_most is None else min(self.room, self.budget.kv_most)
        return min(room // self.page, most_pages(self.limits, self.page_size))

    def weights_do_not_fit(self) -> DoesNotFit:
        return DoesNotFit(
            f"the model needs {size(self.weights)} for weights, {size(self.workspace.total)} for workspace and at least one KV page of "
            f"{size(self.page)}; {size(max(0, self.budget.total_bytes))} may be used on {self.budget.name}",
            hint=f"try {self._narrower()}a smaller model, or a lower --max-num-batched-tokens and --max-num-seqs",
        )

    def asked_too_much(self, pages: int) -> DoesNotFit:
        option = "--num-pages" if self.limits.num_pages is not None else "--kv-cache-memory"
        most = f"{self.room // self.page}" if self.limits.num_pages is not None else f"{self.room * 100 // GIBI / 100:g}"
        return DoesNotFit(
            f"{option} asks for {size(pages * self.page)} of KV pages; beside weights ({size(self.weights)}) and workspace "
            f"({size(self.workspace.total)}) {size(self.room)} of the {size(self.budget.total_bytes)} on {self.budget.name} are left",
            hint=f"try {option} {most}, or leave it out",
        )

    def context_does_not_fit(self, pages: int) -> DoesNotFit:
        needed = pages_for(self.limits.max_model_len, self.page_size)
        ways = [f"--max-model-len {pages * self.page_size}"] if pages else []
        if needed * self.page <= self.room:
            more = (
                f"--num-pages {needed}"
                if self.limits.num_pages is not None
                else f"--kv-cache-memory {_gibi_up(needed * self.page)}"
            )
            ways.append(more)
        else:
            ways.append(f"{self._narrower()}a smaller model")
        return DoesNotFit(
            f"one sequence of {self.limits.max_model_len} tokens needs {size(needed * self.page)} of KV pages; "
            f"{size(pages * self.page)} are planned on {self.budget.name} (of {size(self.budget.total_bytes)} that may be used, "
            f"{size(self.weights)} are for weights and {size(self.workspace.total)} for workspace)",
            hint=f"try {' or '.join(ways)}",
        )

    def _narrower(self) -> str:
        return "--dtype bfloat16 (half the bytes), " if self.dtype_bytes > 2 else ""


def _gibi_up(count: int) -> str:
    """`count` bytes in GiB, rounded up to two decimals, as --kv-cache-memory takes it."""
    return f"{-(-count * 100 // GIBI) / 100:g}"


def size(count: int) -> str:
    """Bytes as people read them: "512 MiB", "7.9 GiB"."""
    if count >= GIBI:
        return f"{count / GIBI:.1f} GiB"
    if count >= 10 * MEBI:
        return f"{count / MEBI:.0f} MiB"
    return f"{count / MEBI:.1f} MiB" if count >= MEBI else f"{count / KIBI:.0f} KiB"
