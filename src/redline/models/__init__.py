"""The model families: one short file each, wiring and a name table on shared layers. `registry.build` makes a model,
`load.load` fills it.

Knows nothing of requests, schedules or file formats. Open `registry.py` first, then `llama.py`.
"""
