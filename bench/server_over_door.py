"""What HTTP costs of the engine's speed: `python bench/server_over_door.py random:tiny-llama --clients 16`.

The same prompts, with the same limits, through `redline serve` from as many clients as there are prompts, and through the
offline door in this process: tokens a second of each, interleaved, medians, and their ratio. One JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from many_clients import ready, text_of, wave
from redline import LLM, SamplingParams


def main() -> None:
    options = _options()
    door = LLM(options.model, **dict(_pair(text) for text in options.option))
    flags = [
        part for text in options.option for part in (f"--{text.partition('=')[0].replace('_', '-')}", text.partition("=")[2])
    ]
    command = [sys.executable, "-m", "redline.cli.main", "serve", options.model, "--port", "0", *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = ready(server)
        ways = {
            "server": lambda warm, round: asyncio.run(wave(url, options, warm, round)),
            "door": lambda warm, round: _through_door(door, options, warm, round),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for round in range(options.rounds + 1):
            for name, run in ways.items():
                speed = _tokens_per_s(run, options, warm=round == 0, round=round)
                if round:
                    speeds[name].append(speed)
    finally:
        server.terminate()
        server.wait(60)
    report = {
        "model": options.model,
        "clients": options.clients,
        "tokens_each": options.tokens,
        "server_tokens_per_s": [round_(speed) for speed in speeds["server"]],
        "door_tokens_per_s": [round_(speed) for speed in speeds["door"]],
        "server_over_door": round_(statistics.median(speeds["server"]) / statistics.median(speeds["door"]), 3),
    }
    for name, value in report.items():
        print(f"{name:28} {value}")
    print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=64, help="characters, which a random: model's tokenizer makes tokens of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="engine option of both")
    return parser.parse_args()


def _pair(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value) if value[:1].isdigit() else value


def _through_door(door: LLM, options: argparse.Namespace, warm: bool, round: int) -> None:
    sampling = SamplingParams(max_tokens=8 if warm else options.tokens, temperature=0, ignore_eos=True)
    answers = door.generate([text_of(options, number, warm, round) for number in range(options.clients)], sampling)
    assert all(answer.usage.completion_tokens == sampling.max_tokens for answer in answers)


def _tokens_per_s(run: Callable[[bool, int], object], options: argparse.Namespace, *, warm: bool, round: int) -> float:
    began = time.perf_counter()
    run(warm, round)
    return float(options.clients * options.tokens / (time.perf_counter() - began))


def round_(value: float, digits: int = 1) -> float:
    return round(value, digits)


if __name__ == "__main__":
    main()
