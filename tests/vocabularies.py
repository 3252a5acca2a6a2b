"""Texts and vocabularies for tests of tokenizers: varied strings, a small SentencePiece model, a small byte-level BPE.

The oracles are here too: SentencePiece itself, and byte-level BPE written down again from its definition.
"""

from __future__ import annotations

import io
import random
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex

SEEDS = (
    "def square(x):\n    return x ** 2  # comment\n",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", i);\n}\r\n',
    "SELECT a, b FROM t WHERE a != 'it''s' AND b >= 3.14159;",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 🇩🇪🇯🇵, 👍🏽 and ❤️",
    "日本語のテキストと漢字、カタカナ。",
    "中文分词测试，没有空格",
    "한국어 문장입니다",
    "e\u0301a\u0300o\u0308 n\u0303 \u1112\u1161\u11ab combining",
    "مرحبا بالعالم שלום עולם",
    "क्षि देवनागरी ไทยไม่มีช่องว่าง",
    "  leading and trailing   ",
    "a\t\tb\t c\n\n\n d\r\n\r\n",
    "1234567890 3.14159 1,000,000 ½ ² Ⅻ ٣",
    "don't I'll WE'RE They'Ve y'all's",
    "HTTPServer2 camelCase snake_case kebab-case",
    "\u00a0nbsp\u2003em\u3000wide\u200bzero\ufeff",
    "\x00\x01\x02\x7f\x1b[0m \x85",
    "ſ ß İ ı Ǆ Å Ω K ℃ ﬁ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 \U0010fffd",
    "...---===>>><<<!!!???",
    "https://example.com/a?b=c&d=%20e#f",
    "<|im_start|>user\nhi<|im_end|><|endoftext|><tool_call>{}</tool_call>",
    "<s>[INST] hi [/INST]</s><unk><0x0A>",
    "▁ literal ▁▁ marks Ġ Ċ",
)
RANGES = (
    *((0x00, 0x20), (0x20, 0x7F), (0xA0, 0x180), (0x300, 0x370), (0x370, 0x500), (0x590, 0x700), (0x900, 0x980)),
    *((0xE00, 0xE80), (0x1100, 0x1200), (0x2000, 0x2070), (0x2190, 0x2300), (0x3040, 0x3100), (0x4E00, 0x9FFF)),
    *((0xAC00, 0xD7A4), (0xE000, 0xE010), (0x1F300, 0x1F650), (0xFE00, 0xFE10)),
)
RUNS = (" ", "\n", "\t", "\r\n", "0", "7", "a", "é", "▁", "=", "😀")
USER_DEFINED = ("\n", "\n\n", "▁▁", "▁▁▁▁", "<table>")
WORDS = ("word", "The", " of", "’s", "'s", "'LL", "x1y22z333", "ing", "🙂", "字", "\u0301")


def varied_strings(count: int, seed: int = 0) -> Iterator[str]:
    """The seeds; then cuts of them joined, random code points of many scripts, and long runs, in turn."""
    rng = random.Random(seed)
    yield from SEEDS
    for number in range(count - len(SEEDS)):
        size = rng.randrange(1, 8)
        if number % 3 == 0:
            yield "".join(_cut(rng) + rng.choice(("", " ", "  ", "\n", "\t", "   \n  ")) for _ in range(size))
        elif number % 3 == 1:
            yield "".join(chr(rng.randrange(*rng.choice(RANGES))) for _ in range(4 * size))
        else:
            yield "".join(rng.choice(RUNS) * rng.randrange(1, 20) + rng.choice(WORDS) for _ in range(size))


def _cut(rng: random.Random) -> str:
    text = rng.choice(SEEDS)
    start = rng.randrange(len(text))
    return text[start : start + rng.randrange(1, 20)]


@lru_cache
def trained_sentencepiece(prefixed: bool) -> Any:
    """A SentencePiece BPE model of 1,000 pieces with byte fallback; `prefixed` as Llama 2 is, not so as Gemma is."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SEEDS * 8),
        model_writer=written,
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefixed,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=[] if prefixed else list(USER_DEFINED),
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def sentencepiece_metadata(prefixed: bool) -> dict[str, Any]:
    """The trained model as converters write it into GGUF metadata."""
    model = trained_sentencepiece(prefixed)
    ids = range(model.get_piece_size())

    def kind(id_: int) -> int:
        tests = ((2, model.is_unknown), (3, model.is_control), (6, model.is_byte))
        named = 4 if not prefixed and model.id_to_piece(id_) in USER_DEFINED else 1
        return next((number for number, holds in tests if holds(id_)), named)

    kinds = [kind(i) for i in ids]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            model.id_to_piece(i).replace("▁", " ") if kind == 4 else model.id_to_piece(i)
            for i, kind in zip(ids, kinds, strict=True)
        ],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": prefixed,
    }


def byte_chars() -> list[str]:
    """GPT-2's table: the printable character that stands for each byte."""
    table, extra = [], 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            table.append(chr(byte))
        else:
            table.append(chr(256 + extra))
            extra += 1
    return table


@lru_cache
def byte_level_metadata(pre: str) -> dict[str, Any]:
    """A byte-level BPE learned from the seeds by counting pairs, with two control tokens and a user-defined one."""
    table = byte_chars()
    words = [[table[byte] for byte in word.encode()] for text in SEEDS for word in regex.findall(r"\s?\S+|\s+", text)]
    tokens, merges = list(table), []
    for _ in range(250):
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(" ".join(best))
        tokens.append("".join(best))
        words = [merged(word, best) for word in words]
    named = ["<|im_start|>", "<|im_end|>", "<tool_call>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens + named,
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 3, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


def merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    """`word` with every occurrence of `pair`, from the left, made one."""
    out: list[str] = []
    at = 0
    while at < len(word):
        joined = tuple(word[at : at + 2]) == pair
        out.append("".join(pair) if joined else word[at])
        at += 2 if joined else 1
    return out


_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"'(?i:[sdmt]|re|ve|ll)|[^\r\n\p{L}\p{N}]?\p{L}+|"
WORD_PATTERNS = {
    "gpt-2": r"'(?:[sdmt]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": _HEAD + r"\p{N}" + _TAIL,
    "llama-bpe": _HEAD + r"\p{N}{1,3}" + _TAIL,
}


class ByteLevelOracle:
    """Byte-level BPE from its definition, slowly: cut into words, then merge the pair of lowest rank until none is left."""

    def __init__(self, metadata: dict[str, Any]):
        self.pre = metadata["tokenizer.ggml.pre"]
        pieces = metadata["tokenizer.ggml.tokens"]
        kinds = metadata["tokenizer.ggml.token_type"]
        self.ids = {piece: id_ for id_, piece in enumerate(pieces)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
        self.named = {piece: kind for piece, kind in zip(pieces, kinds, strict=True) if kind in (3, 4)}
        self.table = byte_chars()

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        named = [piece for piece, kind in self.named.items() if allow_special or kind == 4]
        pattern = "|".join(regex.escape(piece) for piece in sorted(named, key=len, reverse=True))
        ids: list[int] = []
        for part in regex.split(f"({pattern})", text):
            ids += [self.ids[part]] if part in named else [id_ for word in self.words(part) for id_ in self.merge(word)]
        return ids

    def words(self, text: str) -> list[str]:
        if self.pre == "smollm":  # every digit for itself, then GPT-2's rule between them
            pattern = WORD_PATTERNS["gpt-2"]
            parts = regex.split(r"(\p{N})", text)
            return [
                word for part in parts for word in ([part] if regex.fullmatch(r"\p{N}", part) else regex.findall(pattern, part))
            ]
        composed = unicodedata.normalize("NFC", text) if self.pre == "qwen2" else text
        return regex.findall(WORD_PATTERNS[self.pre], composed)

    def merge(self, word: str) -> list[int]:
        symbols = [self.table[byte] for byte in word.encode()]
        if self.pre == "llama-bpe" and "".join(symbols) in self.ids:
            return [self.ids["".join(symbols)]]
        while True:
            best = min(zip(symbols, symbols[1:], strict=False), key=lambda pair: self.ranks.get(pair, 1 << 30), default=None)
            if best not in self.ranks:
                return [self.ids[symbol] for symbol in symbols if symbol in self.ids]  # a byte without a piece is dropped
            symbols = merged(symbols, best)
