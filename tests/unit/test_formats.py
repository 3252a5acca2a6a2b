"""The table of number formats. Block sizes are compared with the gguf package in the tests of `quant`."""

from __future__ import annotations

import pytest

from redline.formats import BY_GGUF_ID, FORMATS


@pytest.mark.parametrize(
    ("name", "bits"),
    [("f32", 32), ("f16", 16), ("bf16", 16), ("q4_0", 4.5), ("q4_1", 5), ("q5_0", 5.5), ("q5_1", 6), ("q8_0", 8.5), ("q2_k", 2.625),
     ("q3_k", 3.4375), ("q4_k", 4.5), ("q5_k", 5.5), ("q6_k", 6.5625), ("iq4_nl", 4.5), ("random", 0)],
)  # fmt: skip
def test_bits_per_weight(name: str, bits: float) -> None:
    assert FORMATS[name].bits == bits and FORMATS[name].name == name
    assert FORMATS[name].nbytes(256 * 7) == 256 * 7 * bits / 8


def test_ids_are_unique_and_random_has_none() -> None:
    assert len(BY_GGUF_ID) == len(FORMATS) - 1
    assert all(FORMATS[form.name] is form for form in BY_GGUF_ID.values())


def test_a_part_of_a_block_has_no_size() -> None:
    with pytest.raises(AssertionError, match="not whole q4_0 blocks"):
        FORMATS["q4_0"].nbytes(33)
