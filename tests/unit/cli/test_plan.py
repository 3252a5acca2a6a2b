"""`redline plan` answers at once and without torch, for models that are a name, a config or a file, and says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from model_files import llama_gguf
from redline import env, shapes
from redline.cli import plan
from redline.cli.main import main
from redline.hardware import Probes, ceilings
from redline.hardware.detect import detect
from redline.plan.corrections import Keeper, Subject
from redline.plan.meter import Meter
from redline.plan.promise import promiser
from redline.plan.roofline import StepWork, weight_count

MODEL = "random:llama-3.1-8b"
HOOK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton", "numpy", "matplotlib"):
            raise ImportError(f"{name} is not to be had here")
sys.meta_path.insert(0, Refuse())
from redline.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str):
    return CliRunner().invoke(plan.command, arguments)


def torch_blocked(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What redline says where nothing heavy can be imported."""
    environment = os.environ | {"PYTHONPATH": str(Path(plan.__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", HOOK, *arguments], capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("goal", ["itl_ms<=15, users=8, context=8192", "ttft_ms<=200, itl_ms<=8, users=32, context=8192"])
def test_a_70b_on_two_cards_is_answered_with_torch_blocked(goal: str) -> None:
    done = torch_blocked("plan", "random:llama-3.1-70b", "--on", "2xh200", "--goal", goal, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["feasible"] else 3), done.stderr
    assert told["place"]["count"] == 2 and told["layout"]["tensor_parallel"] == 2


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which this machine's processor is measured, and took 1.5 times the forecast for 40 decode steps of a model."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = detect(visible="")
    identity, shape = ceilings.identify(machine, "cpu"), shapes.known("llama-3.1-8b")
    known = ceilings.measure(identity, Probes(lambda: [1e10], {"bfloat16": lambda: [1e11], "float32": lambda: [1e11]}))
    promises = promiser(shape, machine, "cpu", "bfloat16")
    meter = Meter(shape, "bfloat16", 2, 2, known, 0, "", promises)
    keeper = Keeper(Subject(identity, shape, "bfloat16", "bfloat16"), MODEL, meter)
    work = StepWork.of([(575, 1)], logit_rows=1)
    for _ in range(40):
        promised = promises(known)(work)
        assert promised is not None
        meter.step(meter.due(work), 1.5 * promised.seconds, 0.0)
    keeper.close()
    return next((env.cache_dir() / "corrections").iterdir())


HERE = ("random:llama-3.1-8b", "--goal", "users=1, prompt=512, output=128")


def test_what_steps_took_here_corrects_the_plan_with_torch_blocked(learned: Path) -> None:
    done = torch_blocked("plan", *HERE)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("corrected")]
    assert line.startswith("corrected    by 40 steps measured here on 20") and done.stderr == ""
    assert "decode steps of one token: x1.5, within 5%" in done.stdout and "(of steps unlike those)" in done.stdout


def test_the_document_has_the_corrections_and_a_plan_can_be_made_without(learned: Path) -> None:
    told, plain = (json.loads(run(*HERE, "--json", *more).stdout) for more in ((), ("--no-corrections",)))
    assert plain["corrections"] is None and told["corrections"]["steps"] == 40 and told["corrections"]["model"] == MODEL
    assert told["corrections"]["kinds"] == [
        {"doing": "decode", "tokens_from": 1, "tokens_to": 1, "steps": 40, "factor": 1.5, "bar": 0.05}
    ]
    step, before = told["steps"]["decode"]["ms"], plain["steps"]["decode"]["ms"]
    assert step["value"] == pytest.approx(1.5 * before["value"], rel=0.01)
    assert step["high"] / step["value"] == pytest.approx(1.05, rel=1e-3) and before["high"] / before["value"] > 1.15
    assert told["steps"]["prefill"] == plain["steps"]["prefill"], "no such step was seen"
    assert "corrected" not in run(*HERE, "--no-corrections").stdout
    assert json.loads(run(MODEL, "--on", "h200", "--json").stdout)["corrections"] is None, "another machine"
    other = json.loads(run("random:llama-3.2-1b", "--json").stdout)
    assert other["corrections"] is None, "another model"


def test_a_broken_file_of_corrections_costs_one_line(learned: Path, caplog: pytest.LogCaptureFixture) -> None:
    learned.write_text("{")
    done = run(*HERE, "--json")
    assert json.loads(done.stdout)["corrections"] is None
    assert [record.message for record in caplog.records] == [
        f"{learned} is ignored, for it holds no corrections: Input data was truncated"
    ]


def test_the_document_says_memory_times_loads_and_doubts() -> None:
    done = run(MODEL, "--on", "h200", "--goal", "itl_ms<=5, users=4, context=2048", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["feasible"] and told["runs"]
    assert told["parameters"] == weight_count(shapes.known("llama-3.1-8b"))
    memory = told["memory"]
    parts = ("weights_total_mib", "kv_mib", "workspace_mib", "driver_mib", "slack_mib", "others_mib")
    assert memory["total_mib"] == pytest.approx(sum(memory[part] for part in parts), abs=len(parts))
    assert memory["kv_mib"] == 4 * 2048 * 128 // 1024
    assert [row["users"] for row in told["loads"]][:2] == [1, 4]
    for row in told["loads"]:
        for key in ("itl_ms", "worst_itl_ms", "ttft_ms"):
            assert 0 < row[key]["limit"] <= row[key]["low"] <= row[key]["value"] <= row[key]["high"]
    for name in ("decode", "prefill", "mixed"):
        step = told["steps"][name]
        assert sum(part["ms"] for part in step["parts"]) == pytest.approx(step["ms"]["value"], rel=1e-2)
    assert told["steps"]["decode"]["limiting"] == "memory" and told["steps"]["prefill"]["limiting"] == "compute"
    assert all(doubt["reason"] and 0 < doubt["share"] < 1 for doubt in told["doubts"])
    assert told["goals"] == [{"goal": "itl_ms<=5", "met": True, "forecast": told["loads"][1]["itl_ms"]}]


def test_text_says_what_is_feasible_and_what_would_make_it_so() -> None:
    good = run(MODEL, "--on", "h200", "--goal", "itl_ms<=6")
    assert good.exit_code == 0
    assert "verdict      feasible, at the bad end of every bar too" in good.stdout
    assert "layout       bfloat16, bfloat16 KV, one chip" in good.stdout and "error bar" in good.stdout
    bad = run(MODEL, "--on", "t4", "--goal", "itl_ms<=1")
    assert bad.exit_code == 3
    assert "verdict      not feasible" in bad.stdout and "because      itl_ms<=1 cannot be" in bad.stdout
    assert "planned, not run by this version" in bad.stdout and "what would" in bad.stdout
    none = run("random:llama-3.1-405b", "--on", "gb10")
    assert none.exit_code == 3 and "does not fit GB10" in none.stdout


def test_links_are_named_as_measured_or_as_built() -> None:
    """A table chip has line rates; where `doctor --measure` ran, what it found stands instead, and chips' links only where there are two."""
    from redline.cli.plan import text

    place = {"name": "2 x H200", "count": 2, "host_gb_s": 64.0, "link_gb_s": 450.0, "links": None}
    rest = {"read_gb_s": 4590.0, "matmul_tflops": {}, "source": "table", "announced": False}
    told = {"model": "m", "parameters": 1, "load": {"users": 1, "prompt": 1, "output": 1}, "layout": None, "power_cap": None}
    told |= {"goals": [], "proof": [], "ways": []}

    def line(**changed: object) -> str:
        (found,) = [each for each in text({**told, "place": {**rest, **place, **changed}}) if each.startswith("links ")]
        return found

    assert line() == "links        64 GB/s from the host (line rate); 450 GB/s between chips (line rate)"
    assert line(count=1) == "links        64 GB/s from the host (line rate)"
    measured = {"host_bytes_per_s": 5.53e10, "sums_bytes_per_s": 3.8e11, "sum_s": 14.2e-6, "chips": 2}
    assert line(links=measured) == (
        "links        55.3 GB/s from the host (measured); 380 GB/s from each of 2 chips in a large sum, a small one in 14.2 us (measured)"
    )


def test_a_folder_needs_only_its_config_and_a_file_only_its_header(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(shapes.KNOWN["llama-3.2-1b"])))
    told = json.loads(run(str(tmp_path), "--on", "l4", "--json").stdout)
    assert told["parameters"] == weight_count(shapes.known("llama-3.2-1b"))
    file = tmp_path / "small.gguf"
    file.write_bytes(llama_gguf(np.random.default_rng(0)).to_bytes())
    assert json.loads(run(str(file), "--on", "t4", "--json").stdout)["feasible"]


def test_machines_are_ranked_by_speed_joules_and_cost(tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"h100": 2.0, "T4": 0.4}')
    done = run(MODEL, "--compare", "t4,h100,2xl4", "--goal", "users=4", "--prices", str(prices), "--json")
    rows = {row["place"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows)[0] == "H100 SXM" and [row["rank_speed"] for row in rows.values()] == [1, 2, 3]
    t4 = rows["T4"]
    assert t4["cost_per_million"] == pytest.approx(0.4 / 3600 / t4["tokens_per_s"] * 1e6)
    assert rows["2 x L4"]["cost_per_million"] is None and rows["2 x L4"]["rank_cost"] is None
    assert {rows["T4"]["rank_cost"], rows["H100 SXM"]["rank_cost"]} == {1, 2}
    text = run(MODEL, "--compare", "t4,h100", "--prices", str(prices)).stdout
    assert text.splitlines()[0].split()[0] == "machine" and "ranks are of speed" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("random:llama-3.1-8", "--on", "h200"), "random:llama-3.1-8b"),
        ((MODEL, "--on", "h20"), "H200"),
        ((MODEL, "--on", "h200", "--goal", "speed=9"), "no goal is called 'speed'"),
        ((MODEL, "--on", "h200", "--format", "int5"), "q4_k_m"),
        ((MODEL, "--on", "h200", "--prices", __file__), "--prices needs --compare"),
        ((MODEL, "--compare", "h200", "--prices", __file__), "is no JSON file"),
        ((MODEL, "--on", "h200", "--plot", "x.gif"), ".png or .svg"),
        ((MODEL, "--on", "h200", "--power-cap", "much"), "write watts"),
        ((MODEL, "--on", "h200", "--power-cap", "200"), "a cap of 200 W is below 280 W"),
        ((MODEL, "--on", "gb10", "--power-cap", "100"), "no cap can be planned"),
        ((MODEL, "--compare", "h100,h200", "--power-cap", "400"), "--power-cap goes with one machine"),
        (("no-such-model", "--on", "h200"), "no-such-model"),
    ],
)
def test_mistakes_are_sentences(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""


def test_prices_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[]", "{}", '{"h100": "2"}', '{"h100": -1}', '{"h100": true}', '{"nothing": 1}'):
        (tmp_path / "p.json").write_text(text)
        assert main(["plan", MODEL, "--compare", "h100", "--prices", str(tmp_path / "p.json")]) == 2
        assert "redline: " in capsys.readouterr().err


def test_a_plan_under_a_power_cap_says_what_it_costs_and_what_one_would_type() -> None:
    plain, same, capped = (
        json.loads(run(MODEL, "--on", "h200", "--goal", "users=16", *more, "--json").stdout)
        for more in ((), ("--power-cap", "700"), ("--power-cap", "400W"))
    )
    assert plain["power_cap"] is None and same.pop("power_cap")["command"] is None
    assert same == {key: value for key, value in plain.items() if key != "power_cap"}, "the limit in force changes nothing"
    told = capped["power_cap"]
    assert told["cap_w"] == 400 and told["command"] == "sudo nvidia-smi --power-limit=400" and told["curve"] is None
    assert told["holds"]["decode"]["slower"] and 0.3 < told["holds"]["prompt"]["clock"] < 1
    for was, now in zip(plain["loads"], capped["loads"], strict=True):
        for key in ("itl_ms", "ttft_ms"):
            assert now[key]["value"] > was[key]["value"] and now[key]["high"] > was[key]["high"]
        assert now["tokens_per_s"]["value"] < was["tokens_per_s"]["value"]
    one = [document["loads"][0]["joules_per_token"]["value"] for document in (plain, capped)]
    assert one[1] < 0.75 * one[0], "decode of one sequence waits for the memory"
    text = run(MODEL, "--on", "h200", "--goal", "users=16", "--power-cap", "400").stdout
    assert "power cap    400 W of 700 W a card: decode takes" in text and "(redline changes no card's limit)" in text
    assert "nothing changes" in run(MODEL, "--on", "h200", "--power-cap", "900").stdout


def test_the_curve_of_caps_is_printed_with_its_best_with_torch_blocked() -> None:
    asked = "users=16, itl_ms<=8, best=tokens_per_joule"
    done = torch_blocked("plan", MODEL, "--on", "h200", "--goal", asked, "--power-cap", "curve")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("cap W"))
    rows = [line.split() for line in lines[first + 1 :] if line[:5].strip().isdigit()]
    assert [row[0] for row in rows][0] == "280" and [row[0] for row in rows][-1] == "700"
    (best,) = [line for line in lines if "most tokens per joule" in line]
    (command,) = [line for line in lines if line.startswith("to set it")]
    assert f"--power-limit={best.split()[0]} " in command
    assert any(line.startswith("under a cap  66 published points of 6 cards") for line in lines)


def test_where_power_is_not_known_the_curve_says_why() -> None:
    done = run(MODEL, "--on", "rubin", "--power-cap", "curve")
    assert done.exit_code == 0 and "power cap    no curve: the power of Rubin R100 is not known" in done.stdout
    assert json.loads(run(MODEL, "--on", "gb10", "--power-cap", "curve", "--json").stdout)["power_cap"]["curve"] is None


def test_the_curve_is_drawn_beside_the_roofline(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone, both = tmp_path / "alone.svg", tmp_path / "both.svg"
    for file, more in ((alone, ()), (both, ("--power-cap", "curve"))):
        assert run(MODEL, "--on", "h200", "--plot", str(file), *more).exit_code == 0
    assert len(both.read_text()) > len(alone.read_text()) and "under a power cap" in both.read_text()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_roofline_is_drawn(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot.{ending}"
    assert run(MODEL, "--on", "h200", "--goal", "users=8", "--plot", str(file)).exit_code == 0
    begin = file.read_bytes()[:300]
    assert begin.startswith(b"\x89PNG") if ending == "png" else b"<svg" in begin or b"<?xml" in begin
    assert run(MODEL, "--on", "h200", "--plot", str(tmp_path / "nowhere" / "x.png")).exception is not None
