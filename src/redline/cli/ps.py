"""`redline ps`: the servers that run on this machine, what they serve and how busy they are. Open `command`, then `look`."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import click

from redline import env
from redline.cli.arguments import JSON
from redline.server.presence import Seen, rss_bytes, running

SAMPLE_S = 1.2  # the engine tells its counters every second
TIMEOUT_S = 2.0


@click.command("ps")
@click.option(
    "--state-dir", default=None, type=click.Path(path_type=Path), help="State folder that the servers were started with."
)
@JSON
def command(state_dir: Path | None, as_json: bool) -> None:
    """List the servers that run on this machine: model, address, memory, context, requests, tokens per second, uptime.

    What needs a key is asked with REDLINE_API_KEY, and shown as ? where that does not open it.
    """
    servers = asyncio.run(look(list(running(state_dir or env.data_dir()))))
    if as_json:
        click.echo(json.dumps(servers, indent=1))
        return
    if not servers:
        click.echo("no server runs here: redline serve MODEL starts one", err=True)
        return
    head = ("PID", "MODEL", "ADDRESS", "STATUS", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "TOK/S", "UPTIME")
    rows = [head, *(_row(server) for server in servers)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def look(servers: list[Seen]) -> list[dict[str, Any]]:
    """What is known of each server, JSON-able; null where it does not say."""
    import httpx2

    key = env.api_key()
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, headers=headers, trust_env=False) as http:
        return list(await asyncio.gather(*(_ask(http, seen) for seen in servers)))


async def _ask(http: Any, seen: Seen) -> dict[str, Any]:
    health, before = await asyncio.gather(_get(http, f"{seen.url}/health"), _metrics(http, seen))
    rate = None
    after = before
    if before is not None:
        began = time.monotonic()
        await asyncio.sleep(SAMPLE_S)
        after = await _metrics(http, seen)
        if after is not None:
            made = after.get("redline_generation_tokens_total", 0.0) - before.get("redline_generation_tokens_total", 0.0)
            rate = round(max(0.0, made) / (time.monotonic() - began), 1)
    told = after or {}
    return {
        "pid": seen.pid,
        "model": seen.model,
        "url": seen.url,
        "status": _status(health),
        "device": seen.device or None,
        "dtype": seen.dtype or None,
        "memory_bytes": rss_bytes(seen.pid),
        "max_model_len": seen.max_model_len,
        "requests_running": _whole(told.get("redline_requests_running")),
        "requests_waiting": _whole(told.get("redline_requests_waiting")),
        "tokens_per_s": rate,
        "uptime_s": round(time.time() - seen.started),
    }


def _status(health: Any) -> str:
    """The server's own word for how it is."""
    if health is None:
        return "no answer"
    try:
        return str(json.loads(health.content)["status"])
    except (ValueError, KeyError, TypeError):
        return "not a redline server"


async def _get(http: Any, url: str) -> Any:
    """The answer, or None where there is none that could be read."""
    import httpx2

    try:
        return await http.get(url)
    except (httpx2.HTTPError, OSError):
        return None


async def _metrics(http: Any, seen: Seen) -> dict[str, float] | None:
    """Sums of the samples of each metric, None where the server does not show them."""
    page = await _get(http, f"{seen.url}/metrics")
    if page is None or page.status_code != 200:
        return None
    found: dict[str, float] = {}
    for line in page.text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def _row(server: dict[str, Any]) -> tuple[str, ...]:
    memory = server["memory_bytes"]
    return (
        str(server["pid"]),
        server["model"],
        server["url"],
        server["status"],
        "?" if memory is None else f"{memory / 2**30:.2f} GiB",
        *(_shown(server[name]) for name in ("max_model_len", "requests_running", "requests_waiting", "tokens_per_s")),
        _time(server["uptime_s"]),
    )


def _shown(value: float | None) -> str:
    return "?" if value is None else str(value)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _time(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    return (
        f"{days}d {rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
        if days
        else f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    )
