"""Attention of whole prompts, from q, k and v as they come from the projection; the cache is only for the others.

There are two ways, on Hopper and later one or both: our own kernel (prompt_attention_cuda.py), and cuDNN's, which has more sizes of heads and cards. cuDNN's
is reached through torch, whose plans are kept per thread and by exact shape, and built in 40 ms: so prompts are computed as one of few lengths
(attention_plan.py), for which plans can be made ahead (`prepare`). Both read a prompt's neighbour, or the zeroes below the last token, with a weight of
exactly 0; 0 times infinity would not be 0, so only bfloat16 comes here, whose range no activation leaves.

Nothing of this is taken on trust, and neither is our own kernel for keys in pages (paged_runs.py): per device and kind of heads each way is held against
float32 once, and what fails, then or later, is logged and left to the other or to Triton's paged kernel. Open `plan`, then `attend`. Legend as in attention.py; R rows of T tokens and
the tail below them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redline import log
from redline.errors import RedlineError
from redline.kernels import attention_plan, op
from redline.kernels.attention_plan import Run, Split, Whole
from redline.kernels.op import HOPPER
from redline.kernels.ragged import Ragged
from redline.kernels.tolerance import TOLERANCES, rms_ratio

LEAST_CAPABILITY = 90
MOST_HEAD_SIZE = 256
NAME = "attention of whole prompts"
OWN, PAGES, CUDNN = "our kernel", "our kernel over pages", "cuDNN"
OWN_SIZES = (64, 128)  # of heads, on Hopper

PAGE_SIZE = 64  # of the check: the engine's own

MOST_NARROW_TOKENS = 4096
"""Of prompts taken together whose heads have fewer than 128 numbers, by our own kernel: with more, cuDNN is up to 7 % faster (H200)."""

Kind = tuple[torch.device, int, int, int]  # N, K, H

_trusted: dict[tuple[str, Kind], bool] = {}


def plan(ragged: Ragged, window: int, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Split | None:
    """How to split the step, or None where no prompt of it is for these kernels. `heads`: N, K, H.

    The first call for a kind of heads makes the checks, and waits for them.
    """
    if ragged.lengths is None or ragged.max_query < attention_plan.WHOLE_TOKENS:
        return None
    key = ("whole", window, heads)
    if key not in ragged.plans:
        split = attention_plan.split(ragged.lengths, window)
        usable = split.wholes and any(_may(way, (device, *heads), dtype) for way in (OWN, CUDNN))
        ragged.plans[key] = split if usable else None
    planned: Split | None = ragged.plans[key]
    return planned


def attend(
    split: Split,
    heads: tuple[Tensor, Tensor, Tensor],
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    scale: float,
    window: int,
) -> Tensor:
    """[T, N, H] of all sequences; `heads` are q, k and v of R rows, the keys and values are in the cache too."""
    from redline.kernels import paged_runs

    tokens = heads[0].shape[0] - split.tail
    q_TNH = heads[0][:tokens]
    kind = (q_TNH.device, q_TNH.shape[1], *k_cache_PSKH.shape[2:])
    output_TNH = torch.empty_like(q_TNH)
    for whole in split.wholes:
        way = _way(whole, kind, q_TNH.dtype)
        try:
            if way == CUDNN and whole.count * whole.length == tokens:
                return _whole(whole, *heads, scale)[:, : whole.length].reshape(q_TNH.shape)
            _take(way, whole, heads, scale, output_TNH)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, RedlineError) as error:
            _distrust(way, kind, f"{way} failed: {_first_line(error)}")
            ragged.plans.pop(("whole", window, kind[1:]), None)
            return paged_runs.paged_attention(q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)
    for run in split.runs:
        paged_runs.attend_run(run, q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window, output_TNH)
    return output_TNH


def prepare(rows: int, heads: tuple[int, int, int], scale: float, dtype: torch.dtype, device: torch.device) -> None:
    """Have cuDNN plan for a prompt of that many rows (attention_plan.py), in this thread, so that none has to wait for it."""
    kind = (device, *heads)
    if not any(_may(way, kind, dtype) for way in (OWN, CUDNN)) or _way(Whole(0, 1, rows, rows), kind, dtype) != CUDNN:
        return
    num_heads, kv_heads, size = heads
    q_RNH = torch.zeros((rows, num_heads, size), dtype=dtype, device=device)
    k_RKH = torch.zeros((rows, kv_heads, size), dtype=dtype, device=device)
    try:
        _whole(Whole(0, 1, rows, rows), q_RNH, k_RKH, k_RKH, scale)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _distrust(CUDNN, kind, f"cuDNN failed: {_first_line(error)}")


def _way(whole: Whole, kind: Kind, dtype: torch.dtype) -> str:
    """By whom these prompts are taken, of those that may."""
    is_own = kind[3] >= 128 or whole.count * whole.length <= MOST_NARROW_TOKENS or not _may(CUDNN, kind, dtype)
    return OWN if is_own and _may(OWN, kind, dtype) else CUDNN


def _take(way: str, whole: Whole, heads: tuple[Tensor, Tensor, Tensor], scale: float, output_TNH: Tensor) -> None:
    """Write the rows of `whole`."""
    if way == OWN:
        from redline.kernels import prompt_attention_cuda

        prompt_attention_cuda.attend(whole, *heads, scale, output_TNH)
    else:
        rows_BLNH = output_TNH[whole.start : whole.stop].view(whole.count, whole.length, *output_TNH.shape[1:])
        rows_BLNH.copy_(_whole(whole, *heads, scale)[:, : whole.length])


def _whole(whole: Whole, q_RNH: Tensor, k_RKH: Tensor, v_RKH: Tensor, scale: float) -> Tensor:
    """[count, rows, N, H] by cuDNN; past a prompt's length it is meaningless."""
    q, k, v = (_prompts(x, whole) for x in (q_RNH, k_RKH, v_RKH))
    return causal(q, k, v, scale).transpose(1, 2)


def _prompts(x_RMH: Tensor, whole: Whole) -> Tensor:
    """[count, M, rows, H] of consecutive rows, with the same strides wherever they begin: they are part of cuDNN's plan."""
    heads, size = x_RMH.shape[1:]
    row = heads * size
    offset = x_RMH.storage_offset() + whole.start * row
    return x_RMH.as_strided((whole.count, heads, whole.rows, size), (whole.rows * row, size, row, 1), offset)


def causal(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, scale: float) -> Tensor:
    """Causal attention with grouped heads by cuDNN, laid out as q is. Raises RuntimeError where it cannot.

    By its name, not through `scaled_dot_product_attention`: choosing a backend takes longer than a short prompt.
    """
    found: tuple[Tensor, ...] = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q_BNLH, k_BKLH, v_BKLH, None, False, 0.0, True, False, scale=scale
    )
    return found[0]


def may_page(q_TNH: Tensor, k_cache_PSKH: Tensor) -> bool:
    """Whether our own kernel may take prompts through this cache."""
    if not q_TNH.is_contiguous() or k_cache_PSKH.dtype is not q_TNH.dtype:
        return False
    if not _may(PAGES, _kind_of(q_TNH, k_cache_PSKH), q_TNH.dtype):
        return False
    from redline.kernels import prompt_attention_cuda  # which is there if it is trusted

    return prompt_attention_cuda.takes_pages(k_cache_PSKH.shape[1])


def distrust_paging(q_TNH: Tensor, k_cache_PSKH: Tensor, error: Exception) -> None:
    """It failed: no more prompts for it."""
    _distrust(PAGES, _kind_of(q_TNH, k_cache_PSKH), f"{PAGES} failed: {_first_line(error)}")


def _kind_of(q_TNH: Tensor, k_cache_PSKH: Tensor) -> Kind:
    return q_TNH.device, q_TNH.shape[1], *k_cache_PSKH.shape[2:]


def _may(way: str, kind: Kind, dtype: torch.dtype) -> bool:
    """Whether there is such a kernel for these heads, and it is right."""
    return _supports(way, kind, dtype) and _is_trusted(way, kind)


def _supports(way: str, kind: Kind, dtype: torch.dtype) -> bool:
    device, *heads = kind
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return False
    capability = op.device_of(device).target.capability
    if way in (OWN, PAGES):
        return capability == HOPPER and heads[2] in OWN_SIZES
    return capability >= LEAST_CAPABILITY and heads[2] <= MOST_HEAD_SIZE and heads[2] % 8 == 0


def _is_trusted(way: str, kind: Kind) -> bool:
    if (way, kind) not in _trusted:
        if kind[0].type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # a check would wait for the device
        _trusted[way, kind] = True
        try:
            error = check(way, kind)
            if not error <= TOLERANCES["attention"]["bf16"]:  # written so that NaN fails
                _distrust(way, kind, f"{way}'s results differ from float32 by more than the tolerance")
        except torch.OutOfMemoryError:
            del _trusted[way, kind]
            raise
        except (RuntimeError, RedlineError, ImportError) as error:
            _distrust(way, kind, f"{way} cannot: {_first_line(error)}")
    return _trusted[way, kind]


def _distrust(way: str, kind: Kind, reason: str) -> None:
    _trusted[way, kind] = False
    log.fallback(NAME, reason)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check(way: str, kind: Kind) -> float:
    """The largest RMS error over RMS of the reference: two prompts together, and one read past its end; of pages, two chunks together."""
    if way == PAGES:
        return _check_pages(kind)
    device, heads, kv_heads, size = kind
    rows = attention_plan.WHOLE_TOKENS
    generator = torch.Generator().manual_seed(0)

    def random(count: int) -> Tensor:
        return torch.randn((2 * rows, count, size), generator=generator).to(device, torch.bfloat16)

    q, k, v = random(heads), random(kv_heads), random(kv_heads)
    scale = size**-0.5
    errors = []
    for whole in (Whole(0, 2, rows, rows), Whole(rows - 5, 1, rows - 3, rows)):
        output = torch.empty_like(q)
        _take(way, whole, (q, k, v), scale, output)
        for b in range(whole.count):
            part = slice(whole.start + b * whole.length, whole.start + (b + 1) * whole.length)
            errors.append(rms_ratio(_exact(q[part], k[part], v[part], scale), output[part]))
    return max(errors, key=lambda error: (error != error, error))  # a NaN above all


def _check_pages(kind: Kind) -> float:
    from redline.kernels import attention, prompt_attention_cuda

    device, heads, kv_heads, size = kind
    axes = {"B": 2, "Q": 70, "C": 400, "N": heads, "K": kv_heads, "H": size, "S": PAGE_SIZE, "W": 0, "DENSE": 1}
    inputs = attention.make_inputs(axes, torch.bfloat16, device, 1)
    q, ragged, scale = inputs["q_TNH"], inputs["ragged"], inputs["scale"]
    caches, output = (inputs["k_cache_PSKH"], inputs["v_cache_PSKH"]), torch.empty_like(q)
    run = Run(0, 2, 0, len(q), ragged.max_query, ragged.max_context)
    prompt_attention_cuda.attend_run(run, q, *caches, ragged, scale, output)
    (expected,) = attention.reference(q, *caches, ragged, scale)
    return rms_ratio(expected, output)


def _exact(q_LNH: Tensor, k_LKH: Tensor, v_LKH: Tensor, scale: float) -> Tensor:
    length, group = q_LNH.shape[0], q_LNH.shape[1] // k_LKH.shape[1]
    k_LNH, v_LNH = (x.double().repeat_interleave(group, 1) for x in (k_LKH, v_LKH))
    score_NLL = torch.einsum("qnh,knh->nqk", q_LNH.double() * scale, k_LNH)
    hidden_LL = torch.ones((length, length), dtype=torch.bool, device=q_LNH.device).triu(1)
    return torch.einsum("nqk,knh->qnh", score_NLL.masked_fill(hidden_LL, -torch.inf).softmax(-1), v_LNH).float()
