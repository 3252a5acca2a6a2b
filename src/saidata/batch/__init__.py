"""Many files: durable jobs, answers kept for a second run, and an archive of every version.

Knows nothing of commands or terminals. Open `run.Runner` first; `store.Store` is the file that all of it lies in.
"""
