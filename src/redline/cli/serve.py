"""`redline serve MODEL`: the OpenAI-compatible server, and the one block it prints when it is ready.

Open `command`; what the server does is `server.run`'s business.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import signal
from typing import Any

import click

from redline import env, log
from redline.cli.arguments import MODEL
from redline.cli.fetch import make_local
from redline.cli.options import ENGINE_SECTIONS, config_options, split
from redline.cli.progress import Progress
from redline.config import EngineConfig, ServerConfig
from redline.engine.message import EngineInfo
from redline.engine.stages import described

INTERRUPTED = 130


@click.command("serve")
@MODEL
@config_options(*ENGINE_SECTIONS, ServerConfig)
@click.option("--log-level", default=None, type=click.Choice(log.LEVELS), help="Lowest level of log lines on standard error.")
@click.option("--log-format", default="text", type=click.Choice(log.FORMATS), help="How log lines are written.  [default: text]")
@click.pass_context
def command(ctx: click.Context, /, model: str, log_level: str | None, log_format: str, **options: Any) -> None:
    """Serve a model over the OpenAI API; pulls an alias or a hub model that is not here yet.

    Ctrl-C or SIGTERM takes no new requests and lets open ones end; a second signal ends them.
    """
    from redline.server.run import Callbacks, serve

    log.setup(log_level or env.log_level(), json=log_format == "json")
    engine_options, _ = split(options, *ENGINE_SECTIONS)
    server_options, _ = split(options, ServerConfig)
    engine = EngineConfig.from_options(model=model, **engine_options)
    server = ServerConfig(**(_from_environment(server_options) | server_options))
    if not _is_loopback(server.host) and not _asks_for_key(server):
        hint = "set --api-key, or make a key with redline keys add"
        log.get("serve").warning("%s can be reached from other machines and asks for no key: %s", server.host, hint)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress())
        make_local(model, revision=engine.model.revision, progress=progress)

        def ready(url: str, info: EngineInfo) -> None:
            stack.close()
            click.echo(ready_block(url, info, with_key=_asks_for_key(server)))

        stopped_by = serve(engine, server, Callbacks(progress=lambda now: progress(now.stage, now.percent / 100), ready=ready))
    ctx.exit(INTERRUPTED if stopped_by == signal.SIGINT else 0)


def _from_environment(given: dict[str, Any]) -> dict[str, Any]:
    """What the environment says of the server; an admin key matters only where the admin API was asked for."""
    admin_key = env.admin_key() if "admin_port" in given else None
    return {"api_key": env.api_key(), "state_dir": str(env.data_dir()), "admin_key": admin_key}


def _asks_for_key(server: ServerConfig) -> bool:
    if server.api_key is not None:
        return True
    from redline.server import keys  # which brings the web server with it, for which the engine's start need not wait

    return keys.any_in(server.state_dir or env.data_dir())


def ready_block(url: str, info: EngineInfo, *, with_key: bool) -> str:
    """What someone needs to know of a server that has just become ready, with a line to paste."""
    key = ' -H "authorization: Bearer $REDLINE_API_KEY"' if with_key else ""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    stages = described(info.start_stages, info.file_bytes)
    rows = [
        ("model", f"{info.model}: {info.stored_dtype or info.dtype} in the file, {info.dtype} in memory, on {info.device}"),
        ("context", f"{info.max_model_len} tokens, {info.max_num_seqs} sequences together"),
        ("pages", f"{info.num_pages} of {info.page_size} tokens"),
        ("memory", f"{info.weight_bytes / 2**30:.2f} GiB weights, {info.kv_bytes / 2**30:.2f} GiB KV pages"),
        ("speed", _speed(info.predicted)),
        ("ready", f"after {info.start_s:.1f} s" + (f": {stages}" if stages else "")),
        ("try", f"curl {url}/v1/chat/completions -H 'content-type: application/json'{key} -d '{body}'"),
    ]
    return "\n".join([f"redline serves {url}/v1", *(f"  {name:<8} {value}" for name, value in rows)])


def _speed(predicted: dict[str, float]) -> str:
    """What one request may expect, and the most that this machine could do."""
    limit, expected = predicted.get("decode_limit_tokens_per_s"), predicted.get("decode_ms")
    if not limit:
        return "not known: run redline doctor"
    if not expected:
        return f"at most {limit:.0f} tokens/s for one request: this machine's limit"
    bar = predicted.get("bar_ratio", 0.0)
    within = f"within {bar:.0%}" if bar < 1 else f"though steps here differed {1 + bar:.0f}-fold"
    return f"{1e3 / expected:.0f} tokens/s expected for one request ({within}), at most {limit:.0f}: this machine's limit"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
