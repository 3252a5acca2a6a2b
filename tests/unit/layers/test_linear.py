"""Merged projections: which rows a checkpoint tensor fills, which share a rank holds, and the CPU's way with one row."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from redline import log
from redline.errors import ConfigError
from redline.kernels.tolerance import check
from redline.layers import linear as layers_linear
from redline.layers.linear import ColumnLinear, RowLinear, linear
from redline.layers.weights import Place
from redline.parallel.ranks import Ranks

CPU = torch.device("cpu")


def _place(rank: int, size: int) -> Place:
    return Place(torch.float32, CPU, Ranks(rank, size))


def test_each_rank_of_a_column_cut_holds_its_share_of_every_part() -> None:
    """The ranks' outputs, put back part by part, are the whole projections' outputs."""
    whole = {"q.weight": torch.randn(8, 6), "k.weight": torch.randn(4, 6), "q.bias": torch.randn(8), "k.bias": torch.randn(4)}
    x = torch.randn(3, 6)
    shares = []
    for rank in range(2):
        layer = ColumnLinear(6, {"q": 8, "k": 4}, True, _place(rank, 2))
        slots = dict(layer.slots("p"))
        assert set(slots) == {f"p.{name}" for name in whole}
        for name, tensor in whole.items():
            slots[f"p.{name}"].target.copy_(slots[f"p.{name}"].part(tensor))
        shares.append(layer(x).split((4, 2), dim=1))
    for part, name in enumerate("qk"):
        got = torch.cat([share[part] for share in shares], dim=1)
        torch.testing.assert_close(got, x @ whole[f"{name}.weight"].T + whole[f"{name}.bias"])


def test_partial_sums_of_a_row_cut_add_up_and_the_bias_is_added_once() -> None:
    weight, bias, x = torch.randn(5, 8), torch.randn(5), torch.randn(3, 8)
    partial = []

    class Listening(Ranks):
        def all_reduce(self, part: torch.Tensor) -> torch.Tensor:
            partial.append(part)
            return part

    for rank in range(4):
        layer = RowLinear(8, 5, True, Place(torch.float32, CPU, Listening(rank, 4)))
        for name, slot in layer.slots("o"):
            slot.target.copy_(slot.part(weight if name == "o.weight" else bias))
        layer(x[:, 2 * rank : 2 * rank + 2])
    torch.testing.assert_close(torch.stack(partial).sum(0), x @ weight.T + bias)


def test_a_dimension_that_does_not_divide_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"outputs of k \(3\) cannot be shared by 2 devices"):
        ColumnLinear(6, {"q": 8, "k": 3}, False, _place(0, 2))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_products_meet_the_tolerance_whatever_library_makes_them(rows: int, dtype: str, bias: bool) -> None:
    """One row and many, of strided input too, are right to one rounding, and the process's oneDNN switch is as it was."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    generator = torch.Generator().manual_seed(0)
    x_TK = torch.randn(rows, 300, generator=generator).to(kind)[:, 20:277]
    weight_NK = torch.randn(33, 257, generator=generator).to(kind)
    bias_N = torch.randn(33, generator=generator).to(kind) if bias else None
    expected = x_TK.double() @ weight_NK.double().T + (bias_N.double() if bias_N is not None else 0.0)
    before = torch._C._get_mkldnn_enabled()
    check("linear", expected, linear(x_TK, weight_NK, bias_N), "elementwise", dtype)
    assert torch._C._get_mkldnn_enabled() is before


@pytest.mark.parametrize(
    ("rows", "outputs", "threads", "parts"),
    [(1, 12, 2, 2), (3, 12, 4, 4), (4, 12, 8, 4), (0, 6, 3, 3), (5, 12, 2, 0), (2, 7, 2, 0)],
)
def test_few_rows_of_float32_have_each_output_once_however_many_threads(
    rows: int, outputs: int, threads: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs that the threads cannot share evenly, and more rows, take the other way."""
    taken: list[int] = []
    by_threads = layers_linear._by_threads
    monkeypatch.setattr(layers_linear, "_leaves_few_rows_to_mkl", lambda: True)
    monkeypatch.setattr(layers_linear, "_by_threads", lambda *args: taken.append(args[-1]) or by_threads(*args))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight, bias = torch.randn(rows, 5), torch.randn(outputs, 5), torch.randn(outputs)
    for added in (None, bias):
        got = linear(x, weight, added)
        assert got.is_contiguous() and got.shape == (rows, outputs)
        torch.testing.assert_close(got, x @ weight.T + (0 if added is None else added))
    assert taken == ([parts, parts] if parts else [])


def test_a_torch_without_onednn_is_told_once_and_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(log, "FALLBACKS", Counter())
    layers_linear._onednn_linear.cache_clear()
    try:
        x, weight = torch.randn(3, 8), torch.randn(5, 8)
        for _ in range(2):
            torch.testing.assert_close(linear(x, weight), x @ weight.T)
        assert [name for name, _ in log.FALLBACKS.elements()] == ["linear"]
    finally:
        layers_linear._onednn_linear.cache_clear()
