"""`redline bench decode` and `prefill` on a small random model: what they measure adds up, and what they print can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redline.bench import decode, harness, kernel_trace, prefill, throughput
from redline.bench.report import Rates, Voice
from redline.cli import main as cli
from redline.errors import ContextTooLong, InvalidRequest
from redline.plan.meter import Totals

MODEL = "random:tiny-llama"
ENGINE = {"device": "cpu", "num_threads": 1, "max_model_len": 256}
RATES = Rates(read_gb_s=20.0, matmul_tflops=0.1)
FLAGS = ["--device", "cpu", "--num-threads", "1", "--max-model-len", "256", "--read-gb-s", "20", "--matmul-tflops", "0.1"]


def _silent() -> Voice:
    return Voice(tell=lambda text: None, hint=lambda text: None)


def test_decode_steps_are_the_difference_of_two_runs() -> None:
    said: list[str] = []
    voice = Voice(tell=said.append, hint=lambda text: None)
    asked = decode.cases("1@16,3", 24, 40)
    document = decode.measure(MODEL, ENGINE, asked, voice, repeats=2, trace=True, rates=RATES)
    assert said[0].startswith("ceiling: ") and "20 GB/s" in said[0]
    assert document["ceilings"]["read_gb_s"] == 20.0
    assert [(row["batch"], row["prompt"], row["context"]) for row in document["rows"]] == [(1, 16, 38), (3, 24, 46)]
    for row in document["rows"]:
        assert row["tokens_per_s"] == pytest.approx(row["batch"] / row["step_ms"] * 1e3, rel=1e-2)
        assert row["ratio"] == pytest.approx(row["limit_ms"] / row["step_ms"], rel=1e-2)
        assert 0 < row["device_ms"] and 0 <= row["idle_share"] < 1
        assert len(row["samples_ms"]) == 2
        assert row["split"]["steps"] == 35 and row["split"]["ms"] > row["split"]["weights_ms"]
        assert all("rounds differ" in note for note in row["notes"])  # this machine's may
    assert json.loads(json.dumps(document)) == document


def test_rounds_that_differ_are_told() -> None:
    """Two rounds have no median: one in which something else happened would make the figure, and a reader must know."""
    run, case = harness.Run(1.0, Totals(steps=1), Totals(steps=31), None, 0, {}), decode.Case(2, 8, 32)
    alike, apart = ([decode.Sample(step_s, None, run.decode, run) for step_s in steps] for steps in ((1.0, 1.09), (1.876, 2.609)))
    assert decode.doubts(case, alike) == []
    assert decode.doubts(case, apart) == ["batch 2: its rounds differ by 33%: ask for more --repeats, or a longer --output"]


@pytest.mark.parametrize(("step_s", "joules"), [(0.001, None), (0.003, 2.0)])
def test_joules_are_those_of_all_rounds_or_none_where_they_were_too_short(step_s: float, joules: float | None) -> None:
    """A counter that goes on in strides says nothing of one round and all of the next."""
    run, case = harness.Run(1.0, Totals(steps=1), Totals(steps=31), None, 0, {}), decode.Case(2, 8, 32)
    assert decode._joules(case, [decode.Sample(step_s, each, run.decode, run) for each in (0.0, 6.0, 0.0)]) == joules
    assert decode._joules(case, [decode.Sample(step_s, None, run.decode, run)] * 3) is None


def test_the_engine_saw_as_many_steady_steps_as_the_difference_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with harness.Bench(MODEL, ENGINE, _silent(), rows=2, longest=(32, 32), rates=RATES) as bench:
        case = decode.Case(2, 8, 32)
        few, many = bench.run(2, 8, case.few), bench.run(2, 8, case.output)
        steady = harness.minus(many.decode, few.decode)
    assert steady.steps == case.output - case.few
    assert steady.tokens == 2 * steady.steps


def test_a_batch_larger_than_the_default_is_made_room_for() -> None:
    with harness.Bench(MODEL, ENGINE, _silent(), rows=40, longest=(32, 32), rates=RATES) as bench:
        assert bench.llm.info.max_num_seqs == 40
    with harness.Bench(MODEL, ENGINE | {"max_num_seqs": 4}, _silent(), rows=40, longest=(32, 32), rates=RATES) as bench:
        assert bench.llm.info.max_num_seqs == 4


@pytest.mark.parametrize(
    "measure",
    [
        lambda: prefill.measure(MODEL, ENGINE, [(1, 8), (2, 256)], _silent(), repeats=1, rates=RATES),
        lambda: decode.measure(MODEL, ENGINE, decode.cases("1@8,2@200", 8, 57), _silent(), repeats=1, trace=False, rates=RATES),
        lambda: throughput.measure(MODEL, ENGINE, (2, 200, 57), _silent(), repeats=1, rates=RATES),
        lambda: prefill.measure(MODEL, {"device": "cpu"}, [(1, 1 << 20)], _silent(), repeats=1, rates=RATES),
    ],
    ids=["prefill", "decode", "throughput", "the model's own context"],
)
def test_what_exceeds_the_context_is_told_before_a_model_is_loaded(
    measure: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(harness, "LLM", load)
    with pytest.raises(ContextTooLong, match="but the context is"):
        measure()


@pytest.mark.parametrize("batch", ["", "0", "a", "1@", "8@x", "1,,2"])
def test_batches_that_make_no_sense_are_refused(batch: str) -> None:
    if batch == "1@":
        assert decode.cases(batch, 5, 8) == [decode.Case(1, 5, 8)]
        return
    with pytest.raises(InvalidRequest):
        decode.cases(batch, 128, 256)


def test_throughput_counts_every_request() -> None:
    document = throughput.measure(MODEL, ENGINE, (20, 10, 12), _silent(), repeats=1, rates=RATES)
    (row,) = document["rows"]
    assert row["output_tokens_per_s"] == pytest.approx(20 * 12 / row["seconds"], rel=1e-2)
    assert row["ratio"] == pytest.approx(row["output_tokens_per_s"] / row["limit_tokens_per_s"], rel=1e-2)
    assert row["spread"] is None and row["preemptions"] == 0


def test_prefill_times_a_batch_and_single_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(prefill.time, "sleep", pauses.append)
    document = prefill.measure(MODEL, ENGINE, [(2, 64), (1, 16)], _silent(), repeats=2, rates=RATES)
    assert [(row["batch"], row["prompt"]) for row in document["rows"]] == [(2, 64), (1, 16)]
    for row in document["rows"]:
        assert row["tokens_per_s"] == pytest.approx(row["batch"] * row["prompt"] / row["ms"] * 1e3, rel=1e-2)
        assert row["steps"] >= 1 and 0 < row["beside_ms"] < row["ms"]
    assert pauses == [prefill.IDLE_S] * 2, "before each single prompt, and nowhere else"


def test_the_command_prints_ceiling_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "decode", MODEL, "--batch", "1", "--prompt", "8", "--output", "16", "--repeats", "1", *FLAGS]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("ceiling: ")
    assert lines[1].split()[:3] == ["batch", "prompt", "ms/step"]
    assert json.loads(lines[-1])["bench"] == "decode"
    assert "round 1 of 1" in captured.err


def test_json_is_all_there_is_where_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch", "2", "--prompt", "16", "--first", "8", "--repeats", "1"]
    assert cli.main(["bench", "prefill", MODEL, "--json", *sizes, *FLAGS]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bench"] == "prefill"
    assert captured.err == ""


def test_a_plot_is_a_png_or_one_line_that_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "decode.png"
    sizes = ["--batch", "1", "--prompt", "8", "--output", "16", "--repeats", "1", "--plot", str(picture)]
    code = cli.main(["bench", "decode", MODEL, *sizes, *FLAGS])
    captured = capsys.readouterr()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert code == 2 and captured.out == ""
        assert captured.err.strip() == "redline: --plot needs matplotlib (pip install '.[plot]' in redline's folder)"
    else:
        assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")


def test_the_offline_benchmarks_import_no_web_library() -> None:
    program = (
        "import sys; from redline.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or ' '.join({'starlette', 'uvicorn', 'httpx2', 'redline.server'} & set(sys.modules)) or None)"
    )
    sizes = ["--batch", "1", "--prompt", "8", "--output", "4", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, "bench", "decode", MODEL, *sizes, *FLAGS], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_kernels_of_a_step_are_what_a_longer_answer_has_more_of(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"norm": (64, 128.0), "head": (1, 9.0)}  # of each step: launches and microseconds

    def watched(run: Any, output: int) -> dict[str, tuple[int, float]]:
        seen = {name: (5 + count * output, 5.0 + us * output) for name, (count, us) in steps.items()}
        return seen | {"prefill": (30, 900.0)}

    monkeypatch.setattr(kernel_trace, "_watched", watched)
    found = kernel_trace.trace(lambda output: None, 100)
    assert isinstance(found, list)
    assert {kernel.name: (kernel.per_step, kernel.us_per_step) for kernel in found} == steps
    assert kernel_trace.per_layer(found, num_layers=32) == 2


def test_watched_kernels_say_where_a_step_went(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(run: Any, output: int) -> dict[str, tuple[int, float]]:
        run(2)
        return {"gemv": (2 * output, 100.0 * output), "decode_attention": (2 * output, 20.0 * output)}

    monkeypatch.setattr(kernel_trace, "_watched", watched)
    with harness.Bench(MODEL, ENGINE, _silent(), rows=1, longest=(32, 32), rates=RATES) as bench:
        case = decode.Case(1, 16, 40)
        row: dict[str, Any] = {"notes": []}
        steps = decode._sample(bench, case).steps
        decode._watch(bench, [case], [row], [steps])
    assert row["kernels_per_layer"] == 2 and row["kernels_per_step"] == 4.0
    assert row["split"]["launches_ms"] is not None
    assert abs(row["split"]["unattributed_share"]) < 0.03


def test_a_device_that_cannot_be_watched_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(run: Any, output: int) -> Any:
        raise RuntimeError("CUPTI is busy")

    monkeypatch.setattr(kernel_trace, "_watched", refused)
    assert kernel_trace.trace(lambda output: None, 100) == "kernels were not counted: RuntimeError: CUPTI is busy"
