"""The CUDA C++ kernels without a GPU: every form that the launchers choose compiles for Hopper, without spills.

Needs NVRTC and its bindings, which the test set-up installs; what the kernels compute is tested on a card (tests/gpu).
"""

from __future__ import annotations

import re

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install cuda-bindings nvidia-cuda-nvrtc")
pytest.importorskip("triton", reason="the launchers share constants with the Triton kernels")

from redline.kernels.cuda import compiler


def _usage(source: str, **definitions: int) -> tuple[int, int]:
    """(registers of a thread, bytes spilled)."""
    text, options = compiler.prepared(source, definitions)
    code, log = compiler.compile_text(text, source, [*options, "--ptxas-options=-v"])
    assert code.startswith(b"\x7fELF")
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores", log)
    assert registers and spills, log
    return int(registers[1]), int(spills[1])


def test_begin() -> None:
    assert _usage("begin.cu")[1] == 0


@pytest.mark.parametrize(("head", "group"), [(64, 4), (80, 1), (96, 6), (128, 8), (128, 16), (256, 2)])
def test_attention(head: int, group: int) -> None:
    usage = _usage("attention.cu", HEAD=head, GROUP=group, PAGE=16, TILES=2 if head > 64 else 4, NORMED=1)
    assert usage[1] == 0


@pytest.mark.parametrize("rows", [1, 9, 17, 33])
def test_skinny(rows: int) -> None:
    """The products of an 8B and a 1B model, of each kind. Larger numbers of rows are cuBLAS's."""
    skinny = pytest.importorskip("redline.kernels.skinny_cuda")
    for kind, outputs, inputs in ((skinny.STORE, 6144, 4096), (skinny.GATED, 12288, 4096), (skinny.ADD, 2048, 8192)):
        form = skinny.form_for(kind, outputs, inputs, rows, 132)
        definitions = skinny.definitions(form, kind, scaled=kind != skinny.ADD, biased=True, gelu=False)
        registers, spilled = _usage("skinny.cu", **definitions)
        assert spilled == 0
        assert registers * form.threads <= 65536
        assert form.stages >= 2
        assert form.stages * form.stage_bytes <= skinny.SHARED_BYTES


def test_a_mistake_is_told_with_the_compilers_words() -> None:
    from redline.errors import InternalError

    with pytest.raises(InternalError, match="nonsense"):
        compiler.compile_text("nonsense", "a.cu", [f"--gpu-architecture={compiler.ARCHITECTURE}"])


def test_machine_code_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A second start compiles nothing."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    first = compiler.machine_code("begin.cu", {})
    monkeypatch.setattr(compiler, "compile_text", lambda *args: pytest.fail("compiled twice"))
    assert compiler.machine_code("begin.cu", {}) == first
