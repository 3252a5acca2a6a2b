"""Attention over the cache on a GPU, run by run: who computes which sequences of a step.

Prompts and chunks of them in bf16 on a Hopper card are for our own kernel (prompt_attention_cuda.py) once it has been held against float32; everything
else, and what fails, is for Triton's (attention_triton.py). Knows nothing of whole prompts. Open `attend_run`. Legend as in attention.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redline.errors import RedlineError
from redline.kernels import attention_plan, attention_triton, whole_attention
from redline.kernels.attention_plan import DECODE_QUERIES, Run
from redline.kernels.ragged import Ragged


def paged_attention(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> Tensor:
    """See attention.paged_attention. One run for each kind of sequence that the host knows of; no synchronisation."""
    output_TNH = torch.empty(q_TNH.shape, dtype=q_TNH.dtype, device=q_TNH.device)
    for run in runs_of(ragged, q_TNH.shape[0]):
        attend_run(run, q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window, output_TNH)
    return output_TNH


def runs_of(ragged: Ragged, tokens: int) -> tuple[Run, ...]:
    """The sequences of a step of T tokens: one run where the host does not know their lengths, as in a captured step, or none has many queries."""
    if ragged.lengths is None or ragged.max_query <= DECODE_QUERIES:
        return (Run(0, len(ragged.context_B), 0, tokens, ragged.max_query, ragged.max_context),)
    if "runs" not in ragged.plans:
        ragged.plans["runs"] = attention_plan.paged_runs(ragged.lengths)
    runs: tuple[Run, ...] = ragged.plans["runs"]
    return runs


def attend_run(
    run: Run,
    q_TNH: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    scale: float,
    window: int,
    output_TNH: Tensor,
) -> None:
    """Attention of some of the sequences, into their rows of `output`."""
    few = 1 if run.last - run.first == 1 else DECODE_QUERIES  # many sequences of few tokens are not measured
    if not window and run.max_query > few and whole_attention.may_page(q_TNH, k_cache_PSKH):
        from redline.kernels import prompt_attention_cuda

        own = slice(run.start, run.stop)
        try:
            prompt_attention_cuda.attend_run(run, q_TNH[own], k_cache_PSKH, v_cache_PSKH, ragged, scale, output_TNH[own])
            return
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, RedlineError) as error:
            whole_attention.distrust_paging(q_TNH, k_cache_PSKH, error)
    attention_triton.attend_run(run, q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window, output_TNH)
