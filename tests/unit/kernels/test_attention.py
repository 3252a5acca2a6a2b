"""Paged attention on a CPU against plain scaled-dot-product attention, and what it must not read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from redline.kernels import attention
from redline.kernels.attention import make_ragged, paged_attention
from redline.kernels.tolerance import check

CPU = torch.device("cpu")


def test_one_whole_prompt_is_torchs_causal_attention() -> None:
    """An oracle that shares no code with the reference."""
    tokens, heads, kv_heads, size = 21, 6, 2, 16
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((tokens, n, size), generator=generator) for n in (heads, kv_heads, kv_heads))
    ragged, pages = make_ragged([tokens], [tokens], 4, CPU, seed=0)
    caches = torch.zeros((2, pages * 4, kv_heads, size))
    slots = ragged.page_table_BP[0, torch.arange(tokens) // 4].long() * 4 + torch.arange(tokens) % 4
    caches[0, slots], caches[1, slots] = k, v
    k_cache, v_cache = caches.view(2, pages, 4, kv_heads, size)
    expected = F.scaled_dot_product_attention(
        *(x.double().transpose(0, 1) for x in (q, k, v)), is_causal=True, scale=0.3, enable_gqa=True
    ).transpose(0, 1)
    for result in (paged_attention(q, k_cache, v_cache, ragged, 0.3), *attention.reference(q, k_cache, v_cache, ragged, 0.3)):
        check("output", expected, result, "attention", "f32")


@pytest.mark.parametrize("window", [0, 7])
def test_chunks_and_single_steps_give_what_the_whole_prompt_gives(window: int) -> None:
    """A prompt computed at once, in three chunks, and token by token."""
    total, size = 30, 8
    ragged, pages = make_ragged([total], [total], 4, CPU, seed=1)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn((total, 2, size), generator=generator)
    k_cache, v_cache = (torch.randn((pages, 4, 1, size), generator=generator) for _ in range(2))
    whole = paged_attention(q, k_cache, v_cache, ragged, 0.5, window)
    for ends in ([11, 12, 30], list(range(1, total + 1))):
        parts, start = [], 0
        for end in ends:
            layout = attention.Ragged(
                torch.tensor([0, end - start], dtype=torch.int32),
                torch.tensor([end], dtype=torch.int32),
                ragged.page_table_BP,
                end - start,
                end,
            )
            parts.append(paged_attention(q[start:end], k_cache, v_cache, layout, 0.5, window))
            start = end
        check("parts", whole, torch.cat(parts), "attention", "f32")


def test_decode_buckets_of_very_different_lengths() -> None:
    """Contexts from 1 to 700: several buckets, a bucket of one, and rows in their places."""
    contexts = [700, 1, 3, 650, 40, 17, 16, 300]
    ragged, pages = make_ragged([1] * 8, contexts, 16, CPU, seed=2)
    generator = torch.Generator().manual_seed(2)
    q = torch.randn((8, 4, 8), generator=generator)
    k_cache, v_cache = (torch.randn((pages, 16, 2, 8), generator=generator) for _ in range(2))
    (expected,) = attention.reference(q, k_cache, v_cache, ragged, 0.4)
    check("output", expected, paged_attention(q, k_cache, v_cache, ragged, 0.4), "attention", "f32")


def test_consecutive_pages_are_read_in_place() -> None:
    """The one-sequence fast path takes a view of the cache; it must end where the context does."""
    k_cache, v_cache = torch.full((2, 4, 4, 1, 8), torch.nan)
    generator = torch.Generator().manual_seed(3)
    k_cache.flatten(0, 1)[4:13] = torch.randn((9, 1, 8), generator=generator)
    v_cache.flatten(0, 1)[4:13] = torch.randn((9, 1, 8), generator=generator)
    ragged = attention.Ragged(
        torch.tensor([0, 1], dtype=torch.int32),
        torch.tensor([9], dtype=torch.int32),
        torch.tensor([[1, 2, 3]], dtype=torch.int32),
        max_query=1,
        max_context=9,
    )
    q = torch.randn((1, 2, 8), generator=generator)
    (expected,) = attention.reference(q, k_cache, v_cache, ragged, 0.4)
    check("output", expected, paged_attention(q, k_cache, v_cache, ragged, 0.4), "attention", "f32")


def test_one_layout_serves_layers_with_and_without_a_window() -> None:
    """Gemma's local and global layers share a step's layout: what is kept from one must not leak into the other."""
    inputs = attention.make_inputs({"B": 3, "Q": 4, "C": 60, "N": 2, "K": 1, "H": 8, "S": 4, "W": 0}, torch.float32, CPU, seed=4)
    for window in (0, 9, 0, 9):
        inputs["window"] = window
        check("output", attention.reference(**inputs)[0], paged_attention(**inputs), "attention", "f32")
