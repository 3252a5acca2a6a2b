"""How a model is spoken to and what it answers: chat templates in a sandbox, tool calls and reasoning, one incremental parser.

Torch-free; knows nothing of engines or HTTP. Open `dialect.py` first, then `template.py` and `tool_parser.py`.
"""
