"""Steps as CUDA graphs: captured by size, replayed with one call, sampling included.

A captured decode step reads its rows' records from a ring in host memory (kernels/decode_step.py), runs the model, samples,
and leaves the tokens in the token table and in a second ring on the host: nothing is copied, allocated or waited for. Rows
are padded up to a bucket, and so is the bound on their contexts, which only sizes the launches. A short prompt alone, or a
chunk of one, is captured in the same way, padded to a bucket of tokens (kernels/prompt_step.py): its kernels take less time
than the host takes to launch them. Its context can have any length.

A size is captured in an idle moment (`prepare`), those first that were asked for a few times, or in the midst of work: after those few times where no
idle moments come, later where they do. Until then a larger one serves, or the step is run op by op. What cannot be captured stays op by op, is counted and is logged. How to capture is given by the
caller (`CudaCapture`), so that a CPU can stand in for a graph by running the step again. Knows nothing of requests.
Open `StepGraphs.take` first. Shapes: as in kernels/decode_step.py.
"""

from __future__ import annotations

import contextlib
import gc
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch

from redline import log
from redline.kernels import timing
from redline.kernels.decode_step import PATCH_COLUMN, POSITION, RECORD_WORDS, ROW, Rows, begin_decode, end_decode
from redline.kernels.prompt_step import PROMPT_WORDS, Prompt, begin_prompt
from redline.kernels.ragged import Ragged
from redline.kernels.sample import SampleBatch, sample
from redline.kernels.skinny import Chosen
from redline.layers.batch import Batch, KVCache
from redline.models.registry import Model
from redline.plan.workspace import MOST_GRAPHS, PROMPT_TOKENS

Kind = Literal["greedy", "random", "truncated", "logits", "none"]
"""How a captured step ends: with the best token, with a draw, with one among limited tokens, with the logits, or (a chunk of
a prompt) with nothing."""


class Capture(Protocol):
    """How a device captures."""

    def wait(self) -> None:
        """Until all steps that were launched have ended."""

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """What repeats `step`. May run it, any number of times; raises what it or the capture raises."""

    def seconds(self, step: Callable[[], None]) -> float:
        """What the device takes for `step` as a part of something captured. Raises as a call does."""


COVERS: dict[Kind, tuple[Kind, ...]] = {
    "greedy": ("greedy", "random", "truncated"),
    "random": ("random", "truncated"),
    "truncated": ("truncated",),
    "logits": ("logits",),
    "none": ("none",),
}
"""Which kinds give the same tokens, nearest first."""

PROMPTS = (16, 32, 64, 128, 192, 256, 384, 512, 768, *range(1024, 2048, 256), *range(2048, PROMPT_TOKENS[1] + 1, 512))
"""New tokens of one sequence that steps are padded to. Up to about 200 the time is that of reading the weights."""

WANTED_EAGER = 4  # steps of a size without any graph that fits, before it is captured
WANTED_COVERED = 64  # the same where a larger one has served
PATIENCE = 16
"""Times as many steps before a size is captured in the midst of work, where idle moments come: a capture takes a tenth of a second and more, in which
whoever is being answered waits."""
MOST_PADDING = 4  # a graph of more than so many times the rows or tokens serves nobody: most of its work would be padding
MOST_FAILURES = 3  # sizes that could not be captured; then nothing is captured any more
TIMED = 3  # replays of what is timed
SLOTS = 2  # a step's records are written while the one before runs; the one before that has ended


class Size(NamedTuple):
    """What a graph was captured for: so many rows, each of at most `context` tokens with the new ones, which are one, or up to
    `tokens` of one row."""

    rows: int
    context: int
    kind: Kind
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Replay:
    """One step that a graph will run: write `records`, then `run` it, in the order of the calls of `take` and `take_prompt`.

    `tokens_R`, int32 [rows], is host memory, which holds the step's tokens once it has ended; None of kind "logits", where
    `logits_RV` is given instead and the rest of the step is the caller's, and of kind "none". `padding` tokens of the graph are
    nobody's. `sampling_s` is what its sampling takes; 0 where that was not measured.
    """

    records: np.ndarray  # int32 [rows of the graph, words of a row or of a prompt]
    run: Callable[[], None]
    tokens_R: np.ndarray | None
    logits_RV: torch.Tensor | None
    padding: int
    sampling_s: float


def row_buckets(most: int) -> list[int]:
    """Numbers of rows that steps are padded to, the last of them `most`."""
    steps = [1, 2, 4, 8, *range(16, 32, 8), *range(32, 64, 16), *range(64, 256, 32), *range(256, most, 64)]
    return [*(rows for rows in steps if rows < most), most]


def context_buckets(most: int) -> list[int]:
    """Bounds on the longest context of a step, the last of them `most`."""
    found = [1024]
    while found[-1] < most:
        found.append(4 * found[-1])
    return [*found[:-1], most]


def prompt_buckets(most: int) -> list[int]:
    """Numbers of new tokens of one sequence that steps are padded to; the last holds `most`."""
    return [tokens for tokens, before in zip(PROMPTS, (0, *PROMPTS), strict=False) if before < most]


class StepGraphs:
    """The captured steps of one model on one device, and the memory at fixed addresses that they share.

    `table` is the token table, int32 [num_rows + 1, positions]; its last row is for padding. Prompts, or chunks of them, are
    captured up to `prompt_tokens`. `has_idle_moments`: `prepare` is called whenever there has been nothing to do for a while. Not
    thread-safe.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        table: torch.Tensor,
        capture: Capture,
        *,
        num_rows: int,
        max_model_len: int,
        prompt_tokens: int = PROMPT_TOKENS[0],
        has_idle_moments: bool = False,
    ) -> None:
        device = table.device
        self._model = model
        self._cache = cache
        self._table = table
        self._capture = capture
        self._rows = row_buckets(num_rows)
        self._contexts = context_buckets(max_model_len)
        self._prompts = prompt_buckets(min(max_model_len, prompt_tokens))
        self.num_columns = -(-max_model_len // cache.page_size)
        pinned = device.type == "cuda"
        self._pages_RC = torch.zeros((num_rows + 1, self.num_columns), dtype=torch.int32, device=device)
        self._records_ZBW = torch.zeros((SLOTS, num_rows, RECORD_WORDS), dtype=torch.int32, pin_memory=pinned)
        self._prompts_ZW = torch.zeros((SLOTS, PROMPT_WORDS), dtype=torch.int32, pin_memory=pinned)
        self._output_ZB = torch.zeros((SLOTS, num_rows), dtype=torch.int32, pin_memory=pinned)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._starts = torch.arange(num_rows + 1, dtype=torch.int32, device=device)
        self._logits_RV: torch.Tensor | None = None
        self._host_records = self._records_ZBW.numpy()
        self._host_prompts = self._prompts_ZW.numpy()
        self._host_output = self._output_ZB.numpy()
        self._graphs: dict[Size, Callable[[], None]] = {}
        self._sampling_s: dict[Size, float] = {}
        self._choosing: set[Size] = set()  # whose greedy tokens the head chooses: there are no logits
        self._failed: set[Size] = set()
        self._wanted: Counter[Size] = Counter()
        self._common = common_sizes(self._rows, self._contexts, self._prompts)
        self._has_idle_moments = has_idle_moments
        self._taken = 0  # steps
        self._count = 0  # what `_step` will be when all that was launched has ended
        self._steps = 0  # that ran
        self._capture_s = 0.0

    def take(self, rows: int, context: int, kind: Kind) -> Replay | None:
        """The next step's graph for `rows` rows with contexts of at most `context` tokens; None: run it op by op."""
        size = self._find(Size(_up(self._rows, rows), _up(self._contexts, context), kind))
        return None if size is None else self._replay(size, rows, size.rows - rows, self._host_records)

    def take_prompt(self, tokens: int, kind: Kind) -> Replay | None:
        """The same for a step that computes `tokens` tokens of one sequence and, unless of kind "none", samples the next."""
        if tokens > self._prompts[-1]:
            return None
        size = self._find(Size(1, self._contexts[-1], kind, _up(self._prompts, tokens)))
        return None if size is None else self._replay(size, 1, size.tokens - tokens, self._host_prompts[:, None])

    def _replay(self, size: Size, rows: int, padding: int, records_ZBW: np.ndarray) -> Replay:
        number = self._taken
        self._taken += 1
        logits_RV = self._logits_RV if size.kind == "logits" else None
        return Replay(
            records=records_ZBW[number % SLOTS, : size.rows],
            run=lambda: self._run(size, number),
            tokens_R=None if size.kind in ("logits", "none") else self._host_output[number % SLOTS, :rows],
            logits_RV=None if logits_RV is None else logits_RV[:rows],
            padding=padding,
            sampling_s=self._sampling_s.get(size, 0.0),
        )

    def patch(self, places: torch.Tensor, pages: torch.Tensor) -> None:
        """Write `pages` to flat `places` of the page tables."""
        self._pages_RC.view(-1).index_copy_(0, places, pages)

    @property
    def unprepared(self) -> bool:
        """Whether there are sizes for `prepare` to look at."""
        return bool(self._common)

    def prepare(self) -> bool:
        """Capture the next of the common sizes, or of those that were asked for, in an idle moment; whether there are more."""
        while self._common:
            size = self._common.pop(0)
            if size not in self._graphs and self._may_capture(size):
                self._add(size)
                break
        return bool(self._common)

    def counters(self) -> dict[str, float]:
        """For metrics."""
        return {
            "graphs_captured": float(len(self._graphs)),
            "graph_capture_seconds_total": self._capture_s,
            "graph_steps_total": float(self._steps),
            "graph_fallbacks_total": float(len(self._failed)),
        }

    def _run(self, size: Size, number: int) -> None:
        if number != self._count:  # a step was taken and never run, or something was captured
            self._step.fill_(number)
        self._count = number + 1
        self._graphs[size]()
        self._steps += 1

    def _find(self, size: Size) -> Size | None:
        """The graph to use for `size`: its own, which may be captured for that, or the nearest that covers it."""
        if size in self._graphs:
            return size
        cover = self._cover(size)
        self._wanted[size] += 1
        enough = WANTED_EAGER if cover is None else WANTED_COVERED
        if self._has_idle_moments:
            if self._wanted[size] == enough:
                self._common.insert(0, size)
            enough *= PATIENCE
        if self._wanted[size] >= enough and self._may_capture(size) and self._add(size):
            return size
        return cover

    def _cover(self, size: Size) -> Size | None:
        kinds = COVERS[size.kind]
        fitting = [
            (have.rows * have.tokens, kinds.index(have.kind), have.context, have)
            for have in self._graphs
            if size.rows <= have.rows <= MOST_PADDING * size.rows
            and size.tokens <= have.tokens <= MOST_PADDING * size.tokens
            and have.context >= size.context
            and have.kind in kinds
        ]
        return min(fitting)[-1] if fitting else None

    def _may_capture(self, size: Size) -> bool:
        return size not in self._failed and len(self._failed) < MOST_FAILURES and len(self._graphs) < MOST_GRAPHS

    @torch.inference_mode()
    def _add(self, size: Size) -> bool:
        """Capture `size` over nothing but padding; whether it worked. The device is idle before and after."""
        began = time.monotonic()
        self._capture.wait()
        self._host_records[:] = self._padding()
        self._host_prompts[:] = 0
        self._host_prompts[:, ROW] = len(self._pages_RC) - 1
        kept = self._output_ZB.clone()  # the last step's tokens have not been read yet
        try:
            if size.kind == "logits" and self._logits_RV is None:
                shape = (self._rows[-1], self._model.shape.vocab_size)
                self._logits_RV = torch.empty(shape, dtype=torch.float32, device=self._table.device)
            self._graphs[size] = self._capture(lambda: self._decode(size) if size.tokens == 1 else self._prefill(size))
            if size.tokens == 1 and size.kind not in ("logits", "none"):
                self._sampling_s[size] = self._capture.seconds(lambda: self._end_of_nothing(size))
        except Exception as error:  # whatever a driver, a library or a compiler has against it
            self._fail(size, error)
        self._capture.wait()
        self._output_ZB.copy_(kept)
        self._count = -1  # on the device it is another now
        self._capture_s += time.monotonic() - began
        return size in self._graphs

    def _fail(self, size: Size, error: Exception) -> None:
        self._failed.add(size)
        log.get("graphs").debug("no graph of %s", size, exc_info=error)
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        log.fallback("cuda_graph", f"a step could not be captured and is run op by op ({reason})")
        if len(self._failed) == MOST_FAILURES:
            log.fallback("cuda_graph", f"nothing more is captured: {MOST_FAILURES} sizes of steps could not be")

    def _padding(self) -> np.ndarray:
        """A record of nobody."""
        record = np.zeros(RECORD_WORDS, np.int32)
        record[ROW], record[POSITION], record[PATCH_COLUMN] = len(self._pages_RC) - 1, -1, -1
        return record

    def _decode(self, size: Size) -> None:
        """One step of one new token a row, as it is captured."""
        page_size = self._cache.page_size
        pages = -(-size.context // page_size)
        rows = begin_decode(self._records_ZBW, self._step, self._table, self._pages_RC, size.rows, pages, page_size)
        ragged = Ragged(self._starts[: size.rows + 1], rows.context_B, rows.page_table_BP, max_query=1, max_context=size.context)
        batch = Batch(rows.tokens_B, rows.positions_B, rows.slots_B, ragged, is_captured=True)
        chosen = self._model.next_chosen(batch, self._cache) if size.kind == "greedy" else None
        if chosen is not None:
            self._choosing.add(size)
        self._end(self._model.next_logits(batch, self._cache) if chosen is None else chosen, rows, size.kind)

    def _end_of_nothing(self, size: Size) -> None:
        """What a step does beside its forward pass, for logits that nobody computed: to be timed."""
        page_size = self._cache.page_size
        pages = -(-size.context // page_size)
        rows = begin_decode(self._records_ZBW, self._step, self._table, self._pages_RC, size.rows, pages, page_size)
        device, shape = self._table.device, (size.rows, self._model.shape.vocab_size)
        if size in self._choosing:
            self._end(Chosen(torch.zeros(size.rows, dtype=torch.int64, device=device)), rows, size.kind)
        else:
            self._end(torch.empty(shape, dtype=torch.float32, device=device), rows, size.kind)

    def _prefill(self, size: Size) -> None:
        """One step of several new tokens of one sequence, as it is captured: the last layer and the head for the last alone."""
        page_size, columns = self._cache.page_size, self.num_columns
        new = begin_prompt(self._prompts_ZW, self._step, self._table, self._pages_RC, size.tokens, columns, page_size)
        ragged = Ragged(new.query_start_B1, new.context_B, new.page_table_BP, max_query=size.tokens, max_context=size.context)
        batch = Batch(new.tokens_T, new.positions_T, new.slots_T, ragged, new.last_B, is_captured=True)
        hidden_BD = self._model.forward(batch, self._cache)
        if size.kind == "none":
            self._step.add_(1)
        else:
            self._end(self._model.logits(hidden_BD), new, size.kind)

    def _end(self, found: torch.Tensor | Chosen, rows: Rows | Prompt, kind: Kind) -> None:
        """From logits [B, V], or the tokens that the head chose, to what the step leaves behind."""
        if kind == "logits" and not isinstance(found, Chosen):
            assert self._logits_RV is not None
            self._logits_RV[: len(found)].copy_(found)
            self._step.add_(1)
            return
        tokens_B = found if isinstance(found, Chosen) else sample(found, _choice(rows, kind))
        end_decode(tokens_B, rows.rows_B, rows.columns_B, self._table, self._output_ZB, self._step)


def common_sizes(rows: list[int], contexts: list[int], prompts: list[int]) -> list[Size]:
    """What most traffic meets, in the order of capture: one sequence first, its prompt and its answer, longer ones too; then powers of two, short contexts
    before the next longer. Of prompts and longer contexts, kinds that cover the others. The longest prompts first: the others fit into their memory."""
    powers = [count for count in rows if count & (count - 1) == 0 or count == rows[-1]]
    kinds: tuple[Kind, ...] = ("greedy", "random", "truncated")
    ways: tuple[Kind, ...] = ("greedy", "truncated")
    decodes = [Size(count, contexts[0], kind) for count in powers for kind in kinds]
    prefills = [Size(1, contexts[-1], kind, tokens) for kind in ways for tokens in reversed(prompts)]
    longer = [Size(count, context, kind) for context in contexts[1:2] for count in powers for kind in ways]
    return [*decodes[: len(kinds)], *prefills, *longer[: len(ways)], *decodes[len(kinds) :], *longer[len(ways) :]]


def _choice(rows: Rows | Prompt, kind: Kind) -> SampleBatch:
    truncated = kind == "truncated"
    return SampleBatch(
        temperature_B=rows.temperature_B,
        top_k_B=rows.top_k_B,
        top_p_B=rows.top_p_B,
        min_p_B=rows.min_p_B,
        seed_B=rows.seed_B,
        position_B=rows.columns_B,
        all_greedy=kind == "greedy",
        any_top_k=truncated,
        any_top_p=truncated,
        any_min_p=truncated,
    )


def _up(buckets: list[int], value: int) -> int:
    """The smallest bucket that holds `value`."""
    return buckets[bisect_left(buckets, value)]


class CudaCapture:
    """Captures on a stream of its own, after a run there that compiles kernels and lets libraries set up for that stream.

    All graphs share one memory pool with the run before: a step leaves nothing behind in it, so the next may overwrite it.
    `pool_bytes` of it are taken at once, so that they are there later.
    """

    def __init__(self, device: torch.device, pool_bytes: int = 0) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.MemPool()
        if pool_bytes:
            with (
                contextlib.suppress(torch.OutOfMemoryError),  # then each capture finds out by itself whether it fits
                torch.cuda.device(device),
                torch.cuda.stream(self._stream),
                torch.cuda.use_mem_pool(self._pool),
            ):
                torch.empty(pool_bytes, dtype=torch.uint8, device=device)  # comes back to the pool, which keeps it

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Raises what the step or the capture raises; the stream can be used again then."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            with torch.cuda.use_mem_pool(self._pool):
                step()
                self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            collects = gc.isenabled()
            gc.disable()  # what it frees, an event or a graph, would spoil the capture
            try:
                # Other threads may go on using the device.
                graph.capture_begin(pool=self._pool.id, capture_error_mode="thread_local")
                try:
                    step()
                except BaseException:
                    self._give_up(graph)
                    raise
                graph.capture_end()
            finally:
                if collects:
                    gc.enable()
        replay: Callable[[], None] = graph.replay
        return replay

    def seconds(self, step: Callable[[], None]) -> float:
        """The shortest of a few replays; its graph is let go."""
        replay = self(step)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            return min(timing.one_by_one(replay, TIMED))

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed; later ones get a pool of their own."""
        try:
            graph.capture_end()
        except Exception as error:  # it says once more that the capture failed
            log.get("graphs").debug("capture ended with %s", error)
        self._pool = torch.cuda.MemPool()
