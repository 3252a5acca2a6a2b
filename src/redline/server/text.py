"""What a server needs of a model beside its engine: its name, its tokenizer and its template. Open `open_text`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.config import ModelConfig

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """The text half of a model."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate


def open_text(model: ModelConfig) -> Text:
    """Tokenizer and template of a model. Raises NotFound, CheckpointError, ConfigError ..."""
    from redline.chat.template import ChatTemplate
    from redline.checkpoint import opener

    checkpoint = opener.open(model.model, revision=model.revision)
    template = ChatTemplate.of_model(checkpoint.chat_template, checkpoint.template_tokens, file=model.chat_template)
    return Text(checkpoint.name, opener.tokenizer_for(checkpoint, model.tokenizer), template)
