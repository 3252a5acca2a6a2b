"""The entry point: `main`. Finds the command, and turns what goes wrong into one sentence and an exit code.

Exit codes: 0 fine, 1 our fault, 2 the user's mistake, 3 findings of a check, 130 interrupted. A command's module is
imported only when that command runs; the one-line helps live in `COMMANDS` so that `--help` imports none of them.
Knows nothing of what a command does. Open `main` first.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
import traceback

import click
from click.exceptions import NoArgsIsHelpError

from redline import __version__
from redline.errors import RedlineError

INTERRUPTED = 130

# What an operating system says that is the user's to mend: a disk, a permission or a limit, wherever it was met.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE}

COMMANDS = {
    "serve": "Serve a model over the OpenAI API.",
    "generate": "Answer one prompt.",
    "chat": "Talk with a model.",
    "run-batch": "Answer the requests of an OpenAI batch file, without a server.",
    "ps": "List the servers that run on this machine.",
    "pull": "Fetch a model into the cache folder.",
    "list": "List the models that are here and the aliases.",
    "show": "Show what a model is: shape, formats, tokenizer, template.",
    "keys": "Make, list, change and revoke API keys, and see what they used.",
    "completion": "Print the script that completes commands in your shell.",
    "bench": "Measure decode, prefill, serving, kernels or the start against this machine's limit.",
    "plan": "Say what a model will do on this machine or another, before it is loaded.",
    "doctor": "Say what this machine is, what it can do and what is wrong.",
}


class LazyGroup(click.Group):
    """Imports `redline.cli.NAME` for command NAME (run_batch for run-batch); its click command is called `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"redline.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

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
    _open_streams()
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _drop_output()  # else the interpreter tries once more when it ends, and complains in its own words
        if code == 0 and not isinstance(error, BrokenPipeError):
            _say(f"the output could not be written: {getattr(error, 'strerror', error)}")
            code = 2
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        code = redline.main(args=arguments, prog_name="redline", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        _say_usage(error)
        return error.exit_code
    except RedlineError as error:
        _say(error.sentence())
        return error.exit_code
    except SystemExit:
        # How click ends when the reader of our output has left, as in `redline list | head`: nobody's fault.
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _MACHINE:
            _say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
            return 2
        traceback.print_exc()
        _say(f"internal error: {type(error).__name__}: {error} (this is a fault in redline; the lines above say where)")
        return 1
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Give a standard stream that was closed before we began (`2>&-`) somewhere to go."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _drop_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_usage(error: click.ClickException) -> None:
    """A mistake in the command line in one line, and where its help is; the whole help where nothing was given."""
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    help_of = context.command_path if context else "redline"
    _say(f"{message}{'' if message[-1:] in '.?)' else '.'} See {help_of} --help")


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        click.echo(f"redline: {sentence}", err=True)


if __name__ == "__main__":
    sys.exit(main())
