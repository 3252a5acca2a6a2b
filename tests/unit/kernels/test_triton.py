"""Every Triton kernel against its op's reference, in Triton's interpreter on a CPU.

bfloat16 is left to the card (tests/gpu) and the compile matrix: the interpreter cuts float32 off where hardware rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch

import kernel_checks
from redline.kernels import all_specs, attention, philox
from redline.kernels.tolerance import check

pytestmark = pytest.mark.usefixtures("interpreter")

SPECS = all_specs()
CASES = [case for case in kernel_checks.every_case(triton=True) if case.values[1] != "bf16"]


@pytest.mark.parametrize(("name", "dtype", "case"), CASES)
def test_kernel_matches_reference(name: str, dtype: str, case: Mapping[str, int]) -> None:
    """Tolerance, no unwritten output, no changed argument: every kernel and shape; scratch memory starts as NaN."""
    kernel_checks.check_case(SPECS[name], SPECS[name].triton_launcher(), dtype, case)


@pytest.mark.parametrize("splits", [2, 5, 17])
def test_attention_joins_any_number_of_splits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more splits than a sequence has tiles, and more than the reduction reads at once."""
    from redline.kernels import attention_triton, paged_runs

    monkeypatch.setattr(attention_triton, "choose_splits", lambda programs, max_context, processors: splits)
    case = {"B": 3, "Q": 2, "C": 300, "N": 6, "K": 2, "H": 20, "S": 4, "W": 0, "PAD": 1}
    kernel_checks.check_case(attention.SPEC, paged_runs.paged_attention, "f32", case)


@pytest.mark.parametrize(("tokens", "queries", "context"), [(16, 9, 9), (16, 1, 200), (64, 37, 150), (48, 48, 48), (32, 0, 0)])
def test_attention_of_a_prompt_padded_with_nobodys_tokens(tokens: int, queries: int, context: int) -> None:
    """As a captured step has it: tokens behind the only sequence, whose lengths the host does not tell, and generous bounds."""
    from redline.kernels import paged_runs

    axes = {"B": 1, "Q": max(1, queries), "C": max(1, context), "N": 4, "K": 2, "H": 32, "S": 16, "W": 0, "ALIKE": 1}
    inputs = attention.SPEC.make_inputs(axes, torch.float32, torch.device("cpu"), 1)
    q_TNH, ragged = inputs["q_TNH"][:queries], inputs["ragged"]
    ragged.query_start_B1[1], ragged.context_B[0] = queries, context
    (expected,) = attention.reference(**{**inputs, "q_TNH": q_TNH})
    padding = torch.full((tokens - queries, 4, 32), torch.nan)
    padded = dataclasses.replace(ragged, max_query=tokens, max_context=4096)
    found = paged_runs.paged_attention(**{**inputs, "q_TNH": torch.cat((q_TNH, padding)), "ragged": padded})
    assert found.shape == (tokens, 4, 32)
    check("output", expected, found[:queries], "attention", "f32")


@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize("size", [64, 128])
def test_attention_fetches_whole_tiles_by_descriptor(size: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile that holds slots of nobody, NaN among them, and pages of more than one tile."""
    from redline.kernels import attention_triton, paged_runs

    choose = attention_triton.choose_tiling
    monkeypatch.setattr(attention_triton, "choose_tiling", lambda *asked: dataclasses.replace(choose(*asked), keys=32, tma=True))
    case = {"B": 4, "Q": 70, "C": 300, "N": 4, "K": 2, "H": size, "S": 64, "W": window, "PAD": 1, "EMPTY": 1}
    kernel_checks.check_case(attention.SPEC, paged_runs.paged_attention, "f16", case)


def test_uniform_numbers_are_the_torch_twins_bits() -> None:
    """A request's draws must not depend on the device: equal bits, for seeds and positions of 64 bits of either sign."""
    from uniform_kernel import write_tile

    seed_B = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789123456789])
    position_B = torch.tensor([0, 5, 2**40 + 3, 2**31, 1, 2**32 - 1])
    tile = 2
    got = torch.empty((len(seed_B), philox.TILE))
    write_tile[(len(seed_B),)](got, seed_B, position_B, tile, LANE=philox.BLOCKS_PER_TILE)
    expected = philox.uniform_rows(seed_B, position_B, (tile + 1) * philox.TILE)[:, tile * philox.TILE :]
    assert torch.equal(got, expected)


def test_sampling_agrees_with_the_torch_path_over_many_rows() -> None:
    """The two samplers choose the same token for the same request, truncated or not."""
    from redline.kernels import sample, sample_triton

    inputs = sample.make_inputs({"B": 24, "V": 900}, torch.float32, torch.device("cpu"), seed=11)
    assert torch.equal(sample_triton.sample(**inputs), sample.sample(**inputs))


def test_sampling_ties_and_hopeless_rows() -> None:
    """Lowest index among equals, also across the parts of a row; NaN loses; a row of nothing gives token 0."""
    from redline.kernels import sample, sample_triton

    logits_BV = torch.zeros((4, 9000))
    logits_BV[1, 100], logits_BV[1, 5000], logits_BV[1, 3] = 7.0, 7.0, torch.nan
    logits_BV[2] = -torch.inf
    logits_BV[3] = torch.nan
    for temperature in (0.0, 1.0):
        batch = sample.SampleBatch(
            temperature_B=torch.full((4,), temperature),
            top_k_B=torch.ones(4, dtype=torch.int32),
            top_p_B=torch.ones(4),
            min_p_B=torch.zeros(4),
            seed_B=torch.arange(4),
            position_B=torch.arange(4),
            all_greedy=temperature == 0.0,
            any_top_k=True,
            any_top_p=False,
            any_min_p=False,
        )
        for choose in (sample.sample, sample_triton.sample):
            tokens = choose(logits_BV, batch).tolist()
            assert tokens[2:] == [0, 0]
            assert tokens[1] in (100, 5000)
            if temperature == 0.0:
                assert tokens[:2] == [0, 100]
