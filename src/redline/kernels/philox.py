"""The one random generator: Philox-4x32-10, a function of (seed, position, token) and nothing else.

    key     = the two 32-bit halves of the seed
    counter = (block of the token, low half of the position, high half of the position, 0)
    uniform = (word + 1/2) / 2^32, as float32 and below 1       word: the one of the four that the token's lane selects

A block serves four tokens: token t has block (t >> 12) * 1024 + t % 1024 and lane (t >> 10) % 4, so that a tile of 4096
tokens is 1024 blocks whose four words lie in four contiguous runs. Draws of a request therefore do not depend on what
shares its batch, on the vocabulary's size or on the device: the Triton twin (philox_triton.py) gives the same bits.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Torch has no unsigned 64-bit
arithmetic to speak of, so words are int64 tensors: the low 64 bits of a product are right whatever its sign, and an
arithmetic shift followed by a mask yields the high word. Open `uniform` first.

B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF
TILE = 4096
LANES = 4
BLOCKS_PER_TILE = TILE // LANES
LARGEST = 1.0 - 2.0**-24
"""The largest float32 below 1."""


def words(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four output words of each counter. All tensors int64 holding 32-bit values, of shapes that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # c1 and c3 keep the high halves of their products: they are masked once they have become c0 and c2.
        c0, c1 = (product1 >> 32).bitwise_xor(c1).bitwise_xor_(k0).bitwise_and_(MASK), product1
        c2, c3 = (product0 >> 32).bitwise_xor(c3).bitwise_xor_(k1).bitwise_and_(MASK), product0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


def uniform(seed: Tensor, position: Tensor, token: Tensor) -> Tensor:
    """float32 in (0, 1) for each (seed, position, token): int64 tensors of shapes that broadcast."""
    block = (token // TILE) * BLOCKS_PER_TILE + token % BLOCKS_PER_TILE
    lane = token // BLOCKS_PER_TILE % LANES
    seed, position, block, lane = torch.broadcast_tensors(seed, position, block, lane)
    four = torch.stack(_block_words(seed, position, block))
    return to_uniform(four.gather(0, lane.unsqueeze(0)).squeeze(0))


def uniform_rows(seed_B: Tensor, position_B: Tensor, vocab_size: int) -> Tensor:
    """`uniform` of every token of the vocabulary, [B, V]: the four words of a block are all used, so it costs a fourth."""
    block_1X = torch.arange(num_blocks(vocab_size), device=seed_B.device).unsqueeze(0)
    four = _block_words(seed_B.unsqueeze(1), position_B.unsqueeze(1), block_1X)
    lanes = [to_uniform(word).view(len(seed_B), -1, 1, BLOCKS_PER_TILE) for word in four]
    return torch.cat(lanes, 2).flatten(1)[:, :vocab_size]


def num_blocks(vocab_size: int) -> int:
    """How many blocks serve a vocabulary: whole tiles of them."""
    return -(-vocab_size // TILE) * BLOCKS_PER_TILE


def to_uniform(word: Tensor) -> Tensor:
    """float32 in (0, 1) of a 32-bit word: finest near 0 (the least is 2^-33), 2^-24 apart near 1."""
    return word.to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=LARGEST)


def _block_words(seed: Tensor, position: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    counter = (block, position & MASK, (position >> 32) & MASK, torch.zeros_like(position))
    return words(counter, (seed & MASK, (seed >> 32) & MASK))
