"""The entry point: `main`. Finds the command, and turns what goes wrong into one sentence and an exit code.

Exit codes: 0 fine, 1 our fault, 2 the user's mistake, 3 findings of a check, 130 interrupted. A command's module is
imported only when that command runs; the one-line helps live in `COMMANDS` so that `--help` imports none of them.
Knows nothing of what a command does. Open `main` first.
"""

from __future__ import annotations

import importlib
import sys
import traceback

import click

from redline import __version__
from redline.errors import RedlineError

INTERRUPTED = 130

COMMANDS = {
    "serve": "Serve a model over the OpenAI API.",
    "generate": "Answer one prompt.",
    "chat": "Talk with a model.",
    "pull": "Fetch a model into the cache folder.",
    "list": "List the models that are here and the aliases.",
    "show": "Show what a model is: shape, formats, tokenizer, template.",
    "doctor": "Say what this machine is, what it can do and what is wrong.",
}


class LazyGroup(click.Group):
    """Imports `redline.cli.NAME` for command NAME; its click command is called `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"redline.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="redline")
def redline() -> None:
    """An LLM inference engine that plans, runs and proves how close it comes to the machine's limit.

    MODEL is a .gguf file, a Hugging Face style folder, a hub name (org/name, org/name:Q4_K_M), an alias (see `redline
    list`), or random:NAME for random weights of a known shape.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        code = redline.main(args=arguments, prog_name="redline", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except RedlineError as error:
        _say(error.sentence())
        return error.exit_code
    except SystemExit:
        # How click ends when the reader of our output has left, as in `redline list | head`: nobody's fault.
        return 0
    except Exception as error:
        traceback.print_exc()
        _say(f"internal error: {type(error).__name__}: {error} (this is a fault in redline; the lines above say where)")
        return 1
    return code if isinstance(code, int) else 0


def _say(sentence: str) -> None:
    click.echo(f"redline: {sentence}", err=True)


if __name__ == "__main__":
    sys.exit(main())
