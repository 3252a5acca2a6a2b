"""Text to token ids and back, over the `tokenizers` library.

A tokenizer comes from a Hugging Face folder, is rebuilt from GGUF metadata, or is the byte tokenizer of random
weights. Encoding is the library's; decoding is done here, byte by byte, so that a stream of tokens and the whole
list give the same text (`engine/detok.py`). Knows nothing of models, chat templates or requests.
Open `Tokenizer.from_gguf` first.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from redline import log
from redline.errors import CheckpointError, ConfigError, InvalidRequest, UnsupportedModel
from redline.part_cache import PartCache
from redline.split_rules import SPLIT_RULES
from redline.text_cuts import LEAST_CHARS, PART_CHARS, may_cut, parts, steps_of

Spelling = Literal["byte_level", "sentencepiece"]
"""How a piece is spelled: each byte as one printable character (GPT-2), or text with ▁ for a space (SentencePiece)."""

# Kinds of GGUF token: `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE = "▁"
NORMALIZED_SHRINK = 9  # NFC makes UTF-8 at most so many times shorter: 3 by a character's own form, 3 by composition
_TOGETHER = 256  # texts and parts: of more the library's own records would take much memory at once
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """Encodes text to ids and decodes ids to text; safe to share between threads.

    `vocab_size` counts the ids that have a piece. A model's logits may be wider (padding): an id outside the
    vocabulary decodes to nothing.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        pieces: Sequence[str],
        *,
        spelling: Spelling,
        bos_id: int | None = None,
        eos_id: int | None = None,
        affixes: tuple[Sequence[int], Sequence[int]] = ((), ()),
        strips_space: bool = False,
    ):
        """`pieces[id]` is the spelling of each id; `affixes` are the ids put before and after an encoded text.

        `strips_space`: encoding put a space before the text, so decoding drops one.
        """
        added = backend.get_added_tokens_decoder()
        self._backend = backend
        self._pieces = pieces
        self._spelling = spelling
        self._verbatim = frozenset(added)
        self._prefix, self._suffix = list(affixes[0]), list(affixes[1])
        self._bytes = _Spellings(self._spell)
        self._parts = PartCache()
        self.strips_space = strips_space
        self.vocab_size = len(pieces)
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self.bos_id = bos_id
        self.eos_id = eos_id

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """From a Hugging Face folder: `tokenizer.json`, and the begin and end tokens of `tokenizer_config.json`.

        Raises CheckpointError for a file that does not parse, UnsupportedModel where there is no `tokenizer.json`
        or its decoder is neither byte-level nor SentencePiece-like.
        """
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UnsupportedModel(
                f"{folder} has no tokenizer.json",
                hint="save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{file} is not a tokenizer: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        settings = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        spelling, strips_space = _spelling_of(backend, file)
        bos_id, eos_id = _named_id(backend, settings, "bos_token"), _named_id(backend, settings, "eos_token")
        flags = settings.get("add_bos_token"), settings.get("add_eos_token")
        affixes = _probe_affixes(backend) if flags == (None, None) else _affixes(bos_id, eos_id, bool(flags[0]), bool(flags[1]))
        return cls(
            backend,
            _pieces_of(backend),
            spelling=spelling,
            bos_id=bos_id,
            eos_id=eos_id,
            affixes=affixes,
            strips_space=strips_space,
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the `tokenizer.ggml.*` keys of a GGUF file.

        Raises UnsupportedModel for a tokenizer or pre-tokenizer that is not known, CheckpointError for lists that
        contradict each other.
        """
        vocabulary = _GgufVocabulary(metadata)
        if vocabulary.model == "gpt2":
            return vocabulary.byte_level()
        if vocabulary.model == "llama":
            return vocabulary.sentencepiece()
        raise UnsupportedModel(
            f"GGUF tokenizer {vocabulary.model!r} is not supported", hint="supported: 'gpt2' (byte-level BPE) and 'llama'"
        )

    @classmethod
    def bytes(cls, vocab_size: int) -> Tokenizer:
        """The tokenizer of random weights: ids 0 to 255 are bytes, 256 begins, 257 ends, the rest read "<id>".

        Raises ConfigError for a vocabulary smaller than 258.
        """
        if vocab_size < 258:
            raise ConfigError(f"the byte tokenizer needs a vocabulary of at least 258, not {vocab_size}")
        bos, eos = "<|bos|>", "<|eos|>"
        alphabet = {char: byte for byte, char in enumerate(_BYTE_CHARS)}
        backend = tokenizers.Tokenizer(models.BPE(vocab=alphabet | {bos: 256, eos: 257}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (bos, eos)])
        pieces = [*_BYTE_CHARS, bos, eos, *(f"<{id_}>" for id_ in range(258, vocab_size))]
        return cls(backend, pieces, spelling="byte_level", bos_id=256, eos_id=257)

    def encode(
        self, text: str, add_special_tokens: bool = True, *, allow_special: bool = True, salt: str | None = None
    ) -> list[int]:
        """The ids of `text`; `add_special_tokens` puts the begin and end tokens that the model was trained with.

        With `allow_special=False` a special token spelled out in `text` ("<|im_end|>") is read as plain text. Use it
        for text of users that no template marked up: else they can forge the end of a turn. Pieces that a model
        declares as ordinary added text (runs of spaces, "<tool_call>") are matched in either case.
        With a `salt` the parts of long texts are kept, and found again by whoever brings the same salt (part_cache.py).
        A byte for which the vocabulary has no piece is dropped, as in the reference (SmolLM2 lacks six control characters).
        Raises InvalidRequest for text that is not Unicode (a lone surrogate).
        """
        return self.encode_all([text], add_special_tokens, allow_special=allow_special, salt=salt)[0]

    def encode_all(
        self, texts: Sequence[str], add_special_tokens: bool = True, *, allow_special: bool = True, salt: str | None = None
    ) -> list[list[int]]:
        """The ids of each text as `encode` has them. What is not known already is encoded on all cores; the last part of a text,
        which is the one that grows, is not kept."""
        long = max(map(len, texts), default=0) > PART_CHARS + LEAST_CHARS and self._may_cut
        split = [parts(text) if long else [text] for text in texts]
        keys = [None if salt is None or part is each[-1] else (salt, allow_special) for each in split for part in each]
        encode = functools.partial(_encoded, self._backend if allow_special else self._plain)
        found = iter(self._parts.ids_of([part for each in split for part in each], keys, encode))
        rows = [list(itertools.chain.from_iterable(itertools.islice(found, len(each)))) for each in split]
        return [[*self._prefix, *ids, *self._suffix] for ids in rows] if add_special_tokens else rows

    def least_tokens(self, text: str) -> int:
        """A number of tokens that `text` has at least, found without encoding it; 0 where the vocabulary proves nothing."""
        widest, vanishing = self._widest
        if not widest:
            return 0
        data = text.encode("utf-8", "surrogatepass")
        size = len(data.translate(None, vanishing)) if vanishing else len(data)
        return size // (widest if self._backend.normalizer is None or data.isascii() else widest * NORMALIZED_SHRINK)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Bytes that are not UTF-8 read as U+FFFD; ids outside the vocabulary as nothing."""
        skipped = self.special_ids if skip_special_tokens else frozenset()
        text = self.bytes_of(id_ for id_ in ids if id_ not in skipped).decode("utf-8", "replace")
        return text[1:] if self.strips_space and text.startswith(" ") else text

    def piece(self, id_: int) -> str:
        """The piece as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>"), "" outside the vocabulary."""
        return self._pieces[id_] if 0 <= id_ < self.vocab_size else ""

    def token_id(self, piece: str) -> int | None:
        """The id of a piece as the vocabulary spells it, or None."""
        id_: int | None = self._backend.token_to_id(piece)
        return id_

    def token_bytes(self, id_: int) -> builtins.bytes:
        """The exact bytes that a token adds to the text; a special token's are those of its name."""
        return self._bytes[id_]

    def bytes_of(self, ids: Iterable[int]) -> builtins.bytes:
        """The bytes of tokens one after the other."""
        return b"".join(map(self._bytes.__getitem__, ids))

    def token_text(self, id_: int) -> str:
        """One token as a person sees it; bytes that are no whole character read as \\xe2."""
        return self.token_bytes(id_).decode("utf-8", "backslashreplace")

    @cached_property
    def _widest(self) -> tuple[int, builtins.bytes]:
        """The most bytes of text that one token stands for, and the bytes that encoding may drop; 0: nobody knows."""
        backend = self._backend
        added = backend.get_added_tokens_decoder()
        absorbs = any(token.lstrip or token.rstrip for token in added.values())  # any number of spaces beside it
        steps = steps_of(backend)
        if absorbs or not isinstance(backend.model, models.BPE) or not all(map(_keeps, steps)):
            return 0, b""
        if self._spelling == "sentencepiece":
            covered = backend.model.byte_fallback and all(
                backend.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256)
            )
            return (max(len(piece.encode()) for piece in _pieces_of(backend)) if covered else 0), b""
        if not any(step["type"] == "ByteLevel" for step in steps):
            return 0, b""
        names = {token.content for token in added.values()}
        widest = max(len(piece.encode()) if piece in names else len(piece) for piece in _pieces_of(backend))
        return widest, bytes(byte for byte, char in enumerate(_BYTE_CHARS) if backend.token_to_id(char) is None)

    @cached_property
    def _may_cut(self) -> bool:
        """Whether parts of a long text may be encoded beside each other."""
        return may_cut(self._backend)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A second backend on the same vocabulary that reads special tokens as plain text."""
        plain = tokenizers.Tokenizer(self._backend.model)
        plain.normalizer = self._backend.normalizer
        plain.pre_tokenizer = self._backend.pre_tokenizer
        added = self._backend.get_added_tokens_decoder()
        plain.add_tokens([added[id_] for id_ in sorted(added)])  # in the order of ids: those past the model's are counted
        plain.encode_special_tokens = True
        return plain

    def _spell(self, id_: int) -> builtins.bytes:
        piece = self.piece(id_)
        if self._spelling == "sentencepiece":
            byte = BYTE_PIECE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()
        if piece.isascii() or id_ in self._verbatim:  # each byte of ASCII that has a character is that character
            return piece.encode()
        try:
            return piece.translate(_BYTES_BY_CHAR).encode("latin-1")
        except UnicodeEncodeError:  # a piece outside the byte alphabet is not made of bytes: it stands for itself
            return piece.encode()


class _Spellings(dict[int, bytes]):
    """The bytes of the tokens that were asked for, found by `spell` the first time: nearly all are then found without any code of ours."""

    def __init__(self, spell: Callable[[int], bytes]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, id_: int) -> bytes:
        found = self[id_] = self._spell(id_)
        return found


class _GgufVocabulary:
    """The checked `tokenizer.ggml.*` lists of one GGUF file, and the two kinds of tokenizer made from them."""

    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata
        self.model: str = self._get("model", "absent")
        self.pieces: list[str] = self._list("tokens", str)
        if not self.pieces:
            raise CheckpointError("the GGUF file has no tokenizer.ggml.tokens")
        self.kinds: list[int] = self._list("token_type", int) or [NORMAL] * len(self.pieces)
        if len(self.kinds) != len(self.pieces):
            raise CheckpointError(f"the GGUF tokenizer has {len(self.pieces)} tokens and {len(self.kinds)} token types")
        self.bos_id = self._token("bos_token_id")
        self.eos_id = self._token("eos_token_id")

    def byte_level(self) -> Tokenizer:
        """GPT-2's kind: bytes as printable characters, merges in order of rank, a named rule that splits text first."""
        name: str = self._get("pre", "default")
        rule = SPLIT_RULES.get(name)
        if rule is None:
            raise UnsupportedModel(f"GGUF pre-tokenizer {name!r} is not supported", hint=f"supported: {', '.join(SPLIT_RULES)}")
        if name == "default":
            log.fallback("tokenizer", "the GGUF file does not name its pre-tokenizer: GPT-2's is used")
        model = self._model(_numbered(self.pieces), self._merges(), ignore_merges=rule.whole_words)
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = rule.build()
        if rule.composes:
            backend.normalizer = normalizers.NFC()
        return self._finish(backend, self.pieces, "byte_level", add_bos=rule.add_bos)

    def sentencepiece(self) -> Tokenizer:
        """SentencePiece's kind: text with ▁ for spaces, pairs merged in order of score, bytes where a character is unknown."""
        prefixed = bool(self._get("add_space_prefix", True))
        # SentencePiece finds user-defined pieces in the text first, after spaces became ▁. Where a ▁ is put before the
        # text as well, the library would put one before these pieces too, so there they are found in the raw text.
        written, spelled = (SPACE, " ") if prefixed else (" ", SPACE)
        pieces = [
            piece.replace(written, spelled) if kind == USER_DEFINED else piece
            for piece, kind in zip(self.pieces, self.kinds, strict=True)
        ]
        unknown = self._token("unknown_token_id")
        model = self._model(
            _numbered(pieces),
            self._merges() or self._merges_by_score(),
            unk_token=None if unknown is None else pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
        backend = tokenizers.Tokenizer(model)
        space = normalizers.Replace(" ", SPACE)
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), space]) if prefixed else space
        return self._finish(backend, pieces, "sentencepiece", add_bos=True, prefixed=prefixed)

    def _finish(
        self, backend: tokenizers.Tokenizer, pieces: list[str], spelling: Spelling, *, add_bos: bool, prefixed: bool = False
    ) -> Tokenizer:
        """Add special and user-defined tokens; `add_bos` is what holds where the file does not say."""
        spaces_are_pieces = spelling == "sentencepiece" and not prefixed
        backend.add_tokens(
            [
                AddedToken(piece, special=kind != USER_DEFINED, normalized=kind == USER_DEFINED and spaces_are_pieces)
                for piece, kind in zip(pieces, self.kinds, strict=True)
                if kind in (UNKNOWN, CONTROL, USER_DEFINED) and piece
            ]
        )
        flags = bool(self._get("add_bos_token", add_bos)), bool(self._get("add_eos_token", False))
        return Tokenizer(
            backend,
            pieces,
            spelling=spelling,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            affixes=_affixes(self.bos_id, self.eos_id, *flags),
            strips_space=prefixed,
        )

    def _model(self, vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
        try:
            return models.BPE(vocab=vocab, merges=merges, **options)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"the GGUF tokenizer's merges do not fit its tokens: {error}") from error

    def _merges(self) -> list[tuple[str, str]]:
        pairs = [merge.partition(" ") for merge in self._list("merges", str)]
        if not all(left and right for left, _, right in pairs):
            raise CheckpointError("a merge of the GGUF tokenizer is not two pieces with a space between")
        return [(left, right) for left, _, right in pairs]

    def _merges_by_score(self) -> list[tuple[str, str]]:
        """Every pair of pieces that joins to a piece, best score first; ties by id, then the longer left part first.

        SentencePiece's BPE joins, again and again, the neighbours whose joint piece scores best. A list of merges
        says the same, as the rank of a pair is the rank of the piece it makes.
        """
        scores = self._list("scores", float)
        if len(scores) != len(self.pieces):
            raise CheckpointError(f"the GGUF tokenizer has {len(self.pieces)} tokens and {len(scores)} scores")
        normal = [id_ for id_, kind in enumerate(self.kinds) if kind == NORMAL]
        normal.sort(key=lambda id_: -scores[id_])
        known = {self.pieces[id_] for id_ in normal}
        return [
            (piece[:cut], piece[cut:])
            for piece in (self.pieces[id_] for id_ in normal)
            for cut in range(len(piece) - 1, 0, -1)
            if piece[:cut] in known and piece[cut:] in known
        ]

    def _get(self, name: str, default: Any) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}", default)

    def _list(self, name: str, item: type) -> list[Any]:
        values = self._get(name, [])
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        if values and not isinstance(values[0], item):
            raise CheckpointError(f"tokenizer.ggml.{name} holds {type(values[0]).__name__}, not {item.__name__}")
        return values

    def _token(self, name: str) -> int | None:
        id_ = self._get(name, None)
        if id_ is not None and not 0 <= id_ < len(self.pieces):
            raise CheckpointError(f"tokenizer.ggml.{name} is {id_}, past the {len(self.pieces)} tokens")
        return None if id_ is None else int(id_)


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: id_ for id_, piece in enumerate(pieces)}


def _byte_chars() -> str:
    """GPT-2's alphabet: character i stands for byte i; printable bytes stand for themselves, others follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


_BYTE_CHARS = _byte_chars()
_BYTES_BY_CHAR = dict.fromkeys(range(256), "\uffff") | {ord(char): chr(byte) for byte, char in enumerate(_BYTE_CHARS)}
"""For `str.translate`, to characters below 256; what is in no alphabet becomes one that is not, or stays what it is, above."""


def _affixes(bos_id: int | None, eos_id: int | None, add_bos: bool, add_eos: bool) -> tuple[list[int], list[int]]:
    return [bos_id] if add_bos and bos_id is not None else [], [eos_id] if add_eos and eos_id is not None else []


def _keeps(step: Mapping[str, Any]) -> bool:
    """Whether a step is known to drop nothing of a text (by more than `NORMALIZED_SHRINK`)."""
    if step["type"] == "Replace":
        return bool(step["pattern"] == {"String": " "} and step["content"] == SPACE)
    if step["type"] == "Split":
        return bool(step["behavior"] != "Removed")
    return step["type"] in ("NFC", "Prepend", "ByteLevel", "Digits", "Metaspace")


def _probe_affixes(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a backend's post-processor puts before and after a text, found by encoding one."""
    bare: list[int] = backend.encode("a", add_special_tokens=False).ids
    full: list[int] = backend.encode("a", add_special_tokens=True).ids
    extra = len(full) - len(bare)
    start = next((at for at in range(extra + 1) if full[at : at + len(bare)] == bare), 0)
    return full[:start], full[start + len(bare) :]


def _pieces_of(backend: tokenizers.Tokenizer) -> list[str]:
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    pieces = [""] * (max(vocab.values(), default=-1) + 1)
    for piece, id_ in vocab.items():
        pieces[id_] = piece
    return pieces


def _spelling_of(backend: tokenizers.Tokenizer, file: Path) -> tuple[Spelling, bool]:
    """How the decoder of a tokenizer.json reads pieces, and whether it drops the space before a text."""
    state = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    steps = {step["type"]: step for step in state.get("decoders", [state]) if step}
    if "ByteLevel" in steps:
        return "byte_level", False
    if "Metaspace" in steps:
        return "sentencepiece", steps["Metaspace"].get("prepend_scheme", "always") != "never"
    if "ByteFallback" in steps or "Replace" in steps:
        return "sentencepiece", "Strip" in steps
    raise UnsupportedModel(
        f"{file} decodes by {', '.join(steps) or 'nothing'}: only byte-level and SentencePiece-like are supported"
    )


def _encoded(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text, all of them beside each other."""
    for begin in range(0, len(texts), _TOGETHER):
        try:
            # The library's `encode` holds the interpreter's lock to its end; this lets other threads work meanwhile.
            found = backend.encode_batch_fast(texts[begin : begin + _TOGETHER], add_special_tokens=False)
        except TypeError as error:  # the library's word for text that has no UTF-8 form
            raise InvalidRequest(
                "the text is not valid Unicode: it holds bytes that are not UTF-8, or half of a surrogate pair"
            ) from error
        yield from (each.ids for each in found)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return content


def _named_id(backend: tokenizers.Tokenizer, settings: dict[str, Any], name: str) -> int | None:
    token = settings.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None
