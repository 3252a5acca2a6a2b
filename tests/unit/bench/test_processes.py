"""`redline bench start` and `serve` start real processes of a small random model."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from redline.bench import load, serve, start
from redline.bench.report import Rates, Voice
from redline.bench.served import flags, served
from redline.cli import main as cli
from redline.errors import ConfigError, EngineDead, NotFound

MODEL = "random:tiny-llama"
ENGINE = {"device": "cpu", "num_threads": 1, "max_model_len": 256}
SILENT = Voice(tell=lambda text: None, hint=lambda text: None)


def test_a_start_has_stages_that_add_up() -> None:
    document = start.measure(MODEL, ENGINE, SILENT, repeats=1, with_server=False)
    assert [row["run"] for row in document["rows"]] == ["offline, empty cache", "offline, warm cache"]
    for row in document["rows"]:
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"], rel=0.02)
        assert {"importing torch", "loading weights", "first token"} <= set(row["stages"])
    assert document["device"] == "cpu"


def test_a_start_that_fails_says_why() -> None:
    with pytest.raises(EngineDead, match="no_such_option"):
        start.measure(MODEL, {"no_such_option": 1}, SILENT, repeats=1, with_server=False)
    with pytest.raises(NotFound):
        start.measure("no-such-model", {}, SILENT, repeats=1, with_server=False)


def test_a_server_is_loaded_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single prompts of several sizes, in turns and with pauses: what becomes of one that is too long is told of no other."""
    pauses = []

    async def one_by_one(target: load.Target, plan: Sequence[load.Planned], *, pause_s: float = 0.0) -> list[load.Seen]:
        pauses.append(pause_s)
        return await load.one_by_one(target, plan)

    monkeypatch.setattr(serve, "one_by_one", one_by_one)
    asked = serve.Asked((20.0,), 0.5, load.Fixed(8, 6), first=(16, 300, 8), repeats=2, ttft_s=10.0, itl_s=10.0)
    document = serve.measure(MODEL, ENGINE, asked, SILENT, url=None, rates=Rates(read_gb_s=20.0))
    first, long, short, loaded = document["rows"]
    assert (first["prompt"], long["prompt"], short["prompt"]) == (16, 300, 8) and pauses == [load.IDLE_S]
    assert all(row["first_ms"] > 0 and len(row["samples_ms"]) == 2 and not row["failures"] for row in (first, short))
    assert all(0 < row["device_ms"] < row["first_ms"] and 0 < row["beside_ms"] < row["first_ms"] for row in (first, short))
    assert sum(long["failures"].values()) == 2 and not long["samples_ms"] and long["beside_ms"] is None
    assert loaded["failed"] == 0 and loaded["good_share"] == 1.0
    assert loaded["requests"] >= 1 and loaded["ttft_ms"]["p50"] > 0
    assert document["ready_s"] > 0
    assert json.loads(json.dumps(document)) == document


def test_a_server_that_runs_already_is_loaded() -> None:
    asked = serve.Asked((20.0,), 0.2, load.Fixed(8, 6), first=(), repeats=1, ttft_s=10.0, itl_s=10.0)
    with served(MODEL, ENGINE) as server:
        document = serve.measure(MODEL, ENGINE, asked, SILENT, url=f"{server.url}/v1", rates=Rates())
    (row,) = document["rows"]
    assert row["failed"] == 0 and document["options"]["url"] == f"{server.url}/v1"
    with pytest.raises(ConfigError, match="no server tells its model"):
        serve.measure(MODEL, ENGINE, asked, SILENT, url=server.url, rates=Rates())


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(EngineDead, match="exit code 2"), served(MODEL, {"max_model_len": -3}):
        pass


def test_options_are_written_as_the_command_line_has_them() -> None:
    engine = {"max_model_len": 256, "enable_prefix_caching": False, "strict": True, "dtype": "bfloat16"}
    assert flags(engine) == ["--max-model-len", "256", "--no-enable-prefix-caching", "--strict", "--dtype", "bfloat16"]


@pytest.mark.parametrize("arguments", [["--rate", "x"], ["--rate", "-1"], ["--first", "a"], ["--mix", "other"]])
def test_a_load_that_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "serve", MODEL, "--device", "cpu", *arguments]) == 2
    assert capsys.readouterr().out == ""
