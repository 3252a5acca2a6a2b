"""The commands: one file each, and the composition root that puts the rooms together.

Nothing below imports this room. `redline --help` must answer at once, so a command's module is imported when that command
is asked for, and torch only when it has begun its work. Open `main.py` first.
"""
