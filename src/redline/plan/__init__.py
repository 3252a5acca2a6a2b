"""What a machine can do with a model, before and after it runs: the roofline, the memory, the choices, the receipt.

Knows a `ModelShape` and records of devices, never a model, a tensor or torch. Open `roofline.py` first (bytes and
FLOPs of a step), then `memory.py` (what must fit), `resolve.py` (a config in which nothing is auto) and `receipt.py`
(the limit beside what was measured). For `redline plan` open `predict.py` (what a step will take) and `search.py`
(the layout that meets a goal).
"""
