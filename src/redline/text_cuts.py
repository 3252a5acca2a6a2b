"""Where a text may be cut so that its parts, encoded each by itself, have the tokens of the whole.

A tokenizer that first splits a text into words and then merges within each gives the same tokens wherever a cut lies between two
words. Between a letter, a space and a letter that is so for the byte-level tokenizers of today; which of them is found out by
trying, and what spells words otherwise is never cut. Knows nothing of ids. Open `may_cut`.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import tokenizers
from tokenizers import models

PART_CHARS = 2000  # which take about a millisecond: for fewer another core is hardly worth waking
LEAST_CHARS = 1000  # of the last part
_LETTER = "[A-Za-zА-я]"
_CUT = re.compile(f"(?<={_LETTER}) (?={_LETTER})")
_BEFORE = ("", " ", "\n", "7", ".", "'", "_", "é", "中", "  ")
_WORDS = ("a", "B", "ab", "AB", "Ab", "aB", "don't", "я")
_BEHIND = ("", "  c", "\n", "7", ".", "'s", "\u0301")


def parts(text: str) -> list[str]:
    """`text` in parts of about `PART_CHARS`, as far as it has places for cuts. What is put behind a text moves none of its cuts."""
    found, begin = [], 0
    while len(text) - begin > PART_CHARS + LEAST_CHARS and (cut := _CUT.search(text, begin + PART_CHARS)) is not None:
        found.append(text[begin : cut.start()])
        begin = cut.start()
    return [*found, text[begin:]]


def may_cut(backend: tokenizers.Tokenizer) -> bool:
    """Whether `parts` of any text have the tokens of the whole."""
    model, steps = backend.model, steps_of(backend)
    if not isinstance(model, models.BPE) or model.dropout is not None or backend.pre_tokenizer is None:
        return False
    if not all(map(_looks_at_words, steps)) or not any(step["type"] == "ByteLevel" for step in steps):
        return False
    for token in backend.get_added_tokens_decoder().values():
        content = token.content
        absorbs = (token.lstrip and re.match(_LETTER, content)) or (token.rstrip and re.match(_LETTER, content[-1:]))
        if absorbs or token.single_word or re.search(f"{_LETTER} ", content):  # it would lie on both sides of a cut
            return False
    return _splits_words(backend)


def steps_of(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """What happens to a text before it is merged, step by step, as the library writes it in a tokenizer.json."""
    steps: list[dict[str, Any]] = []
    for part, inner in ((backend.normalizer, "normalizers"), (backend.pre_tokenizer, "pretokenizers")):
        state = {} if part is None else json.loads(part.__getstate__())
        steps += state.get(inner, [state] if state else [])
    return steps


def _looks_at_words(step: dict[str, Any]) -> bool:
    """Whether a step is known to do the same with a word wherever it stands: none looks behind, none puts something before a text."""
    if step["type"] == "Split":
        pattern = step["pattern"].get("Regex", "(?<")
        return "(?<" not in pattern and not _CUT.search(pattern) and step["behavior"] == "Isolated" and not step["invert"]
    if step["type"] == "ByteLevel":
        return not step["add_prefix_space"]
    return step["type"] in ("NFC", "Digits")


def _splits_words(backend: tokenizers.Tokenizer) -> bool:
    """Whether words of many forms, with much around them, are split alike together and apart."""
    forms = ((_BEFORE, _WORDS, [" ab"]), (["ab "], _WORDS, _BEHIND), (_WORDS, " ", _WORDS))
    text = "\n".join("".join(each) for form in forms for each in itertools.product(*form))
    split = backend.pre_tokenizer.pre_tokenize_str
    begins = [0, *(cut.start() for cut in _CUT.finditer(text)), len(text)]
    apart = [piece for begin, end in itertools.pairwise(begins) for piece, _ in split(text[begin:end])]
    return [piece for piece, _ in split(text)] == apart
