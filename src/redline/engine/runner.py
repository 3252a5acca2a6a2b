"""Runs planned steps on one device: copies, forward pass, sampling. Owns the KV cache and the token table.

`launch` returns at once and `Launched.wait` gives the step's results, so the loop can work on the host meanwhile: on a
GPU the step is queued on the stream, on a CPU it runs in the runner's one thread. Either way steps run in the order of
their launches, which is what makes page reuse and device-side tokens safe. Knows nothing of requests' ends, text or
sockets. Open `Runner.launch` first. Shapes: T packed tokens, R rows that sample, D model size, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from redline.engine.batch import BatchFiller, PromptScores, StepInputs
from redline.engine.sampler import Scores, sample_step, score
from redline.engine.scheduler import Plan
from redline.engine.torch_thread import TorchThread
from redline.kernels.kv_write import copy_pages
from redline.layers.batch import Batch, KVCache
from redline.models.registry import Model
from redline.plan.memory import PROMPT_SCORE_ROWS
from redline.types import TokenLogprob


@dataclass(frozen=True, slots=True)
class StepResult:
    """One launched step, on the host: a token (and its score, where asked for) per sampling entry, in plan order.

    `prompt_scores` holds (index into plan.entries, first position scored, scores). `seconds` is device time, before
    which the device waited `host_s` since the end of the step before.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob] | None
    prompt_scores: list[tuple[int, int, list[TokenLogprob]]]
    seconds: float
    host_s: float


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way. `wait` blocks until it has ended and raises what it raised."""

    plan: Plan
    wait: Callable[[], StepResult]


@dataclass(frozen=True, slots=True)
class _Outputs:
    tokens_R: torch.Tensor | None
    scores: Scores | None
    prompt: list[tuple[PromptScores, Scores]]


class Runner:
    """One model on one device. `launch` is called from one thread only."""

    def __init__(self, model: Model, cache: KVCache, filler: BatchFiller, table: torch.Tensor, thread: TorchThread | None):
        """`table` is the token table, int32 [rows, positions]. On a CPU steps run in `thread`; on a GPU it is None."""
        self._model = model
        self._cache = cache
        self._filler = filler
        self._table = table
        self._ended_at = 0.0  # time.perf_counter() of the last step's end, on a CPU
        self._ended: torch.cuda.Event | None = None  # the same on a GPU
        self._thread = thread

    def launch(self, plan: Plan, *, follows: bool = False) -> Launched:
        """Start `plan`. What it needs of the sequences is read before this returns.

        `follows`: there was work since the step before, so a gap between the two is the host's doing.
        """
        inputs = self._filler.fill(plan)
        if self._thread is None:
            return Launched(plan, self._launch_on_stream(inputs, follows))
        return Launched(plan, self._thread.submit(self._run_here, inputs, follows).result)

    def close(self) -> None:
        """Wait for the last step and let the thread go."""
        if self._thread is not None:
            self._thread.close()

    @torch.inference_mode()
    def _run_here(self, inputs: StepInputs, follows: bool) -> StepResult:
        began = time.perf_counter()
        outputs = self._forward(inputs)
        host_s = began - self._ended_at if follows else 0.0
        self._ended_at = time.perf_counter()
        return _to_host(outputs, self._ended_at - began, host_s)

    @torch.inference_mode()
    def _launch_on_stream(self, inputs: StepInputs, follows: bool) -> Callable[[], StepResult]:
        began, ended, copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        before, self._ended = self._ended, ended
        began.record()
        outputs = self._forward(inputs)
        ended.record()
        staged = _stage(outputs)
        copied.record()

        def wait() -> StepResult:
            copied.synchronize()
            host_s = before.elapsed_time(began) / 1e3 if follows and before is not None else 0.0
            return _to_host(staged, began.elapsed_time(ended) / 1e3, host_s)

        return wait

    def _forward(self, inputs: StepInputs) -> _Outputs:
        """The step itself. Nothing in here waits for the device, but for the routing of sparse layers (layers/moe.py)."""
        if inputs.copy_source is not None and inputs.copy_target is not None:
            copy_pages([*self._cache.k, *self._cache.v], inputs.copy_source, inputs.copy_target)
        if inputs.upload_tokens_U is not None:
            self._table[inputs.upload_rows_U, inputs.upload_columns_U] = inputs.upload_tokens_U
        batch = Batch(
            tokens_T=self._table[inputs.table_rows_T, inputs.positions_T].long(),
            positions_T=inputs.positions_T,
            slots_T=inputs.slots_T,
            ragged=inputs.ragged,
        )
        hidden_TD = self._model.forward(batch, self._cache)
        prompt = [(part, self._score_prompt(hidden_TD, part)) for part in inputs.prompt_scores]
        if inputs.sample is None:
            return _Outputs(None, None, prompt)
        logits_RV = self._model.logits(hidden_TD.index_select(0, inputs.sample.logit_rows_R))
        tokens_R, scores = sample_step(logits_RV, inputs.sample, self._table)
        return _Outputs(tokens_R, scores, prompt)

    def _score_prompt(self, hidden_TD: torch.Tensor, part: PromptScores) -> Scores:
        """Scores of the prompt tokens that follow the chunk's positions, a few rows of logits at a time."""
        found = []
        for begin in range(0, part.count, PROMPT_SCORE_ROWS):
            end = min(begin + PROMPT_SCORE_ROWS, part.count)
            logits = self._model.logits(hidden_TD[part.first_row + begin : part.first_row + end])
            following = self._table[part.row, part.start + begin + 1 : part.start + end + 1].long()
            found.append(score(logits, following, part.num_logprobs))
        return Scores(*(torch.cat([getattr(s, name) for s in found]) for name in Scores.__dataclass_fields__))


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
    )


def _to_host(outputs: _Outputs, seconds: float, host_s: float) -> StepResult:
    tokens = outputs.tokens_R.tolist() if outputs.tokens_R is not None else []
    return StepResult(
        tokens=tokens,
        logprobs=_logprobs(tokens, outputs.scores) if outputs.scores is not None else None,
        # Tokens of a prompt are known to the loop, which fills them in.
        prompt_scores=[(part.entry, part.start + 1, _logprobs([-1] * part.count, found)) for part, found in outputs.prompt],
        seconds=seconds,
        host_s=host_s,
    )


def _logprobs(tokens: list[int], scores: Scores) -> list[TokenLogprob]:
    chosen, best, ids = scores.chosen_R.tolist(), scores.best_RK.tolist(), scores.best_tokens_RK.tolist()
    return [TokenLogprob(token, chosen[i], list(zip(ids[i], best[i], strict=True))) for i, token in enumerate(tokens)]
