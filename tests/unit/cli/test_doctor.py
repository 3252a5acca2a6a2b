"""`doctor` measures once, keeps what it measured, and says what it found in text and JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from redline.cli import doctor
from redline.hardware import ceilings
from redline.hardware.ceilings import Probes
from redline.hardware.machine import Cpu, Machine


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A made-up machine with an empty cache; the list fills with what was probed."""
    calls = []

    def measure(machine, device):
        calls.append(device)
        probes = Probes(read=lambda: [1.2e10, 1.1e10], matmul={"float32": lambda: [2e11]})
        return ceilings.measure(ceilings.identify(machine, device), probes)

    cpu = Cpu("Little CPU", 2, ("avx2",), 1 << 20)
    monkeypatch.setattr(doctor, "detect", lambda *, visible: Machine(cpu, (), 8 << 30, 6 << 30, ("no GPU: none",)))
    monkeypatch.setattr(doctor, "_measure", measure)
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    return calls


def run(*arguments):
    return CliRunner().invoke(doctor.command, arguments)


def test_the_first_run_measures_and_the_second_remembers(measured):
    first, second = run(), run()
    assert first.exit_code == second.exit_code == 0, first.output
    assert measured == ["cpu"]
    assert "measuring cpu done" in first.stderr and second.stderr == ""
    assert "Little CPU, 2 cores, avx2" in second.stdout
    assert "cpu: reads 12.0 GB/s, float32 0.20 TFLOP/s" in second.stdout
    assert "dtype float32: this CPU has no bfloat16 units" in second.stdout
    assert run("--measure").exit_code == 0 and measured == ["cpu", "cpu"]


def test_json_holds_machine_ceilings_choices_and_findings(measured):
    document = json.loads(run("--json").stdout)
    assert document["ceilings"]["cpu"]["read_bytes_per_s"] == 1.2e10
    assert document["choices"]["device"]["value"] == "cpu"
    assert "no GPU: none" in [finding["sentence"] for finding in document["findings"]]


def test_nothing_is_measured_where_it_is_not_wanted(measured):
    assert "not measured yet" in run("--no-measure").stdout
    assert measured == []
    assert run("--measure", "--no-measure").exit_code == 2
