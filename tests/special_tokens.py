"""A byte tokenizer with special tokens of a test's own choice."""

from __future__ import annotations

from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from redline.tokenizer import Tokenizer
from vocabularies import byte_chars

EOS = "<|im_end|>"


def tokenizer_with(*special: str, ordinary: tuple[str, ...] = ()) -> Tokenizer:
    """Ids 0 to 255 are bytes; then EOS, the special tokens and the ordinary added ones in the order given."""
    named = (EOS, *special, *ordinary)
    vocab = {char: byte for byte, char in enumerate(byte_chars())} | {piece: 256 + i for i, piece in enumerate(named)}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_tokens([AddedToken(piece, special=piece not in ordinary, normalized=False) for piece in named])
    return Tokenizer(backend, [*byte_chars(), *named], spelling="byte_level", eos_id=256)
