"""saidata: software metadata in which every fact is confirmed by evidence, contradicted (and not written) or marked not checkable.

An application on redline's public door: it uses `redline.LLM`, or any OpenAI-compatible server, and nothing else of the
engine. Facts come from an index of real packages; the model chooses among candidates and writes prose. Rooms, downhill:
format; index and sources; evidence and retrieve; generate and check; batch and evaluate; cli. Open `facts.py` first.
"""

from __future__ import annotations

__version__ = "0.3.0"
