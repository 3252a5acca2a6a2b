"""Files from evidence and a model: what evidence decides is filled in, the model chooses among candidates and writes prose.

Knows nothing of indexes, jobs or commands. Open `make.Maker` first: `plan` (what is decided, what is asked), `prompt`, one
constrained answer, `reading`, `judge` (verdicts and what must not be written), and `made.Made`, the result.
"""
