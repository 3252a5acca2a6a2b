"""The entry point: `main`. Finds the command, and turns what goes wrong into one sentence and an exit code.

Exit codes: 0 fine, 1 our fault, 2 the user's mistake, 3 findings of a check, 130 interrupted. A command's module is imported
only when that command runs; the one-line helps live in `COMMANDS` so that `--help` imports none of them. Open `main` first.
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

from saidata import __version__
from saidata.errors import BadText, Refused, SaidataError

INTERRUPTED = 130

# What an operating system says that is the user's to mend: a disk, a permission, a path or a limit, wherever it was met.
_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
}
_MACHINE |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}

COMMANDS = {
    "generate": "Write the saidata file of one software, from evidence.",
    "batch": "Write the files of a whole list, and resume where it was stopped.",
    "jobs": "List, show, resume, retry and cancel batches.",
    "archive": "Show, compare and bring back earlier results.",
    "index": "Build, update, search, export and import the index of real packages.",
    "search": "Find the packages that a name or a description means.",
    "evidence": "Show what is known about one software, and from where.",
    "lint": "Check files by themselves: format, spelling, shape.",
    "check": "Check files against evidence: is what they say true?",
    "merge": "Show a file as it stands on one operating system.",
    "convert": "Write a file of saidata 0.1 or 0.2 as 0.3.",
    "schema": "Print the JSON schema.",
    "eval": "Measure generation on the gold set.",
}


class LazyGroup(click.Group):
    """Imports `saidata.cli.NAME` for command NAME (with _ for -); its click command is called `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"saidata.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and args[0] not in COMMANDS:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="saidata")
def saidata() -> None:
    """Software metadata in which every fact is confirmed by evidence, contradicted (and not written) or marked not checkable."""


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
        code = saidata.main(args=arguments, prog_name="saidata", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        _say_usage(error)
        return error.exit_code
    except SaidataError as error:
        place = f"{error.line}:{error.column}: " if isinstance(error, BadText) and error.line else ""
        _say(f"{place}{error.sentence()}")
        return error.exit_code
    except SystemExit:
        # How click ends when the reader of our output has left, as in `saidata lint | head`: nobody's fault.
        return 0
    except Exception as error:
        return _say_fault(error)
    return code if isinstance(code, int) else 0


def _say_fault(error: Exception) -> int:
    if type(error).__module__.split(".")[0] == "redline" and hasattr(error, "sentence"):  # the engine's own errors
        _say(error.sentence())
        return int(getattr(error, "exit_code", 1))
    if isinstance(error, OSError) and error.errno in _MACHINE:
        refused = Refused(error)
        _say(refused.sentence())
        return refused.exit_code
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing and missing.split(".")[0] not in ("saidata", "redline"):
        _say(f"the package {missing} is missing: pip install '.[saidata]' in redline's folder")
        return 2
    traceback.print_exc()
    _say(f"internal error: {type(error).__name__}: {error} (this is a fault in saidata; the lines above say where)")
    return 1


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
    help_of = context.command_path if context else "saidata"
    _say(f"{message}{'' if message[-1:] in '.?)' else '.'} See {help_of} --help")


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        click.echo(f"saidata: {sentence}", err=True)


if __name__ == "__main__":
    sys.exit(main())
