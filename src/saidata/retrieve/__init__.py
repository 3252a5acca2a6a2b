"""Retrieval: from what a person types to the packages it may mean. Open `ranking.search`.

Exact-name tiers first, then the full text weighed by how likely each package is meant at all; every candidate says why it is
one. Knows nothing of documents or models, and never of the network.
"""

from __future__ import annotations

from saidata.retrieve.ranking import Weights, search

__all__ = ["Weights", "search"]
