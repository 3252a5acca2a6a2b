"""What most commands take: `MODEL` and `--json`. Nothing of a configuration is imported for them; that is `options.py`."""

from __future__ import annotations

import click

from redline.cli.completion import complete_models

MODEL = click.argument("model", shell_complete=complete_models)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
