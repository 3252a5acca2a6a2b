"""`saidata batch LIST --out DIR`: the files of a whole list, as a durable job. Open `command`; `run_job` is shared with `saidata jobs`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from saidata.batch.jobs import Jobs
from saidata.batch.names import chosen, read_list
from saidata.batch.run import Progress, Runner
from saidata.cli.options import JSON
from saidata.cli.workshop import Workshop, model_options, settings_of
from saidata.errors import FINDINGS, Misuse, SaidataError

EVERY_S = 5.0
INTERRUPTED = 130


@click.command("batch")
@click.argument("list_file", type=click.Path(path_type=Path), metavar="LIST")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
@click.option("--category", default=None, help="Only names under a `## header` that this regular expression finds.")
@click.option(
    "--side-by-side", type=click.IntRange(1, 1024), default=32, show_default=True, help="Requests at a time, behind an address."
)
@click.option("--force", is_flag=True, help="Replace files that were edited by hand; the archive keeps them.")
@click.option("--anew", is_flag=True, help="Begin a new job even where the same one is unfinished.")
@JSON
@model_options
def command(
    list_file: Path, out: Path, category: str | None, side_by_side: int, force: bool, anew: bool, as_json: bool, **options: Any
) -> int:
    """Write the files of every name in LIST: one a line, `## headers` are categories, # begins a comment.

    A job may end at any moment, kill -9 included, and goes on where it was when the same command is given again. Exit code 3: some
    names could not be done.
    """
    names = chosen(read_list(list_file), category)
    if not names:
        raise Misuse(f"{list_file} names no software", hint="write one name a line")
    key = options.pop("api_key")
    settings = msgspec.structs.replace(settings_of(options), side_by_side=side_by_side, force=force)
    with Workshop(settings, key=key, quiet=as_json) as workshop:
        number, known = Jobs(workshop.store).start(names, str(list_file), out, settings, anew=anew)
        if known:
            click.echo(f"job {number} goes on", err=True)
        return run_job(workshop, number, as_json=as_json)


def run_job(workshop: Workshop, number: int, *, as_json: bool) -> int:
    """Run a job to its end, or to Ctrl-C, and say how it went."""
    meter = _Meter(quiet=as_json)
    runner = Runner(workshop.store, workshop.makers, workshop.evidence, meter)
    try:
        with _stopping(runner):
            progress = runner.run(number)
    except SaidataError as error:
        meter.end()
        error.hint = f"{error.hint}; " * bool(error.hint) + f"nothing is lost: saidata jobs resume {number}"
        raise
    meter.end()
    job = Jobs(workshop.store).job(number)
    if as_json:
        click.echo(msgspec.json.encode({"job": number, "state": job.state, "progress": progress, "counts": job.counts}))
    else:
        _summary(job.counts, progress, number)
    if job.counts["waiting"]:
        return INTERRUPTED
    return FINDINGS if job.counts["failed"] else 0


@contextmanager
def _stopping(runner: Runner) -> Iterator[None]:
    """The first Ctrl-C lets what is with the model end; the second ends at once, and nothing is lost either way."""

    def stop(*_: object) -> None:
        click.echo("\nending after the files that are with the model; Ctrl-C again ends now", err=True)
        runner.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(counts: dict[str, int], progress: Progress, number: int) -> None:
    shares = (
        f", {progress.cached_tokens} of {progress.prompt_tokens} prompt tokens known before" if progress.prompt_tokens else ""
    )
    click.echo(
        f"job {number}: {counts['done']} done, {counts['kept']} kept as they were edited, {counts['failed']} failed, "
        f"{counts['waiting']} waiting"
    )
    click.echo(
        f"{progress.seconds:.1f} s, {progress.valid} valid, {progress.repaired} asked again, {progress.from_cache} from kept answers, "
        f"{progress.tokens} tokens{shares}"
    )
    if counts["failed"]:
        click.echo(f"why: saidata jobs show {number} --state failed; once more: saidata jobs retry {number}")


class _Meter:
    """One line that is redrawn on a terminal, one every few seconds elsewhere."""

    def __init__(self, *, quiet: bool):
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._told = 0.0
        self._shown = False

    def __call__(self, progress: Progress, name: str, state: str) -> None:
        now = time.monotonic()
        if self._quiet or now - self._told < (0.2 if self._terminal else EVERY_S):
            return
        self._told = now
        left = "" if progress.left_s is None else f", {_time(progress.left_s)} left"
        failed = f", {progress.failed} failed" if progress.failed else ""
        line = (
            f"{progress.ended} of {progress.total}{failed}, {progress.files_per_minute:.0f} a minute, {progress.tokens_per_s:.0f} tokens/s, "
            f"{progress.from_cache} from kept answers{left}"
        )
        click.echo(f"\r{line:<100}" if self._terminal else line, err=True, nl=not self._terminal)
        self._shown = True

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._shown:
            click.echo(err=True)


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
