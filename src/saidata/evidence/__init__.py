"""Evidence: all that is known of one software name, best first. Open `gather`.

It joins the index with the sources and decides which packages belong to a name and which of their facts matter most. It
knows nothing of documents, prompts or models.
"""

from __future__ import annotations

from saidata.evidence.gather import gather

__all__ = ["gather"]
