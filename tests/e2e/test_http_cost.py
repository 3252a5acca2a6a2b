"""What the API process spends on a token over 256 streams, as ratios within one run, and that gathering holds nothing long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_many_streams_share_their_writes_and_tokens_get_cheaper_with_the_rate() -> None:
    """At 20 tokens a second a stream each event has one; at 120 several share one, and cost well under two thirds each."""
    command = [sys.executable, "bench/http_cost.py", "--rate", "5000", "30000", "--seconds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    slow, fast = json.loads(done.stdout.splitlines()[-1])["rates"]
    assert slow["tokens_per_event"] < 1.3 < fast["tokens_per_event"] <= 8, (slow, fast)
    assert fast["cpu_us_per_token"] < 0.66 * slow["cpu_us_per_token"], (slow, fast)


def test_a_first_token_costs_milliseconds_beside_the_engine_whatever_the_prompt() -> None:
    """Some 2 and 3 here; parsing, copying or looking at each token as slowly as a careless line does costs tens for 4,000 of them."""
    command = [sys.executable, "bench/http_cost.py", "--first", "16", "4000", "--requests", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    short, long = json.loads(done.stdout.splitlines()[-1])["first_token"]
    assert (short["tokens"], long["tokens"]) == (16, 4000)
    assert short["ms_p50"] < 12 and long["ms_p50"] < 20, (short, long)
