"""The index: what an archive's packages are called, say of themselves and ship, in one SQLite file per snapshot.

Knows nothing of documents, models or ranking; `retrieve` ranks and `evidence` gathers. Open `store.Index` to read one,
`build.build` to see how it is made, `snapshots` for how it is kept, swapped and carried to another machine.
"""

from __future__ import annotations

from saidata.index.store import Index, Package

__all__ = ["Index", "Package"]
