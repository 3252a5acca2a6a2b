"""Writing into the paged KV cache: new tokens to their slots, and whole pages to others (copy-on-write).

    slot s is token s % S of page s // S; a negative slot is skipped (padding of a captured step)

One K and one V tensor per layer, [P, S, K, H] contiguous. Knows nothing of who owns a page. Open `write_kv` first.

T tokens, P pages, S tokens per page, K kv heads, H head size, M pages copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def write_kv(k_TKH: Tensor, v_TKH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, slots_T: Tensor) -> None:
    """Write token t of `k` and `v` to slot `slots[t]` (int64) of the caches. Slots of one call must differ.

    Heads of a token are contiguous; tokens may lie at any stride.
    """
    if use_triton(k_TKH):
        from redline.kernels import kv_write_triton

        return kv_write_triton.write_kv(k_TKH, v_TKH, k_cache_PSKH, v_cache_PSKH, slots_T)
    k_slots, v_slots = k_cache_PSKH.flatten(0, 1), v_cache_PSKH.flatten(0, 1)
    if slots_T.numel() and int(slots_T.min()) < 0:
        kept = slots_T >= 0
        k_TKH, v_TKH, slots_T = k_TKH[kept], v_TKH[kept], slots_T[kept]
    k_slots.index_copy_(0, slots_T, k_TKH)
    v_slots.index_copy_(0, slots_T, v_TKH)


def copy_pages(caches: list[Tensor], source_M: Tensor, target_M: Tensor) -> None:
    """Copy page `source[m]` to page `target[m]` in every cache [P, S, K, H] of the list. All pages are read before any is
    written, so a page may be both. int64, targets must differ. Rare, so plain torch on every device."""
    for cache_PSKH in caches:
        cache_PSKH.index_copy_(0, target_M, cache_PSKH.index_select(0, source_M))


def reference_write_kv(
    k_TKH: Tensor, v_TKH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, slots_T: Tensor
) -> tuple[Tensor, Tensor]:
    k_cache_PSKH, v_cache_PSKH = k_cache_PSKH.clone(), v_cache_PSKH.clone()
    page_size = k_cache_PSKH.shape[1]
    for token, slot in enumerate(slots_T.tolist()):
        if slot >= 0:
            k_cache_PSKH[slot // page_size, slot % page_size] = k_TKH[token]
            v_cache_PSKH[slot // page_size, slot % page_size] = v_TKH[token]
    return k_cache_PSKH, v_cache_PSKH


def reference_copy_pages(caches: list[Tensor], source_M: Tensor, target_M: Tensor) -> tuple[Tensor, ...]:
    copies = []
    for cache_PSKH in caches:
        copy = cache_PSKH.clone()
        for source, target in zip(source_M.tolist(), target_M.tolist(), strict=True):
            copy[target] = cache_PSKH[source]
        copies.append(copy)
    return tuple(copies)


def _write_kv_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Random distinct slots, every third negative where `SKIP` is set; k and v are slices of one projection."""
    tokens, page_size, heads, size = axes["T"], axes["S"], axes["K"], axes["H"]
    pages = tokens // page_size + 3
    qkv = random_tensor((tokens, 3 * heads * size), dtype, device, seed)
    _, k, v = qkv.view(tokens, 3, heads, size).unbind(1)
    slots_T = torch.randperm(pages * page_size, generator=torch.Generator().manual_seed(seed))[:tokens]
    if axes.get("SKIP"):
        slots_T[::3] = -1
    return {
        "k_TKH": k,
        "v_TKH": v,
        "k_cache_PSKH": random_tensor((pages, page_size, heads, size), dtype, device, seed + 1),
        "v_cache_PSKH": random_tensor((pages, page_size, heads, size), dtype, device, seed + 2),
        "slots_T": slots_T.to(device),
    }


def _copy_pages_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Random pages; sources may repeat and may be targets too."""
    pages = axes["M"] + 2
    generator = torch.Generator().manual_seed(seed)
    shape = (pages, axes["S"], axes["K"], axes["H"])
    return {
        "caches": [random_tensor(shape, dtype, device, seed + i) for i in range(axes["C"])],
        "source_M": torch.randint(pages, (axes["M"],), generator=generator).to(device),
        "target_M": torch.randperm(pages, generator=generator)[: axes["M"]].to(device),
    }


WRITE_KV = OpSpec(
    op=OPS["write_kv"],
    reference=reference_write_kv,
    run=write_kv,
    make_inputs=_write_kv_inputs,
    cases=(
        {"T": 1, "S": 1, "K": 1, "H": 64},
        {"T": 1, "S": 16, "K": 1, "H": 80, "SKIP": 1},
        {"T": 17, "S": 16, "K": 3, "H": 64, "SKIP": 1},
        {"T": 5, "S": 128, "K": 2, "H": 72},
        {"T": 3, "S": 4, "K": 9, "H": 256},
    ),
    tolerance="exact",
    triton="redline.kernels.kv_write_triton:write_kv",
    mutates=("k_cache_PSKH", "v_cache_PSKH"),
    batch_invariant=True,
)

COPY_PAGES = OpSpec(
    op=OPS["copy_pages"],
    reference=reference_copy_pages,
    run=copy_pages,
    make_inputs=_copy_pages_inputs,
    cases=({"C": 1, "M": 1, "S": 1, "K": 1, "H": 1}, {"C": 4, "M": 7, "S": 16, "K": 3, "H": 20}),
    tolerance="exact",
    mutates=("caches",),
)
