"""Runs planned steps on one device: copies, forward pass, sampling. Owns the KV cache and the token table.

`launch` returns at once and `Launched.wait` gives the step's results, so the loop can work on the host meanwhile: on a
GPU the step is queued on the stream, a decode step as one graph where it was captured (graphs.py); on a CPU it runs in
the runner's one thread. Either way steps run in the order of their launches, which is what makes page reuse and
device-side tokens safe. Knows nothing of requests' ends, text or sockets. Open `Runner.launch` first. Shapes: T packed tokens, R rows that sample, D model size, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from redline.engine.batch import BatchFiller, PromptScores, StepInputs
from redline.engine.draft import Plan
from redline.engine.graphs import StepGraphs
from redline.engine.pooling import Pooler, PoolInputs, vectors
from redline.engine.sampler import Mask, Scores, sample_step, score
from redline.engine.torch_thread import TorchThread
from redline.kernels.kv_write import copy_pages
from redline.layers.batch import Batch, KVCache
from redline.models.registry import Model
from redline.plan.workspace import PROMPT_SCORE_ROWS
from redline.types import TokenLogprob

WARM_UP_STEP = -1
"""Number of a plan that is no request's."""
MARKED_STEPS = 4
"""Steps whose beginnings and ends are told apart: one is launched while one runs, and when that is read the end of the one before is."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One launched step, on the host: a token (and its score, where asked for) per sampling entry, in plan order.

    `prompt_scores` holds (index into plan.entries, first position scored, scores), `vectors` what was pooled, by index into
    plan.entries. `seconds` is device time, `sampling_s` of them for what follows the forward pass, before which the device
    waited `host_s` since the end of the step before. `captured` steps ran as one graph, of which `padding` rows were empty.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob] | None
    prompt_scores: list[tuple[int, int, list[TokenLogprob]]]
    seconds: float
    host_s: float
    vectors: dict[int, bytes] = field(default_factory=dict)
    captured: bool = False
    padding: int = 0
    sampling_s: float = 0.0


Draw = Callable[[Seq[int], np.ndarray], None]
"""Called with rows among those that sample and their masks, int32 [rows, words], which it has read when the step ends."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way. `wait` blocks until it has ended and raises what it raised; `ended` tells whether that will block.

    Where a row has a grammar, only the forward pass has been started, and `draw` starts the rest; it must be called once.
    """

    plan: Plan
    wait: Callable[[], StepResult]
    ended: Callable[[], bool]
    draw: Draw | None = None


@dataclass(frozen=True, slots=True)
class _Outputs:
    tokens_R: torch.Tensor | None
    scores: Scores | None
    prompt: list[tuple[PromptScores, Scores]]
    pooled: tuple[PoolInputs, torch.Tensor] | None = None
    logits_RV: torch.Tensor | None = None  # between the halves of a step
    drawn_R: np.ndarray | None = None  # tokens that a graph leaves in host memory itself
    padding: int = -1  # empty rows of the graph; -1: there was none
    sampling_s: float = 0.0  # of the graph


class Runner:
    """One model on one device. `launch` is called from one thread only."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        filler: BatchFiller,
        table: torch.Tensor,
        thread: TorchThread | None,
        graphs: StepGraphs | None = None,
    ):
        """`table` is the token table, int32 [rows + 1, positions]. On a CPU steps run in `thread`; on a GPU it is None.

        `graphs` are the filler's too.
        """
        self._model = model
        self._cache = cache
        self._filler = filler
        self._table = table
        self._graphs = graphs
        self._first_row = torch.zeros(1, dtype=torch.int64, device=table.device)
        self._pooler = Pooler(table.shape[0])
        self._ended_at = 0.0  # time.perf_counter() of the last step's end, on a CPU
        self._ended: torch.cuda.Event | None = None  # the same on a GPU
        self._ended_before: torch.cuda.Event | None = None  # that of the step before the last
        self._marks = itertools.cycle(_marks(MARKED_STEPS)) if thread is None else None
        self._thread = thread
        self._masks: torch.Tensor | None = None
        self._out_of_memory = 0
        self.is_fresh = True  # no request had a step yet

    @property
    def captures(self) -> bool:
        """Whether steps of one token for each sequence run as graphs."""
        return self._graphs is not None

    def launch(self, plan: Plan, *, follows: bool = False) -> Launched:
        """Start `plan`. What it needs of the sequences is read before this returns.

        `follows`: there was work since the step before, so a gap between the two is the host's doing.
        """
        self.is_fresh = self.is_fresh and plan.step == WARM_UP_STEP
        if self._ended_before is not None:
            self._ended_before.synchronize()  # its host memory is used again; it has ended unless nobody waited for it
        inputs = self._filler.fill(plan)
        if plan.constrained and any(entry.samples and entry.sequence.constrained for entry in plan.entries):
            halves = _HalvesOnStream(self, inputs, follows) if self._thread is None else _HalvesHere(self, inputs, follows)
            return Launched(plan, halves.wait, halves.ended, halves.draw)
        if self._thread is None:
            return Launched(plan, *self._launch_on_stream(inputs, follows))
        running = self._thread.submit(self._run_here, inputs, follows)
        return Launched(plan, running.result, running.done)

    def mask_words(self, rows: int, words: int) -> np.ndarray:
        """Host memory for the masks of one step, int32 [rows, words]: the same at each call, free when the last step has ended."""
        if self._masks is None or self._masks.shape[1] != words:
            shape = (self._table.shape[0], words)
            self._masks = torch.empty(shape, dtype=torch.int32, pin_memory=self._table.is_cuda)
        return self._masks[:rows].numpy()

    @property
    def unprepared(self) -> bool:
        """Whether there are sizes for `prepare` to look at."""
        return self._graphs is not None and self._graphs.unprepared

    def prepare(self) -> bool:
        """Capture one more size of decode step, with nothing in flight; whether there are more to come."""
        return self._graphs is not None and self._graphs.prepare()

    @torch.inference_mode()
    def prepare_prompts(self, rows: int) -> None:
        """Let whole prompts padded to `rows` (kernels/attention_plan.py) not wait for a plan. On a GPU, with nothing in flight."""
        try:
            self._model.prepare_prompts(rows)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # nobody waits for it: the prompt that comes may fit

    def counters(self) -> dict[str, float]:
        """For metrics: what was captured, and steps that did not fit the memory."""
        found = self._graphs.counters() if self._graphs is not None else {}
        return found | ({"out_of_memory_total": float(self._out_of_memory)} if self._out_of_memory else {})

    def relieve(self, error: BaseException) -> bool:
        """After a step that raised `error`: if the device had no memory left, free what can be. Whether that was it."""
        if not isinstance(error, torch.OutOfMemoryError):
            return False
        self._out_of_memory += 1
        traceback.clear_frames(error.__traceback__)  # they hold the step's tensors
        torch.cuda.empty_cache()
        return True

    def close(self) -> None:
        """Wait for the last step, let the thread go and free the device. Safe to repeat."""
        if self._thread is not None:
            self._thread.close()
        for name in ("_graphs", "_filler", "_model", "_cache", "_table"):
            self.__dict__.pop(name, None)
        if self._thread is None:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run_here(self, inputs: StepInputs, follows: bool) -> StepResult:
        began = time.perf_counter()
        outputs = self._forward(inputs)
        forwarded = time.perf_counter()
        outputs = self._sample(inputs, outputs)
        host_s = began - self._ended_at if follows else 0.0
        ended = self._ended_at = time.perf_counter()
        return _to_host(outputs, ended - began, host_s, outputs.sampling_s or ended - forwarded)

    @torch.inference_mode()
    def _launch_on_stream(self, inputs: StepInputs, follows: bool) -> tuple[Callable[[], StepResult], Callable[[], bool]]:
        """`wait` and `ended` of the step."""
        assert self._marks is not None
        began, ended = next(self._marks)
        before = self._follow(ended)
        forwarded = torch.cuda.Event(enable_timing=True) if inputs.replay is None else None
        began.record()
        outputs = self._forward(inputs)
        if forwarded is not None:
            forwarded.record()
        outputs = self._sample(inputs, outputs)
        ended.record()
        staged, copied = outputs, ended
        if outputs.drawn_R is None:
            staged, copied = _stage(outputs), torch.cuda.Event()
            copied.record()

        def wait() -> StepResult:
            copied.synchronize()
            host_s = before.elapsed_time(began) / 1e3 if follows and before is not None else 0.0
            sampling_s = staged.sampling_s if forwarded is None else forwarded.elapsed_time(ended) / 1e3
            return _to_host(staged, began.elapsed_time(ended) / 1e3, host_s, sampling_s)

        return wait, lambda: _has_ended(copied)

    def _follow(self, ended: torch.cuda.Event) -> torch.cuda.Event | None:
        """Take note of the event that the step to be launched ends with; that of the step before."""
        before, self._ended = self._ended, ended
        self._ended_before = before
        return before

    def _forward(self, inputs: StepInputs) -> _Outputs:
        """The step itself. Nothing in here waits for the device, but for the routing of sparse layers (layers/moe.py)."""
        if inputs.copy_source is not None and inputs.copy_target is not None:
            copy_pages([*self._cache.k, *self._cache.v], inputs.copy_source, inputs.copy_target)
        if inputs.upload_tokens_U is not None:
            self._table[inputs.upload_rows_U, inputs.upload_columns_U] = inputs.upload_tokens_U
        if inputs.patch_places is not None and inputs.patch_pages is not None and self._graphs is not None:
            self._graphs.patch(inputs.patch_places, inputs.patch_pages)
        if (replay := inputs.replay) is not None:
            replay.run()
            logits_RV = replay.logits_RV
            if inputs.sample is None:
                logits_RV = None
            elif logits_RV is not None and len(inputs.sample.logit_rows_R) < len(logits_RV):
                logits_RV = logits_RV.index_select(0, inputs.sample.logit_rows_R)  # forced tokens are followed by known ones
            drawn_R, padding, sampling_s = replay.tokens_R, replay.padding, replay.sampling_s
            return _Outputs(None, None, [], logits_RV=logits_RV, drawn_R=drawn_R, padding=padding, sampling_s=sampling_s)
        packed = inputs.packed
        assert packed is not None
        rows_R = self._wanted_rows(inputs, len(packed.positions_T))
        batch = Batch(
            tokens_T=self._table[packed.table_rows_T, packed.positions_T].long(),
            positions_T=packed.positions_T,
            slots_T=packed.slots_T,
            ragged=packed.ragged,
            rows_R=rows_R,
        )
        hidden_TD = self._model.forward(batch, self._cache)
        prompt = [(part, self._score_prompt(hidden_TD, part)) for part in inputs.prompt_scores]
        pooled = (inputs.pool, self._pooler.pool(hidden_TD, inputs.pool)) if inputs.pool is not None else None
        if inputs.sample is None:
            return _Outputs(None, None, prompt, pooled)
        wanted_RD = hidden_TD if rows_R is not None else hidden_TD.index_select(0, inputs.sample.logit_rows_R)
        return _Outputs(None, None, prompt, pooled, self._model.logits(wanted_RD))

    def _wanted_rows(self, inputs: StepInputs, tokens: int) -> torch.Tensor | None:
        """The tokens whose final states a step of a GPU needs, where those are few: its last layer is computed for them alone."""
        if not self._table.is_cuda or inputs.prompt_scores or inputs.pool is not None:
            return None
        if inputs.sample is None:
            return self._first_row  # none, in fact
        return inputs.sample.logit_rows_R if len(inputs.sample.logit_rows_R) < tokens else None

    def _sample(self, inputs: StepInputs, outputs: _Outputs, mask: Mask | None = None) -> _Outputs:
        """The second half of a step: tokens of the logits, if there are any."""
        if inputs.sample is None or outputs.logits_RV is None:
            return outputs
        tokens_R, scores = sample_step(outputs.logits_RV, inputs.sample, self._table, mask)
        return replace(outputs, tokens_R=tokens_R, scores=scores, logits_RV=None)

    def _mask(self, rows: Seq[int], words: np.ndarray) -> Mask | None:
        device = self._table.device
        if not len(rows):
            return None
        index_B = torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
        return Mask(index_B, torch.from_numpy(words).to(device, non_blocking=True))

    def _score_prompt(self, hidden_TD: torch.Tensor, part: PromptScores) -> Scores:
        """Scores of the prompt tokens that follow the chunk's positions, a few rows of logits at a time."""
        found = []
        for begin in range(0, part.count, PROMPT_SCORE_ROWS):
            end = min(begin + PROMPT_SCORE_ROWS, part.count)
            logits = self._model.logits(hidden_TD[part.first_row + begin : part.first_row + end])
            following = self._table[part.row, part.start + begin + 1 : part.start + end + 1].long()
            found.append(score(logits, following, part.num_logprobs))
        return Scores(*(torch.cat([getattr(s, name) for s in found]) for name in Scores.__dataclass_fields__))


class _HalvesHere:
    """A step on a CPU whose second half waits for masks: two calls in the one thread. What the first raises, the second does."""

    def __init__(self, runner: Runner, inputs: StepInputs, follows: bool) -> None:
        assert runner._thread is not None
        self._runner, self._inputs, self._follows = runner, inputs, follows
        self._thread = runner._thread
        self._began = self._forwarded = 0.0
        self._first = self._thread.submit(self._forward)
        self._second: Future[StepResult] | None = None

    def draw(self, rows: Seq[int], words: np.ndarray) -> None:
        self._second = self._thread.submit(self._finish, rows, words)

    def wait(self) -> StepResult:
        assert self._second is not None, "a step was waited for before its masks were given"
        return self._second.result()

    def ended(self) -> bool:
        return self._second is not None and self._second.done()

    @torch.inference_mode()
    def _forward(self) -> _Outputs:
        self._began = time.perf_counter()
        outputs = self._runner._forward(self._inputs)
        self._forwarded = time.perf_counter()
        return outputs

    @torch.inference_mode()
    def _finish(self, rows: Seq[int], words: np.ndarray) -> StepResult:
        outputs = self._first.result()
        resumed = time.perf_counter()
        outputs = self._runner._sample(self._inputs, outputs, self._runner._mask(rows, words))
        ended = time.perf_counter()
        idle = resumed - self._forwarded
        host_s = self._began - self._runner._ended_at if self._follows else 0.0
        self._runner._ended_at = ended
        return _to_host(outputs, ended - self._began - idle, host_s + idle, ended - resumed)


class _HalvesOnStream:
    """A step on a GPU whose second half waits for masks: the forward pass is queued at once, the rest by `draw`."""

    @torch.inference_mode()
    def __init__(self, runner: Runner, inputs: StepInputs, follows: bool) -> None:
        self._runner, self._inputs, self._follows = runner, inputs, follows
        self._began, self._forwarded, self._resumed, self._ended, self._copied = (
            torch.cuda.Event(enable_timing=True) for _ in range(5)
        )
        self._before = runner._follow(self._ended)
        self._began.record()
        self._outputs = runner._forward(inputs)
        self._forwarded.record()
        self._drawn = False

    @torch.inference_mode()
    def draw(self, rows: Seq[int], words: np.ndarray) -> None:
        mask = self._runner._mask(rows, words)
        self._resumed.record()
        outputs = self._runner._sample(self._inputs, self._outputs, mask)
        self._ended.record()
        self._outputs = _stage(outputs)
        self._copied.record()
        self._drawn = True

    def wait(self) -> StepResult:
        assert self._drawn, "a step was waited for before its masks were given"
        self._copied.synchronize()
        idle = self._forwarded.elapsed_time(self._resumed) / 1e3
        host_s = self._before.elapsed_time(self._began) / 1e3 if self._follows and self._before is not None else 0.0
        sampling_s = self._resumed.elapsed_time(self._ended) / 1e3
        return _to_host(self._outputs, self._began.elapsed_time(self._ended) / 1e3 - idle, host_s + idle, sampling_s)

    def ended(self) -> bool:
        return self._drawn and _has_ended(self._copied)


def _marks(count: int) -> list[tuple[torch.cuda.Event, torch.cuda.Event]]:
    """Where steps begin and end. Made once: to make them takes a while after an idle moment, in which the device waits."""
    return [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]


def _has_ended(event: torch.cuda.Event) -> bool:
    try:
        return event.query()
    except RuntimeError:  # the device died of the step: whoever waits for it is told
        return True


def _stage(outputs: _Outputs) -> _Outputs:
    """The outputs in pinned host memory, filled asynchronously; valid after the stream has passed this point."""

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)

    def scores(found: Scores) -> Scores:
        return Scores(pinned(found.chosen_R), pinned(found.best_RK), pinned(found.best_tokens_RK))

    return _Outputs(
        pinned(outputs.tokens_R) if outputs.tokens_R is not None else None,
        scores(outputs.scores) if outputs.scores is not None else None,
        [(part, scores(found)) for part, found in outputs.prompt],
        (outputs.pooled[0], pinned(outputs.pooled[1])) if outputs.pooled is not None else None,
        padding=outputs.padding,
        sampling_s=outputs.sampling_s,
    )


def _to_host(outputs: _Outputs, seconds: float, host_s: float, sampling_s: float) -> StepResult:
    found = outputs.drawn_R if outputs.drawn_R is not None else outputs.tokens_R
    tokens = found.tolist() if found is not None else []
    return StepResult(
        tokens=tokens,
        logprobs=_logprobs(tokens, outputs.scores) if outputs.scores is not None else None,
        # Tokens of a prompt are known to the loop, which fills them in.
        prompt_scores=[(part.entry, part.start + 1, _logprobs([-1] * part.count, found)) for part, found in outputs.prompt],
        seconds=seconds,
        host_s=host_s,
        vectors=vectors(*outputs.pooled) if outputs.pooled is not None else {},
        captured=outputs.padding >= 0,
        padding=max(0, outputs.padding),
        sampling_s=sampling_s,
    )


def _logprobs(tokens: list[int], scores: Scores) -> list[TokenLogprob]:
    chosen, best, ids = scores.chosen_R.tolist(), scores.best_RK.tolist(), scores.best_tokens_RK.tolist()
    return [TokenLogprob(token, chosen[i], list(zip(ids[i], best[i], strict=True))) for i, token in enumerate(tokens)]
