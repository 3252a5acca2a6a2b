"""Every kernel on a real card: the unit tests' cases in every type, and the sizes a CPU cannot reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

import kernel_checks
from redline.kernels import all_specs, attention, philox, sample, skinny
from redline.kernels.op import DTYPES
from redline.kernels.tolerance import check

pytestmark = pytest.mark.gpu

SPECS = all_specs()


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.parametrize(("name", "dtype", "case"), kernel_checks.every_case())
def test_wrapper_matches_reference(name: str, dtype: str, case: Mapping[str, int], cuda: torch.device) -> None:
    kernel_checks.check_case(SPECS[name], SPECS[name].run, dtype, case, cuda)


@pytest.mark.parametrize("name", kernel_checks.INVARIANT_AXES)
def test_batch_invariance_holds_where_claimed(name: str, cuda: torch.device) -> None:
    """A row alone and inside a batch of 64: the same bits."""
    kernel_checks.check_batch_invariant(SPECS[name], SPECS[name].run, kernel_checks.INVARIANT_AXES[name], cuda)


CUTS = [*((columns, 2) for columns in (256, 192, 128, 96, 64)), (192, 1), (128, 1)]


@pytest.mark.parametrize(("columns", "cluster"), CUTS)
@pytest.mark.parametrize("biased", [0, 1])
def test_products_of_many_rows_however_they_are_cut(
    columns: int, cluster: int, biased: int, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles that reach past the last row and the last output, one tile for a block and several, inputs that are no whole steps; the same bits in every form."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("kernels are Hopper's")
    from redline.kernels import many_rows_cuda

    assert [many_rows_cuda.Form(*cut) for cut in CUTS] == list(many_rows_cuda.FORMS)
    form, narrow = many_rows_cuda.Form(columns, cluster), many_rows_cuda.Form(64, 2)
    for spec, outputs in ((skinny.LINEAR, "N"), (skinny.ADD, "N"), (skinny.GATED, "F")):
        for rows, count, inputs in ((1100, 5008, 328), (300, 272, 200), (129, 16, 1032)):
            case = {"T": rows, outputs: count, "K": inputs, "Z": 7, "BIAS": biased, "GELU": biased}
            monkeypatch.setattr(many_rows_cuda, "form_for", lambda *product: form)
            kernel_checks.check_case(spec, spec.run, "bf16", case, cuda)
            given = [spec.make_inputs(case, torch.bfloat16, cuda, seed=2) for _ in range(2)]
            found = spec.results(spec.run, given[0])[0]
            monkeypatch.setattr(many_rows_cuda, "form_for", lambda *product: narrow)
            assert torch.equal(found, spec.results(spec.run, given[1])[0])


LARGE = [
    {"B": 1, "Q": 1, "C": 32768, "N": 32, "K": 8, "H": 128, "S": 16, "W": 0},
    {"B": 64, "Q": 1, "C": 4096, "N": 32, "K": 8, "H": 128, "S": 16, "W": 0},
    {"B": 64, "Q": 1, "C": 1500, "N": 9, "K": 3, "H": 64, "S": 16, "W": 0},
    {"B": 8, "Q": 1, "C": 9000, "N": 4, "K": 1, "H": 256, "S": 16, "W": 512},
    {"B": 4, "Q": 16, "C": 8192, "N": 32, "K": 8, "H": 128, "S": 64, "W": 0},
    {"B": 1, "Q": 700, "C": 32768, "N": 8, "K": 2, "H": 128, "S": 16, "W": 0},
    {"B": 5, "Q": 600, "C": 3000, "N": 14, "K": 2, "H": 64, "S": 16, "W": 0, "EMPTY": 1, "PAD": 7},
    {"B": 3, "Q": 500, "C": 2500, "N": 8, "K": 4, "H": 96, "S": 16, "W": 1024},
    {"B": 3, "Q": 300, "C": 2000, "N": 4, "K": 2, "H": 256, "S": 32, "W": 0},
]


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("case", LARGE, ids=lambda case: "-".join(f"{axis}{value}" for axis, value in case.items()))
def test_attention_of_serving_sizes(case: Mapping[str, int], dtype: str, cuda: torch.device) -> None:
    kernel_checks.check_case(attention.SPEC, attention.paged_attention, dtype, case, cuda)


def test_cache_offsets_beyond_32_bits(cuda: torch.device) -> None:
    """Pages whose first element lies past 2^31: narrow index arithmetic would read another sequence's keys."""
    case = {"B": 2, "Q": 1, "C": 100, "N": 8, "K": 2, "H": 128, "S": 16, "W": 0}
    inputs = attention.make_inputs(case, torch.bfloat16, cuda, seed=0)
    expected = attention.reference(**inputs)[0]
    shift = (1 << 31) // inputs["k_cache_PSKH"][0].numel() + 3
    for name in ("k_cache_PSKH", "v_cache_PSKH"):
        small = inputs[name]
        large = torch.empty((shift + len(small), *small.shape[1:]), dtype=small.dtype, device=cuda)
        large[shift:] = small
        inputs[name] = large
    table = inputs["ragged"].page_table_BP
    table += torch.where(table < 1 << 30, shift, 0).to(torch.int32)
    check("output", expected, attention.paged_attention(**inputs), "attention", "bf16")


def test_uniform_numbers_are_the_cpus_bits(cuda: torch.device) -> None:
    """The torch twin on the card and the Triton twin: bit for bit what a CPU draws."""
    from uniform_kernel import write_tile

    seed_B = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789123456789])
    position_B = torch.tensor([0, 5, 2**40 + 3, 2**31, 1, 2**32 - 1])
    expected = philox.uniform_rows(seed_B, position_B, 3 * philox.TILE)
    assert torch.equal(philox.uniform_rows(seed_B.to(cuda), position_B.to(cuda), 3 * philox.TILE).cpu(), expected)
    got = torch.empty((len(seed_B), philox.TILE), device=cuda)
    write_tile[(len(seed_B),)](got, seed_B.to(cuda), position_B.to(cuda), 2, LANE=philox.BLOCKS_PER_TILE)
    assert torch.equal(got.cpu(), expected[:, 2 * philox.TILE :])


@pytest.mark.parametrize("vocab_size", [49152, 128256, 151936])
def test_card_and_cpu_draw_the_same_tokens(vocab_size: int, cuda: torch.device) -> None:
    """The same request gives the same tokens on either device: 64 rows, truncated in every way and not at all."""
    on_cpu = sample.make_inputs({"B": 64, "V": vocab_size}, torch.float32, torch.device("cpu"), seed=5)
    on_card = sample.make_inputs({"B": 64, "V": vocab_size}, torch.float32, cuda, seed=5)
    assert torch.equal(sample.sample(**on_card).cpu(), sample.sample(**on_cpu))


def test_a_step_is_captured_in_a_graph(cuda: torch.device) -> None:
    """No wrapper synchronises or allocates what a CUDA graph cannot hold; a replay sees new inputs."""
    inputs = [spec.make_inputs(spec.cases[-1], DTYPES[spec.op.dtypes[0]], cuda, 0) for spec in SPECS.values()]

    def step() -> list[Any]:
        return [spec.run(**arguments) for spec, arguments in zip(SPECS.values(), inputs, strict=True)]

    step()  # compiles
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    number = list(SPECS).index("silu_mul")
    inputs[number]["gate_up_T2F"].mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    expected = SPECS["silu_mul"].reference(**inputs[number])[0]
    check("replayed", expected, results[number], "activation", "f32")
