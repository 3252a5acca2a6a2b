"""The server room: the OpenAI API over HTTP, in front of one engine process.

A request goes app -> auth -> limits -> chat or completions (schema, template, tokens) -> the engine's client; its
chunks come back through the engine's `Answer` and leave as one JSON document or as server-sent events. Torch-free; knows
nothing of devices, pages or scheduling. Open `app.py` first.
"""
