"""`redline completion SHELL`: the script that lets a shell complete commands, options and models.

The work is click's; models are those in the store, the aliases and the known shapes. Torch-free and fast: a shell asks at
every press of the key. Open `command`.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

_VARIABLE = "_REDLINE_COMPLETE"  # click's own rule: the program's name decides
_HINTS = {
    "bash": 'add to ~/.bashrc:  eval "$(redline completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(redline completion zsh)"',
    "fish": "run once:  redline completion fish > ~/.config/fish/completions/redline.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_HINTS)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL; its first line says where it goes."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "redline", _VARIABLE)
    click.echo(f"# {_HINTS[shell]}\n{script.source_template % script.source_vars()}")


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Models that begin with what was typed, and then files."""
    from redline import shapes
    from redline.checkpoint import random, store
    from redline.checkpoint.aliases import ALIASES

    here = {row.name: "here" for row in store.list_models()}
    known = {name: alias.about for name, alias in ALIASES.items()} | here
    if incomplete.startswith(random.PREFIX[: max(1, len(incomplete))]):
        known |= {random.PREFIX + name: "random weights" for name in shapes.KNOWN}
    found = [CompletionItem(name, help=about) for name, about in known.items() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
