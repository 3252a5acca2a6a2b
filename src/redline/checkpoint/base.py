"""What every kind of checkpoint offers: the `Checkpoint` protocol, and the records it hands out.

The loader, the planner and the doors read these and never a file format. Open `Checkpoint` first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from redline.checkpoint.embedding import EmbeddingDefaults
from redline.checkpoint.packed import Packed

if TYPE_CHECKING:
    from redline.shapes import ModelShape
    from redline.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """How the model's makers generate. `eos_ids` end an answer; a field that is None was not stated."""

    eos_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class Checkpoint(Protocol):
    """A model that lies somewhere, opened: numbers at once, weights as an iterator of memory-mapped records."""

    @property
    def name(self) -> str:
        """Short name: what the user opened it by, or the file's name without its ending."""
        ...

    @property
    def shape(self) -> ModelShape: ...

    @property
    def generation(self) -> GenerationDefaults: ...

    @property
    def embedding(self) -> EmbeddingDefaults: ...

    @property
    def chat_template(self) -> str | None:
        """Jinja source, or None where the model brings none."""
        ...

    @property
    def template_tokens(self) -> dict[str, str]:
        """Texts that a template may name: bos_token, eos_token, pad_token, unk_token, as far as the model has them."""
        ...

    @property
    def stored_dtype(self) -> str:
        """The format (a key of FORMATS) that holds most of the weights."""
        ...

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights that `arrays` yields, as they lie in the file."""
        ...

    def arrays(self) -> Iterator[Packed]:
        """Every tensor once, in the order in which it lies in the file. A name that redline does not know keeps its own."""
        ...

    def tokenizer(self) -> Tokenizer: ...


def dominant_format(elements: Iterable[tuple[str, int]]) -> str:
    """The format that holds the most weights, from (format, elements) pairs."""
    totals: Counter[str] = Counter()
    for name, size in elements:
        totals[name] += size
    return totals.most_common(1)[0][0]
