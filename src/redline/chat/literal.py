"""Words of a conversation that must not be read as special tokens: whoever writes "<|im_end|>" has not ended a turn.

Texts without the spelling of a special token, which are all but a few, go the usual way and get exactly the usual tokens.
In others each such spelling is hidden behind a word of no meaning while the template runs; then the text around the
template's own special tokens is encoded as plain text, with the spellings back in it.

Limits: role markers that are no special tokens are text like any other, and a template's plain text cannot be told from a
user's. A tokenizer that puts a space before a text (`Metaspace`, "first") puts one after each special token here.
Knows nothing of HTTP. Open `Shield` first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from redline.errors import TemplateError
from redline.tokenizer import Tokenizer

Json = dict[str, Any]


class Specials:
    """The special tokens of a tokenizer, by their spelling. Built once for a model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ids: Mapping[str, int] = {piece: id for id in tokenizer.special_ids if (piece := tokenizer.piece(id))}
        spelled = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, spelled))) if spelled else None
        self._firsts = tuple({piece[0] for piece in spelled})

    def pattern_in(self, text: str) -> re.Pattern[str] | None:
        """What finds special tokens, where `text` may have one."""
        return self._pattern if any(first in text for first in self._firsts) else None

    def found_in(self, text: str) -> list[str]:
        pattern = self.pattern_in(text)
        return pattern.findall(text) if pattern else []

    def spelled_in(self, values: Any) -> set[str]:
        """The special tokens that any text of `values` (messages, tools) spells."""
        return {piece for text in _texts(values) for piece in self.found_in(text)}

    def split(self, text: str) -> list[str]:
        """The text between special tokens, and these, in turn; the first and the last are text."""
        pattern = self.pattern_in(text)
        parts, at = [], 0
        for match in pattern.finditer(text) if pattern else ():
            parts += [text[at : match.start()], match[0]]
            at = match.end()
        return [*parts, text[at:]]


class Shield:
    """Hides spellings of special tokens in one conversation, and knows what it hid."""

    def __init__(self, specials: Specials, spelled: Collection[str], values: Any) -> None:
        """`spelled` are the spellings to hide; `values` all texts of the conversation, in which the words must not occur."""
        self._specials = specials
        texts = "\n".join(_texts(values)).lower()
        self._word = next(word for number in itertools.count() if (word := f"zq{number}q") not in texts)
        self._hidden = {piece: f"{self._word}{number}x" for number, piece in enumerate(sorted(spelled))}

    def hide(self, values: Any, but: Collection[str] = ()) -> Any:
        """A copy of `values` in which every spelling `but` these is hidden."""
        if isinstance(values, str):
            pattern = self._specials.pattern_in(values)
            return (
                pattern.sub(lambda match: match[0] if match[0] in but else self._hidden[match[0]], values) if pattern else values
            )
        if isinstance(values, Mapping):
            return {self.hide(key, but): self.hide(value, but) for key, value in values.items()}
        return [self.hide(value, but) for value in values] if isinstance(values, list | tuple) else values

    def encode(self, tokenizer: Tokenizer, text: str, salt: str | None) -> list[int]:
        """The tokens of a rendered text; `salt` as for `Tokenizer.encode`. Raises what `shown` raises."""
        tokens: list[int] = []
        for number, part in enumerate(self._specials.split(text)):
            if number % 2:
                tokens.append(self._specials.ids[part])
            elif part:
                tokens += tokenizer.encode(self.shown(part), add_special_tokens=False, allow_special=False, salt=salt)
        return tokens

    def shown(self, text: str) -> str:
        """A rendered text as it reads. Raises TemplateError where the template changed a hidden spelling."""
        for piece, hidden in self._hidden.items():
            text = text.replace(hidden, piece)
        if self._word in text.lower():
            raise TemplateError("the chat template changes the text of a message that spells a special token")
        return text


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value)
