"""`redline keys`: make, list, change and take back API keys, and see what they used; servers that run follow within a second.

Works on the files of the state folder, whether or not a server runs. A key is printed once, when it is made. Open `command`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from redline import env
from redline.cli.arguments import JSON
from redline.errors import InvalidRequest
from redline.server import keys, usage
from redline.server.database import Database
from redline.server.keys import KEY_SCOPES, Changes, Key, Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrency")

STATE_DIR = click.option(
    "--state-dir", default=None, help="Folder of the keys, as given to redline serve; REDLINE_DATA's by default."
)
KEY = click.argument("key_id", metavar="ID")


def _settings(function: Decorated) -> Decorated:
    """The options that say what a key allows."""
    options = (
        click.option("--scope", "scopes", multiple=True, type=click.Choice(KEY_SCOPES), help="What it may do; may be repeated."),
        click.option("--model", "models", multiple=True, help="A model it may ask, and no other; may be repeated."),
        click.option("--expires", help="30d, 12h, or a day such as 2027-01-31 (UTC)."),
        click.option("--requests-per-minute", type=int, help="API calls that it may start in a minute."),
        click.option("--tokens-per-minute", type=int, help="Prompt and answer tokens that it may use in a minute."),
        click.option("--tokens-per-day", type=int, help="Prompt and answer tokens that it may use in 24 hours."),
        click.option("--concurrency", type=int, help="API calls that it may have at the engine together."),
        click.option("--priority", type=int, help="Added to its requests' own; lower runs first."),
        click.option("--weight", type=float, help="Of its share of a full queue; 2 gets twice as much as 1."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group("keys")
def command() -> None:
    """Make, list, change and revoke API keys, and see what they used.

    A server demands a key as soon as its state folder has one, revoked ones included.
    """


@command.command("add")
@click.argument("name")
@_settings
@STATE_DIR
@JSON
def add(name: str, state_dir: str | None, as_json: bool, **options: Any) -> None:
    """Make a key called NAME and print it. It is not kept: nobody can print it again.

    Without --scope it may ask models, keep files and look at its own usage, but not use the admin API.
    """
    settings = Settings(name=name, **_given(options))
    with _database(state_dir, keys.FILE, keys.MIGRATIONS) as database:
        key, token = database.run(lambda connection: keys.add(connection, settings))
    click.echo(json.dumps({**key.document(), "token": token}) if as_json else token)
    if not as_json:
        click.echo(f"key {key.id} ({_about(key)}); keep it now, it is not shown again", err=True)


@command.command("list")
@STATE_DIR
@JSON
def list_(state_dir: str | None, as_json: bool) -> None:
    """List the keys, without the keys themselves."""
    with _database(state_dir, keys.FILE, keys.MIGRATIONS) as database:
        found = database.run(keys.every)
    if as_json:
        click.echo(json.dumps({"keys": [key.document() for key in found]}))
        return
    rows = [("ID", "NAME", "STATE", "ALLOWS")]
    rows += [(key.id, key.settings.name, keys.state_of(key), _about(key)) for key in found]
    _table(rows)


@command.command("update")
@KEY
@click.option("--name", help="What it is called from now on.")
@_settings
@click.option("--no", "cleared", multiple=True, help="Take a limit away: model, expires, tokens-per-day ...; may be repeated.")
@STATE_DIR
@JSON
def update(key_id: str, name: str | None, cleared: tuple[str, ...], state_dir: str | None, as_json: bool, **options: Any) -> None:
    """Change what the key ID allows."""
    given = _given(options) | ({} if name is None else {"name": name})
    for text in cleared:
        field = {"model": "models"}.get(text, text.replace("-", "_"))
        if field not in (*_LIMITS, "models", "expires"):
            raise click.BadParameter(f"there is no limit {text}", param_hint="--no")
        given[field] = None
    with _database(state_dir, keys.FILE, keys.MIGRATIONS) as database:
        key = database.run(lambda connection: keys.update(connection, key_id, Changes(**given)))
    click.echo(json.dumps(key.document()) if as_json else f"key {key.id} ({_about(key)})")


@command.command("revoke")
@KEY
@STATE_DIR
@JSON
def revoke(key_id: str, state_dir: str | None, as_json: bool) -> None:
    """Take the key ID back, for good."""
    with _database(state_dir, keys.FILE, keys.MIGRATIONS) as database:
        key = database.run(lambda connection: keys.revoke(connection, key_id))
    click.echo(json.dumps(key.document()) if as_json else f"key {key.id} ({key.settings.name}) is revoked")


@command.command("usage")
@click.option("--key", "key_id", help="Of this key alone.")
@click.option("--since", default="7d", show_default=True, help="How far back: 24h, 7d, or a day such as 2027-01-31 (UTC).")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@STATE_DIR
@JSON
def show_usage(key_id: str | None, since: str, as_csv: bool, state_dir: str | None, as_json: bool) -> None:
    """What keys used, by hour and model. A running server writes its numbers once a second."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    start = int(_moment(since, "--since", -1)) // usage.HOUR_S * usage.HOUR_S
    with _database(state_dir, usage.FILE, usage.MIGRATIONS) as database:
        rows = database.run(lambda connection: usage.rows_of(connection, start, time.time() + 1, key_id))
    if as_csv:
        click.echo(usage.as_csv(rows), nl=False)
    elif as_json:
        click.echo(json.dumps({"usage": [msgspec.to_builtins(row) for row in rows]}))
    else:
        heads = ("HOUR (UTC)", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "COMPLETION")
        _table([heads, *((_hour(row.hour), row.key or "-", row.model, *_counts(row)) for row in rows)])


@contextmanager
def _database(state_dir: str | None, file: str, migrations: tuple[str, ...]) -> Iterator[Database]:
    folder = env.data_dir() if state_dir is None else Path(state_dir).expanduser()
    database = Database(folder / file, migrations)
    try:
        yield database
    finally:
        database.close()


def _given(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "expires" in given:
        given["expires"] = int(_moment(given["expires"], "--expires", 1))
    return given


def _moment(text: str, flag: str, direction: int) -> float:
    """The Unix time of a day, or of a span from now: ahead or, where `direction` is -1, back."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match:
        return time.time() + direction * int(match[1]) * _SECONDS[match[2]]
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        name = flag.removeprefix("--")
        raise InvalidRequest(f"{flag} {text!r} is no time", hint="write 30d, 12h or 2027-01-31", param=name) from error


def _about(key: Key) -> str:
    settings = key.settings
    parts = [", ".join(settings.scopes)]
    parts += [] if settings.models is None else [f"models {', '.join(settings.models)}"]
    parts += [f"{getattr(settings, name)} {name.replace('_', ' ')}" for name in _LIMITS if getattr(settings, name) is not None]
    parts += [] if settings.priority == 0 else [f"priority {settings.priority}"]
    parts += [] if settings.weight == 1.0 else [f"weight {settings.weight:g}"]
    return "; ".join(parts)


def _hour(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:00", time.gmtime(seconds))


def _counts(row: usage.Row) -> tuple[str, str, str, str]:
    return str(row.requests), str(row.prompt_tokens), str(row.cached_tokens), str(row.completion_tokens)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
