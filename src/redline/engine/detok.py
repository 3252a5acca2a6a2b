"""Tokens to text while they come: whole characters only, and an end at the first stop string.

Pieces joined give exactly `Tokenizer.decode` of all tokens, wherever the stream was cut. Torch-free; knows nothing of
requests or HTTP. Open `TextStream` first.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from redline.tokenizer import Tokenizer


class Detokenizer:
    """Text of a growing list of tokens, each step in time proportional to what is new.

    A character whose bytes are spread over several tokens is held back until it is whole. `continues=True` says that
    the text goes on from a prompt, so the space that SentencePiece tokenizers put before a text is kept. `shown` are
    special tokens that are part of the text although special tokens are skipped.
    """

    __slots__ = ("_bytes_of", "_decoder", "_skipped", "_strips_space")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
    ):
        self._bytes_of = tokenizer.bytes_of
        skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._skipped = skipped - shown if shown else skipped
        self._strips_space = tokenizer.strips_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` completed; bytes that can never become a character read as U+FFFD."""
        if not self._skipped.isdisjoint(tokens):
            tokens = [id_ for id_ in tokens if id_ not in self._skipped]
        return self._shown(self._decoder.decode(self._bytes_of(tokens)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed, or nothing."""
        return self._shown(self._decoder.decode(b"", final=True))

    def _shown(self, text: str) -> str:
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text


class StopChecker:
    """Finds the first stop string in text that comes in pieces, and holds back what may yet become one.

    The stop string that ends first wins, as that is the moment at which generation ends; of several that end
    there, the longest. What is found does not depend on how the text was cut, and a long stop string costs no more
    than a short one until the text begins to look like it.
    """

    __slots__ = ("_held", "_hit", "_include_stop", "_matchers")

    def __init__(self, stops: Iterable[str], include_stop: bool = False):
        self._include_stop = include_stop
        self._matchers = [_Matcher(stop) for stop in sorted(stops, key=len, reverse=True)]
        self._held = ""
        self._hit: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that may be shown, the stop string that was found or None). After a hit everything is swallowed."""
        if self._hit is not None:
            return "", self._hit
        whole = self._held + text
        for end, char in enumerate(text, len(self._held) + 1):
            for matcher in self._matchers:  # all of them, as each keeps a count
                if matcher.step(char) and self._hit is None:
                    self._hit = matcher.stop
            if self._hit is not None:
                self._held = ""
                return whole[: end if self._include_stop else end - len(self._hit)], self._hit
        shown = len(whole) - max((matcher.depth for matcher in self._matchers), default=0)
        self._held = whole[shown:]
        return whole[:shown], None

    def flush(self) -> str:
        """What was held back and did not become a stop string. Nothing may be pushed afterwards."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Looks for one string in a stream of characters, in constant time each (Knuth, Morris and Pratt, 1977).

    The table is built only as far as the text has followed the string.
    """

    __slots__ = ("_fall", "depth", "stop")

    def __init__(self, stop: str):
        self.stop = stop
        self.depth = 0  # how much of the string the text ends with
        self._fall = [0]  # depth - 1 -> the next smaller depth that the text has as well

    def step(self, char: str) -> bool:
        """Take one character; True where it completes the string."""
        self.depth = self._follow(self.depth, char)
        known = len(self._fall)
        if self.depth > known:
            self._fall.append(self._follow(self._fall[-1], self.stop[known]))
        return self.depth == len(self.stop)

    def _follow(self, depth: int, char: str) -> int:
        while depth and self.stop[depth] != char:
            depth = self._fall[depth - 1]
        return depth + 1 if self.stop[depth] == char else 0


class TextDelta(NamedTuple):
    """New text, and the stop string that ended the text, if one did."""

    text: str
    stop: str | None = None


class TextStream:
    """One choice's tokens as text that is safe to show: detokenised, and cut at the first stop string."""

    __slots__ = ("_detokenizer", "_stops", "has_stops", "stop")

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
    ):
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens, continues=continues, shown=shown)
        self._stops = StopChecker(stops, include_stop)
        self.has_stops = bool(stops)
        self.stop: str | None = None

    def push(self, tokens: Sequence[int]) -> TextDelta:
        """The text that `tokens` completed, up to the stop string if they completed one; later tokens are not read."""
        if not self.has_stops:
            return TextDelta(self._detokenizer.push(tokens))
        shown: list[str] = []
        for token in tokens:
            if self.stop is not None:
                break
            shown.append(self._check(self._detokenizer.push((token,))))
        return TextDelta("".join(shown), self.stop)

    def flush(self) -> TextDelta:
        """The rest, once the last token was pushed; what ends the text may still be a stop string."""
        text = self._check(self._detokenizer.flush())
        return TextDelta(text + self._stops.flush(), self.stop)

    def _check(self, text: str) -> str:
        if not self.has_stops:
            return text
        shown, self.stop = self._stops.push(text)
        return shown
