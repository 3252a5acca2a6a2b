"""`saidata jobs`: what batches there are, how far they are, and going on with them. Open `command`."""

from __future__ import annotations

from typing import Any, get_args

import click
import msgspec

from saidata.batch.jobs import JobRecord, Jobs, State
from saidata.batch.store import Store
from saidata.cli.batch import run_job
from saidata.cli.options import JSON
from saidata.cli.workshop import Workshop
from saidata.places import work_file

KEY = click.option("--api-key", default=None, help="Key for the server, which is not kept with the job.")
ADDRESS = click.option("--base-url", default=None, help="Another address for the same model.")

LONGEST_SHOWN = 128  # the longest name that can be a file's


@click.group("jobs")
def command() -> None:
    """List, show, resume, retry and cancel batches."""


@command.command("list")
@JSON
def list_jobs(as_json: bool) -> None:
    """Every job, the newest first."""
    with Store(work_file()) as store:
        jobs = Jobs(store).all()
    if as_json:
        click.echo(msgspec.json.encode([_told(job) for job in jobs]))
        return
    if not jobs:
        click.echo("there is no job yet: see `saidata batch --help`")
    for job in jobs:
        counts = job.counts
        click.echo(
            f"{job.id:>4}  {job.state:<18}  {counts['done'] + counts['kept']} of {job.total} done, {counts['failed']} failed  "
            f"{job.list_name} -> {job.folder}"
        )


@command.command("show")
@click.argument("number", type=int)
@click.option("--state", type=click.Choice(get_args(State)), default=None, help="Only items in this state.")
@JSON
def show(number: int, state: State | None, as_json: bool) -> None:
    """One job and its items, with the reason of each failure."""
    with Store(work_file()) as store:
        jobs = Jobs(store)
        job, items = jobs.job(number), jobs.items(number, state)
    if as_json:
        click.echo(msgspec.json.encode({**_told(job), "items": items}))
        return
    click.echo(f"job {job.id} of {job.made_at}: {job.state}, model {job.settings.model}, {job.list_name} -> {job.folder}")
    for item in items:
        click.echo(f"{item.state:<8} {_short(item.name)}{f': {item.reason}' if item.reason else ''}")


@command.command("resume")
@click.argument("number", type=int)
@ADDRESS
@KEY
@JSON
def resume(number: int, base_url: str | None, api_key: str | None, as_json: bool) -> int:
    """Go on with what is waiting."""
    return _run(number, base_url, api_key, as_json, again=False)


@command.command("retry")
@click.argument("number", type=int)
@ADDRESS
@KEY
@JSON
def retry(number: int, base_url: str | None, api_key: str | None, as_json: bool) -> int:
    """Try what failed once more, and go on with what is waiting."""
    return _run(number, base_url, api_key, as_json, again=True)


@command.command("cancel")
@click.argument("number", type=int)
def cancel(number: int) -> None:
    """Begin no further file of a job, also where another process runs it; `resume` takes it up again."""
    with Store(work_file()) as store:
        Jobs(store).cancel(number)
    click.echo(f"job {number} is cancelled; saidata jobs resume {number} takes it up again")


def _run(number: int, base_url: str | None, api_key: str | None, as_json: bool, *, again: bool) -> int:
    with Store(work_file()) as store:
        jobs = Jobs(store)
        if again:
            jobs.retry(number)
        else:
            jobs.revive(number)
        settings = jobs.job(number).settings
    if base_url is not None:
        settings = msgspec.structs.replace(settings, base_url=base_url)
    with Workshop(settings, key=api_key, quiet=as_json) as workshop:
        return run_job(workshop, number, as_json=as_json)


def _short(name: str) -> str:
    """A name of a list as a terminal takes it: a list may hold anything."""
    return name if len(name) <= LONGEST_SHOWN and name.isprintable() else ascii(name[:LONGEST_SHOWN]) + "..."


def _told(job: JobRecord) -> dict[str, Any]:
    return {**msgspec.to_builtins(job), "state": job.state, "total": job.total}
