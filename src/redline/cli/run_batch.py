"""`redline run-batch INPUT OUTPUT`: an OpenAI batch file answered on this machine, without a server.

The lines are checked and answered by the server's own code, over an engine of their own. Killed at any moment, the same
command goes on where it was. Open `command`, then `_answer`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from redline import env, log
from redline.cli.completion import complete_models
from redline.cli.fetch import make_local
from redline.cli.options import ENGINE_SECTIONS, config_options, split
from redline.cli.progress import Progress
from redline.config import EngineConfig, ServerConfig
from redline.engine.message import error_of
from redline.errors import EngineDead, InvalidRequest
from redline.server.batch_file import FileBatch, Input, is_done
from redline.server.schema import quoted

FINDINGS = 3
INTERRUPTED = 130
EVERY_S = 10.0  # between lines of progress where nobody watches


@click.command("run-batch")
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--model", default=None, shell_complete=complete_models, help="Model to run; the one that the lines name where not given."
)
@click.option("--served-model-name", default=None, help="The name that the lines have for the model.")
@config_options(*ENGINE_SECTIONS)
@click.pass_context
def command(
    ctx: click.Context, /, input: Path, output: Path, model: str | None, served_model_name: str | None, **options: Any
) -> None:
    """Answer the requests of INPUT, an OpenAI batch file, and write the results to OUTPUT in the same order.

    Every line of INPUT gets one line of OUTPUT, errors included. What is done is kept in OUTPUT.partial as it comes: after
    an interruption, the same command does the rest. Ends with 3 where a line ended with an error.
    """
    log.setup("warning" if env.log_level() == "info" else env.log_level())
    asked = Input(input)
    failed = is_done(asked, output)
    if failed is not None:
        click.echo(f"{output} is complete: {len(asked.lines)} lines, {failed} with an error", err=True)
        ctx.exit(FINDINGS if failed else 0)
    model = model or _named(asked)
    engine_options, _ = split(options, *ENGINE_SECTIONS)
    engine = EngineConfig.from_options(model=model, **engine_options)
    with FileBatch(asked, output, model, meter := _Meter(len(asked.lines))) as batch:
        meter.begin(batch.done)
        if batch.done < batch.total:
            try:
                asyncio.run(_answer(batch, asked, engine, served_model_name))
            except KeyboardInterrupt:
                meter.end()
                click.echo(f"{batch.done} of {batch.total} lines are done: the same command goes on from here", err=True)
                ctx.exit(INTERRUPTED)
        batch.complete()
        meter.end()
    click.echo(f"{output}: {batch.total} lines, {batch.failed} with an error", err=True)
    ctx.exit(FINDINGS if batch.failed else 0)


async def _answer(batch: FileBatch, asked: Input, engine: EngineConfig, served_name: str | None) -> None:
    """Load the model and answer what is left."""
    from redline.engine.supervisor import Supervisor
    from redline.server.app import build
    from redline.server.batch_runner import LineRunner
    from redline.server.caller import ANYONE
    from redline.server.inside import Inside
    from redline.server.text import open_text

    with Progress() as progress:
        make_local(engine.model.model, revision=engine.model.revision, progress=progress)
        client = Supervisor(engine, on_progress=lambda now: progress(now.stage, now.percent / 100))
        text = await asyncio.to_thread(open_text, engine.model)
        _check_names(asked, {text.name, engine.model.model, served_name}, named=served_name or text.name)
        app = build(client, text.tokenizer, text.template, ServerConfig(served_model_name=served_name or text.name))
        try:
            info = await client.start()
        except BaseException:
            await client.close()
            app.state.service.close()
            raise

    async def may_start() -> None:
        while not client.alive:
            if client.state == "dead":
                raise error_of(client.failure) if client.failure else EngineDead("there is no engine")
            await asyncio.sleep(0.1)

    width = 2 * max(1, info.max_num_seqs)  # the next are tokenised while others run
    runner = LineRunner(Inside(app).post, lambda: ANYONE, asyncio.Semaphore(width), width=width, may_start=may_start)
    try:
        await runner.run(batch)
    finally:
        await client.close()
        app.state.service.close()


def _named(asked: Input) -> str:
    """The one model that the lines name. Raises InvalidRequest where that is none or several."""
    if len(asked.models) == 1 and (name := next(iter(asked.models))) is not None:
        return name
    told = ", ".join(sorted(quoted(name) for name in asked.models if name is not None)) or "no model"
    raise InvalidRequest(f"the lines of {asked.path} name {told}", hint="say which one to run with --model", param="model")


def _check_names(asked: Input, known: set[str | None], *, named: str) -> None:
    for name in sorted(filter(None, asked.models - known)):
        raise InvalidRequest(
            f"lines of {asked.path} ask for the model {quoted(name)}, and this is {named}",
            hint=f"add --served-model-name {name} to answer them with it",
            param="served_model_name",
        )


class _Meter:
    """Says how far the lines are: one line that is redrawn on a terminal, one every few seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._before = self._since = self._told = 0.0
        self._shown = False

    def begin(self, done: int) -> None:
        self._before, self._since = done, 0.0
        if done:
            click.echo(f"{done} of {self._total} lines were done before", err=True)

    def __call__(self, done: int, failed: int) -> None:
        now = time.monotonic()
        self._since = self._since or now
        if now - self._told < (0.2 if self._terminal else EVERY_S) and done < self._total:
            return
        self._told = now
        rate = (done - self._before) / (now - self._since) if now > self._since else 0.0
        left = f"{_time((self._total - done) / rate)} left" if rate else "time left not known yet"
        errors = f", {failed} with an error" if failed else ""
        line = f"{done} of {self._total} lines{errors}, {rate:.1f} a second, {left}"
        click.echo(f"\r{line:<78}" if self._terminal else line, err=True, nl=not self._terminal)
        self._shown = True

    def end(self) -> None:
        if self._terminal and self._shown:
            click.echo(err=True)


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
