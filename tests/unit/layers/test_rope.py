"""Rotary tables against transformers' own functions, at lengths where the scalings bite, and what one table for all means."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from redline.layers.rope import attention_factor, cos_sin_table, inverse_frequencies
from redline.shapes import RopeShape, from_hf

CPU = torch.device("cpu")
LONG = {"short_factor": [1.0 + i / 9 for i in range(32)], "long_factor": [1.0 + i for i in range(32)]}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 16.0, "original_max_position_embeddings": 512},
    "yarn_attention_factor": {"factor": 16.0, "original_max_position_embeddings": 512, "attention_factor": 1.25},
    "yarn_whole_range": {"factor": 4.0, "original_max_position_embeddings": 7, "beta_fast": 1.5, "beta_slow": 1.4},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024},
    "longrope": {**LONG, "original_max_position_embeddings": 512},
    "longrope_factor": {**LONG, "factor": 32.0, "original_max_position_embeddings": 512},
}


def _config(kind: str, scaling: dict[str, Any]) -> LlamaConfig:
    rope = {"rope_type": kind, "rope_theta": 5e5, **scaling}
    return LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=4096, rope_parameters=rope)


@pytest.mark.parametrize("max_len", [100, 4096, 20000])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_equal_transformers_at_the_longest_context(name: str, max_len: int) -> None:
    """Every scaling gives transformers' frequencies for a text of `max_len` tokens, bit for bit or nearly."""
    kind = name.partition("_")[0]
    config = _config(kind, SCALINGS[name])
    expected_C, expected_factor = ROPE_INIT_FUNCTIONS[kind](config, CPU, seq_len=max_len)
    rope = from_hf(config.to_dict()).rope
    torch.testing.assert_close(inverse_frequencies(rope, 64, max_len), expected_C, rtol=2e-7, atol=0.0)
    assert attention_factor(rope) == pytest.approx(expected_factor, rel=1e-12)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_length_dependent_kinds_are_plain_within_the_original_context(kind: str) -> None:
    """A context configured within the original one rotates as every text that short does."""
    rope = RopeShape(kind=kind, factor=4.0, original_max_position=512, short_factor=(1.0,) * 32, long_factor=(9.0,) * 32)
    plain_C = inverse_frequencies(RopeShape(), 64, 512)
    torch.testing.assert_close(inverse_frequencies(rope, 64, 512), plain_C, rtol=2e-7, atol=0.0)
    assert not torch.allclose(inverse_frequencies(rope, 64, 513), plain_C, rtol=1e-4)


def test_rope_freqs_of_a_gguf_file_are_llama3_scaling() -> None:
    """Dividing by the converter's factors (the ratio of plain to scaled frequencies) gives the table of the metadata form."""
    scaled = RopeShape(kind="llama3", factor=8.0, original_max_position=512)
    plain = RopeShape()
    divisors = inverse_frequencies(plain, 64, 1024) / inverse_frequencies(scaled, 64, 1024)
    from_file = dataclasses.replace(plain, freq_factors=tuple(divisors.tolist()))
    torch.testing.assert_close(cos_sin_table(from_file, 64, 1024, CPU), cos_sin_table(scaled, 64, 1024, CPU), rtol=0, atol=1e-4)


def test_table_holds_cosines_then_sines_of_position_times_frequency() -> None:
    table_LH = cos_sin_table(RopeShape(theta=100.0), 4, 3, CPU)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]])
    torch.testing.assert_close(table_LH, torch.cat((angles.cos(), angles.sin()), 1))
