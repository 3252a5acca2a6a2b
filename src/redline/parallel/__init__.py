"""How a model is spread over devices: which rank this is, and what ranks say to each other.

Knows nothing of layers. Open `ranks.py` first; `probes.py` measures the ways between GPUs.
"""
