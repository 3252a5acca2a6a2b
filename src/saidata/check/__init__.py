"""Is a saidata file sound, and is what it says true? Rules, verdicts, reports.

Must not know indexes, models or the command line: what it needs of an index is handed in as evidence and as a function. Open
verdicts.py (`verdicts`, pure, also used by generation) or check.py (`check`, a whole file).
"""

from __future__ import annotations

from saidata.check.verdicts import Known, verdicts

__all__ = ["Known", "verdicts"]
