"""Structured output: what an answer must match, as text for llguidance, and the matchers that say which tokens may come next.

A grammar is made by one of the `of_...` builders from what a caller wrote, travels in `Request.grammar`, and is compiled where
the tokens are. JSON is written compactly, so that small models cannot lose themselves in white space and much of an answer is
forced. Nothing is relaxed: what cannot be enforced is refused with the keyword's name. Knows nothing of requests, devices or
HTTP. Open `of_json_schema`, then `Compiler`.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from redline.engine.json_schema import strict
from redline.engine.lark import checked_lark
from redline.engine.yaml_grammar import free_yaml, yaml_of_schema
from redline.errors import InvalidRequest, RedlineError, UnsupportedField

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer

    from redline.tokenizer import Tokenizer

Json = Any

MAX_SOURCE_BYTES = 512 << 10
MAX_CHOICES = 4096
MAX_CACHED = 64
MAX_CACHED_BYTES = 8 << 20  # of grammars' texts; what they compile to is some tens of times that
COMPILE_STACK_BYTES = 128 << 20  # of address space: rules that lead to each other in a long chain are compiled recursively

COMPACT = (",", ":")
SPACED = (", ", ": ")  # as Python's json writes, and as many models were taught to write tool calls


def of_json_schema(schema: Json, param: str = "schema", separators: tuple[str, str] = COMPACT) -> str:
    """The JSON documents that a schema allows. Raises UnsupportedField with the keyword that cannot be enforced."""
    return _text({"grammars": [{"json_schema": _written(schema, param, separators)}]}, param)


def of_json_object() -> str:
    """Any JSON object."""
    return of_json_schema({"type": "object"})


def of_regex(pattern: str, param: str = "regex") -> str:
    """Texts that match `pattern` (the Rust dialect) as a whole."""
    if not pattern:
        raise InvalidRequest("the regular expression is empty", param=param)
    return _text({"grammars": [{"lark_grammar": f"start: /{_slashed(pattern)}/"}]}, param)


def of_choice(choices: Sequence[str], param: str = "choice") -> str:
    """One of `choices`, letter by letter."""
    if not choices or not all(choices):
        raise InvalidRequest("choice needs at least one text, and none may be empty", param=param)
    if len(choices) > MAX_CHOICES:
        raise InvalidRequest(f"choice has {len(choices)} texts, at most {MAX_CHOICES} are allowed", param=param)
    pattern = "|".join(_literal(choice) for choice in dict.fromkeys(choices))
    return _text({"grammars": [{"lark_grammar": f"start: /{pattern}/"}]}, param)


def of_lark(source: str, param: str = "grammar", separators: tuple[str, str] = COMPACT) -> str:
    """The language of a Lark grammar in llguidance's dialect. Every `%json {...}` in it is checked like a schema."""
    _check_size(source, param)
    written = checked_lark(source, lambda schema: _text(_written(schema, param, separators), param), param)
    return _text({"grammars": [{"lark_grammar": written}]}, param)


def of_yaml(schema: Json = None, param: str = "yaml") -> str:
    """YAML documents in block style: those that `schema` allows, or without one any document a few levels deep."""
    if schema is None:
        return _text({"grammars": [{"lark_grammar": free_yaml()}]}, param)
    source = yaml_of_schema(strict(schema, param), lambda part: _text(_with_options(part, COMPACT), param), param)
    return _text({"grammars": [{"lark_grammar": source}]}, param)


class Vocabulary:
    """What llguidance must know of a tokenizer: the bytes of each id, the special ones, and the ends of an answer."""

    is_tokenizer_wrapper = True  # llguidance asks for this name

    def __init__(self, tokenizer: Tokenizer, size: int, eos_ids: Sequence[int]) -> None:
        """`size` is that of the logits: ids past the tokenizer's are never allowed."""
        known = min(size, tokenizer.vocab_size)
        self.tokens = [tokenizer.token_bytes(id_) for id_ in range(known)] + [b""] * (size - known)
        self.special_token_ids = sorted(id_ for id_ in tokenizer.special_ids if id_ < size)
        ends = [*eos_ids, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,))]
        self.eos_ids = [id_ for id_ in dict.fromkeys(ends) if id_ < size]
        if not self.eos_ids:
            raise UnsupportedField("structured output needs a model with an end token, and this one has none", param="grammar")
        self.eos_token_id = self.eos_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """The tokens of a forced text, as the model would write it in the middle of an answer."""
        encode = self._tokenizer.encode
        if not self._tokenizer.strips_space:
            return encode(text, add_special_tokens=False, allow_special=False)
        anchor = encode("\x02", add_special_tokens=False, allow_special=False)  # takes the space that is put before a text
        tokens = encode("\x02" + text, add_special_tokens=False, allow_special=False)
        return tokens[len(anchor) :] if tokens[: len(anchor)] == anchor else list(self._bytewise(text))

    def _bytewise(self, text: str) -> list[int]:
        single = {self._tokenizer.token_bytes(id_): id_ for id_ in range(self._tokenizer.vocab_size)}
        return [single[bytes([byte])] for byte in text.encode()]


class Matcher:
    """Where one answer stands in its grammar. Not thread-safe."""

    def __init__(self, inner: LLMatcher) -> None:
        self._inner = inner

    def copy(self) -> Matcher:
        """Another one at the same place."""
        return Matcher(self._inner.deep_copy())

    @property
    def inner(self) -> LLMatcher:
        """For llguidance's executor, which fills several masks at once."""
        return self._inner

    @property
    def complete(self) -> bool:
        """Whether nothing but an end can follow."""
        return self._inner.is_stopped()

    @property
    def error(self) -> str:
        """Why it cannot go on: a limit was met, or a token that was not allowed was consumed. Empty while it can."""
        return self._inner.get_error() if self._inner.is_error() else ""

    def fill(self, words: np.ndarray) -> None:
        """Write the mask of the next token into `words`, int32: bit i of the row is token i."""
        self._inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)

    def consume(self, token: int) -> bool:
        """Go on with a token; False if the grammar does not allow it."""
        return self._inner.consume_token(token)

    def forced(self) -> list[int]:
        """The tokens that must follow, as far as the model would cut the text the same way; none where there is a choice."""
        return self._inner.compute_ff_tokens()


class Compiler:
    """Grammars to matchers for one tokenizer, with the newest kept. Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Takes half a second for a large vocabulary."""
        from llguidance import LLTokenizer

        self.eos_ids = tuple(vocabulary.eos_ids)
        wrapper: Any = vocabulary  # it has what llguidance asks for
        self._tokenizer = LLTokenizer(wrapper, eos_token=vocabulary.eos_ids, slices=LLTokenizer.json_slices())
        vocabulary.tokens = []  # llguidance has its own copy
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the beginning of `grammar`. Raises UnsupportedField or InvalidRequest for one that cannot be compiled."""
        with self._lock:
            known = self._cache.get(grammar)
            if known is not None:
                self._cache.move_to_end(grammar)
        if known is None:
            known = compiled(self._tokenizer, grammar)
            known.compute_bitmask()  # the first mask is the slow one, and what it finds out is shared by all copies
            self._keep(grammar, known)
        return Matcher(known.deep_copy())

    def _keep(self, grammar: str, matcher: LLMatcher) -> None:
        with self._lock:
            if grammar not in self._cache:
                self._cache[grammar] = matcher
                self._cached_bytes += len(grammar)
            while len(self._cache) > MAX_CACHED or (self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1):
                self._cached_bytes -= len(self._cache.popitem(last=False)[0])


PROBE_TOKENS = 24
PROBE_S = 0.1  # of processor time for one mask over single bytes


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """llguidance's matcher of a grammar. Raises UnsupportedField or InvalidRequest, naming the keyword where there is one.

    Cannot be stopped: who takes grammars from strangers compiles them in a process that may be killed first (probe.py).
    """
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise explained(matcher.get_error())
    warnings = matcher.get_grammar_warnings()
    if warnings:
        raise UnsupportedField(f"the grammar cannot be enforced: {_short(warnings[0])}")
    return matcher


def probe(tokenizer: LLTokenizer, grammar: str) -> None:
    """Compile `grammar` and follow it for some tokens. Raises what `compiled` raises, and for masks that take too long."""
    matcher = compiled(tokenizer, grammar)
    for step in range(PROBE_TOKENS):
        began = time.thread_time()
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            raise explained(matcher.get_error())
        if time.thread_time() - began > PROBE_S:
            raise UnsupportedField("the grammar is too complex: it takes too long to say what may come next")
        bits = ((8 * place + bit, byte >> bit & 1) for place, byte in enumerate(mask) if byte for bit in range(8))
        allowed = [token for token, bit in bits if bit and token not in tokenizer.eos_tokens]
        if matcher.is_stopped() or not allowed:
            return
        matcher.consume_token(allowed[(step * 7919) % len(allowed)])


_KEYWORDS = (
    ("oneOf constraints", "oneOf", "its branches may hold at once, as far as can be told"),
    ("patternPropert", "patternProperties", "two of its patterns may match one name, or no one can tell"),
    ("min/maxProperties", "minProperties or maxProperties", "every property but one must be required beside it"),
    ("minProperties", "minProperties", "no object has so many"),
    ("circular references", "$ref", "a schema that leads back to itself may have no other keywords beside the reference"),
    ("multipleOf", "multipleOf", "it has too many digits"),
    ("integer range", "minimum or maximum", "the matcher cannot write this range"),
    ("float range", "minimum or maximum", "the matcher cannot write this range"),
    ("Unable to determine if regex is empty", "pattern", "no one can tell whether any text matches"),
)
_TOO_COMPLEX = re.compile(r"too (large|big|complex|many|dee?ply)|fuel|limit|recursion|stack level", re.IGNORECASE)


def explained(error: str) -> RedlineError:
    """llguidance's words as ours."""
    for part, keyword, why in _KEYWORDS:
        if part in error:
            return UnsupportedField(f"the keyword {keyword!r} cannot be enforced: {why}")
    if "NoExtension" in error:
        return UnsupportedField("the grammar has a dead end: after some beginnings nothing can follow")
    if "nsatisfiable" in error or "Regex is empty" in error:
        return InvalidRequest(f"the schema allows no answer: {_short(error)}")
    if "oken range" not in error and _TOO_COMPLEX.search(error):
        return UnsupportedField(f"the grammar is too complex: {_short(error)}")
    if "lookaround" in error or "look-a" in error or "regex" in error:
        return UnsupportedField(f"the 'pattern' or regular expression cannot be enforced: {_short(error)}")
    return InvalidRequest(f"the grammar is not valid: {_short(error)}")


def _written(schema: Json, param: str, separators: tuple[str, str]) -> Json:
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest("a JSON schema is an object", param=param)
    return _with_options(strict(schema, param), separators)


def _with_options(schema: dict[str, Json], separators: tuple[str, str]) -> dict[str, Json]:
    item, key = separators
    options = {
        "whitespace_flexible": False,
        "item_separator": item,
        "key_separator": key,
        "json_allowed_escapes": 'nrbtf\\"',  # with \u a property's name could be spelled so that its schema is not seen
    }
    return {"x-guidance": options, **schema}


def _text(grammar: Json, param: str) -> str:
    try:
        text = msgspec.json.encode(grammar).decode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("the grammar is not valid Unicode: it holds half of a surrogate pair", param=param) from error
    _check_size(text, param)
    return text


def _check_size(text: str, param: str) -> None:
    if len(text) > MAX_SOURCE_BYTES:
        raise InvalidRequest(f"a grammar of {len(text)} characters is too large", hint=f"at most {MAX_SOURCE_BYTES}", param=param)


def _literal(text: str) -> str:
    return re.sub(r"[\\/^$.|?*+()\[\]{}#&~\-\s]", lambda found: f"\\u{{{ord(found[0]):x}}}", text)


def _slashed(pattern: str) -> str:
    """`pattern` between slashes: a slash that nobody escaped is, and a line break is spelled."""
    escaped = re.sub(r"\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return escaped.replace("\n", "\\n").replace("\r", "\\r")


def _short(text: str, most: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + "..."
