"""Is what saidata writes true? A gold set read from unpacked packages, measures with intervals, calibration, reports, a gate.

May use every lower room (it generates files in order to judge them), but the truth in `gold.jsonl` is read by this room's own
reader from the packages themselves, never through the index that generation reads. Open `gold.py` first, then `measures.py`.
"""
