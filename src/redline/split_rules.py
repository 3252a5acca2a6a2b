"""How byte-level tokenizers cut text into words before they merge, by the names that GGUF files have for it. Open `SplitRule`."""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")


class SplitRule(NamedTuple):
    """How a byte-level tokenizer cuts text into words before it merges, as its published tokenizer.json says."""

    pattern: str = ""  # empty: GPT-2's, which the library has built in
    single_digits: bool = False
    composes: bool = False  # text is brought to NFC first
    whole_words: bool = False  # a word that is a piece is taken whole, merges or not (a vocabulary from tiktoken)
    add_bos: bool = False  # where the file does not say

    def build(self) -> pre_tokenizers.PreTokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] if self.single_digits else []
        if self.pattern:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.pattern))
        return pre_tokenizers.Sequence(steps)


# The names of `tokenizer.ggml.pre`.
SPLIT_RULES = {
    "smollm": SplitRule(single_digits=True),
    "qwen2": SplitRule(pattern=QWEN2_SPLIT, composes=True),
    "llama-bpe": SplitRule(pattern=LLAMA3_SPLIT, whole_words=True, add_bos=True),
    "gpt-2": SplitRule(),
    "default": SplitRule(),
}
