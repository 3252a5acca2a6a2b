"""The command line of saidata: one file per command, found by main.py.

The composition root: it may import every room, and nothing imports it. A command's module is imported when that command runs,
and torch only when a model is asked in this process. Open main.py first.
"""
