"""What `redline bench` runs: how fast this machine is, beside how fast it could be.

Every kind says the ceiling first, then measures, and returns one JSON-able document (report.py) from which the table and
the plot are made. `decode`, `throughput` and `prefill` go through the offline door, `serve` and `start` through processes,
as a user would. This room must not know how a command line looks. Open harness.py first, then decode.py.
"""
