"""The generator against the published vectors, and what draws may depend on."""

from __future__ import annotations

import pytest
import torch

from redline.kernels import philox

# Random123's kat_vectors file, philox4x32 with 10 rounds: counter, key, output.
ALL_ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_words_are_the_published_ones(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    got = philox.words(tuple(torch.tensor(word) for word in counter), (torch.tensor(key[0]), torch.tensor(key[1])))
    assert tuple(int(word) for word in got) == expected


def test_a_draw_does_not_depend_on_the_vocabulary_or_the_batch() -> None:
    seed_B, position_B = torch.tensor([3, -9, 2**62]), torch.tensor([0, 7, 2**33])
    whole = philox.uniform_rows(seed_B, position_B, 9001)
    assert torch.equal(philox.uniform_rows(seed_B[1:2], position_B[1:2], 5000), whole[1:2, :5000])
    tokens = torch.tensor([[0, 1023, 1024, 4095, 4096, 9000]])
    assert torch.equal(philox.uniform(seed_B.unsqueeze(1), position_B.unsqueeze(1), tokens), whole[:, tokens[0]])


def test_every_part_of_the_counter_and_the_key_counts() -> None:
    seeds = torch.tensor([1, 2, 1 + 2**32, -1, 1, 1, 1, 1])
    positions = torch.tensor([0, 0, 0, 0, 1, 2**32, 0, 0])
    tokens = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1024])
    assert len(set(philox.uniform(seeds, positions, tokens).tolist())) == len(seeds)


def test_uniform_stays_inside_the_open_interval() -> None:
    """0 and 1 would make infinite noise: a token that always or never wins."""
    ends = philox.to_uniform(torch.tensor([0, 1, 0xFFFFFF00, 0xFFFFFFFF]))
    assert ends.min() == 2.0**-33 and ends.max() == 1.0 - 2.0**-24


def test_uniform_is_uniform() -> None:
    draws = philox.uniform_rows(torch.arange(8), torch.arange(8), 12500).flatten()
    counts = torch.histc(draws, bins=20, min=0.0, max=1.0)
    chi_square = ((counts - 5000) ** 2 / 5000).sum()
    assert chi_square < 43.8  # 99.9 % of 19 degrees of freedom
