"""What conversations look like to a model: chat templates, run in a sandbox.

Torch-free; knows nothing of engines or HTTP. Open `template.py` first.
"""
