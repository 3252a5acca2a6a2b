"""How saidata speaks with a language model: questions and answers, a model in this process, a model behind an address.

Knows nothing of saidata's format, of evidence or of what is asked. Open `ask.Model` first, then `local.Local` and
`remote.Remote`; `open_model` chooses between them.
"""

from __future__ import annotations

from saidata.models.ask import Answer, Ask, Message, Model, Piece, Score
from saidata.models.choose import open_model
from saidata.models.local import Local
from saidata.models.remote import Remote

__all__ = ["Answer", "Ask", "Local", "Message", "Model", "Piece", "Remote", "Score", "open_model"]
