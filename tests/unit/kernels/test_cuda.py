"""The CUDA C++ kernels without a GPU: every form that the launchers choose compiles for Hopper, without spills.

Needs NVRTC and its bindings, which the test set-up installs; what the kernels compute is tested on a card (tests/gpu).
"""

from __future__ import annotations

import itertools
import re

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install cuda-bindings nvidia-cuda-nvrtc")
pytest.importorskip("triton", reason="the launchers share constants with the Triton kernels")

from redline.kernels import product
from redline.kernels.cuda import compiler
from redline.kernels.skinny import GATED


def _log(source: str, **definitions: int) -> str:
    """What the assembler says of each of the kernels; kept as machine code is, by all that went into it."""
    text, options = compiler.prepared(source, definitions)
    options = [*options, "--ptxas-options=-v"]
    kept = compiler._kept(source, text, options).with_suffix(".log")
    if not kept.exists():
        code, log = compiler.compile_text(text, source, options)
        assert code.startswith(b"\x7fELF")
        compiler._keep(kept, log.encode())
        return log
    return kept.read_text()


def _usage(source: str, **definitions: int) -> tuple[int, int]:
    """(registers of a thread, bytes spilled)."""
    return _told(_log(source, **definitions))


def _told(log: str) -> tuple[int, int]:
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores", log)
    assert registers and spills, log
    return int(registers[1]), int(spills[1])


def test_begin() -> None:
    assert _usage("begin.cu")[1] == 0


@pytest.mark.parametrize(("head", "group"), [(64, 4), (80, 1), (96, 6), (128, 8), (128, 16), (256, 2)])
def test_attention(head: int, group: int) -> None:
    attention = pytest.importorskip("redline.kernels.decode_attention_cuda")
    for cluster in (1, 8):
        assert _usage("attention.cu", **attention.definitions(head, group, 16, True, cluster))[1] == 0


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"),
    [(32, 8, 128), (32, 8, 64), (64, 4, 128), (40, 40, 128), (64, 8, 128), (96, 8, 128), (128, 8, 128)],
)
def test_batch_attention(heads: int, kv_heads: int, size: int) -> None:
    attention = pytest.importorskip("redline.kernels.batch_attention_cuda")
    assert attention.takes(256, heads, kv_heads, size, 16)
    assert not attention.takes(attention.ARRIVALS // kv_heads + 1, heads, kv_heads, size, 16), (
        "counters would be written past their end"
    )
    group = heads // kv_heads
    for rows in (1, 256):
        own = attention.heads_of_block(rows, heads, kv_heads, size)
        members = attention.members_of_bundle(group) if attention.room_for_bundles(rows, group) else 1
        definitions = attention.definitions(heads, kv_heads, size, 16, True, own, members)
        log = _log("batch_attention.cu", **definitions)
        registers, spilled = _told(log)
        assert spilled == 0
        shared = re.findall(r"(\d+) bytes smem", log)
        assert shared and max(map(int, shared)) <= 48 * 1024, "more must be asked for at the launch"
        assert registers * (32 * own + 32) <= 65536
        assert definitions["UNITS"] >= 2


@pytest.mark.parametrize("rows", [2, 9, 17, 33, 65, 97])
def test_skinny(rows: int) -> None:
    """The products of an 8B and a 1B model, of each kind: nothing is spilled, and what is reckoned of shared memory is what the compiler says."""
    skinny = pytest.importorskip("redline.kernels.skinny_cuda")
    for kind, outputs, inputs in ((product.STORE, 6144, 4096), (product.GATED, 12288, 4096), (product.ADD, 2048, 8192)):
        form = skinny.form_for(kind, outputs, inputs, rows, 132)
        definitions = skinny.definitions(form, kind, True, scaled=kind != product.ADD, biased=True, gelu=False)
        log = _log("skinny.cu", **definitions)
        registers, spilled = _told(log)
        assert spilled == 0
        assert registers * form.threads <= 65536
        assert form.stages >= 2
        found = re.search(r"(\d+) bytes smem", log)
        assert found and int(found[1]) <= form.other_bytes
        assert form.stages * form.stage_bytes + form.other_bytes <= skinny.SHARED_BYTES


@pytest.mark.parametrize("rows", [256, 512, 8192])
def test_many_rows(rows: int) -> None:
    """As above. What is accumulated takes half of a warpgroup's registers, and none of it may be spilled."""
    many = pytest.importorskip("redline.kernels.many_rows_cuda")
    for kind, outputs, inputs in ((product.STORE, 6144, 4096), (product.GATED, 12288, 4096), (product.ADD, 2048, 8192)):
        form = many.form_for(kind, outputs, inputs, rows, 132)
        definitions = many.definitions(form, kind, scaled=kind != product.ADD, biased=True, gelu=False)
        assert _usage("many_rows.cu", **definitions)[1] == 0
        assert form.stages >= 3


@pytest.mark.parametrize("size", [64, 128])
def test_prompt_attention(size: int) -> None:
    """The assembler tells where it makes products wait for each other because something touches their registers too soon."""
    attention = pytest.importorskip("redline.kernels.prompt_attention_cuda")
    paged = [attention.paged_definitions(size, group, page_size) for group, page_size in ((4, 64), (5, 16), (1, 256))]
    for definitions in (attention.definitions(size), *paged):
        log = _log("prompt_attention.cu", **definitions)
        assert _told(log)[1] == 0 and "serialized" not in log


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads", "normed"), [(128, 32, 8, True), (64, 32, 8, False), (256, 16, 8, True), (80, 96, 8, True)]
)
def test_heads(size: int, heads: int, kv_heads: int, normed: bool) -> None:
    prepare = pytest.importorskip("redline.kernels.prepare_cuda")
    assert _usage("heads.cu", **prepare.definitions(size, heads, kv_heads, normed))[1] == 0


@pytest.mark.parametrize(("size", "normed"), [(64, False), (128, True)])
def test_heads_of_many_rows(size: int, normed: bool) -> None:
    many = pytest.importorskip("redline.kernels.many_rows_cuda")
    assert _usage("many_rows.cu", **many.head_definitions(size, normed, biased=True))[1] == 0


def test_many_rows_are_cut_for_all_processors() -> None:
    """The forms that were fastest on an H200 (8B): no processor idle where narrower tiles give it work."""
    many = pytest.importorskip("redline.kernels.many_rows_cuda")
    for kind, outputs, inputs, rows, columns in (
        (product.STORE, 6144, 4096, 256, 96),
        (product.GATED, 12288, 4096, 256, 192),
        (product.ADD, 4096, 4096, 256, 64),
        (product.STORE, 6144, 4096, 512, 192),
        (product.GATED, 12288, 4096, 512, 256),
        (product.ADD, 4096, 12288, 512, 128),
        (product.ADD, 4096, 12288, 8192, 256),
    ):
        assert many.form_for(kind, outputs, inputs, rows, 132) == many.Form(columns, 2)


def test_many_rows_are_left_to_others_where_processors_would_idle() -> None:
    """As measured on an H200 by whole steps: the gated product of an 8B is faster than cuBLAS and an activation at 256 and 512 rows, and slower at 384 and
    640; that of Llama's, with more outputs, is slower at 512."""
    many = pytest.importorskip("redline.kernels.many_rows_cuda")
    gated = pytest.importorskip("redline.kernels.gated_linear")
    found = {rows: many.efficiency(product.GATED, 12288, 4096, rows, 132) for rows in (200, 256, 384, 512, 640, 1024, 8192)}
    assert found[256] >= gated.FEWER_EFFICIENCY > found[200]
    assert min(found[512], found[1024], found[8192]) >= gated.LEAST_EFFICIENCY > max(found[384], found[640])
    assert many.efficiency(product.GATED, 14336, 4096, 512, 132) < gated.LEAST_EFFICIENCY


@pytest.mark.parametrize("processors", [66, 114, 132])
def test_every_block_of_a_cluster_has_inputs(processors: int) -> None:
    """Sums are begun by the first product: a block without any would send what its registers held."""
    skinny = pytest.importorskip("redline.kernels.skinny_cuda")
    for kind, outputs, rows in itertools.product(range(4), (8, 64, 200, 576, 2048, 2816, 4096, 11008), (2, 16, 33, 65, 97, 128)):
        for inputs in (8, 64, 72, 128, 192, 256, 320, 520, 576, 896, 4096):
            form = skinny.form_for(kind, outputs, inputs, rows, processors)
            assert form.cluster <= -(-inputs // (64 * form.depth))
            assert form.cluster == 1 or form.cluster * form.tiles(kind, outputs) <= processors
            assert 2 <= form.stages and form.stages * form.stage_bytes + form.other_bytes <= skinny.SHARED_BYTES


@pytest.mark.parametrize(("outputs", "inputs"), [(6144, 4096), (2048, 8192), (4096, 12288), (4096, 14336)])
def test_one_row(outputs: int, inputs: int) -> None:
    one_row = pytest.importorskip("redline.kernels.one_row_cuda")
    for kind in range(4):
        form = one_row.form_for(kind, outputs, inputs)
        definitions = one_row.definitions(form, kind, 1, scaled=kind != 2, biased=kind == 0, gelu=False)
        registers, spilled = _usage("one_row.cu", **definitions)
        assert spilled == 0
        assert registers * form.threads <= 65536


def test_a_mistake_is_told_with_the_compilers_words() -> None:
    from redline.errors import InternalError

    with pytest.raises(InternalError, match="nonsense"):
        compiler.compile_text("nonsense", "a.cu", [f"--gpu-architecture={compiler.ARCHITECTURE}"])


def test_the_compilers_words_go_nowhere_else() -> None:
    """An empty log is one byte, and Python has each single byte once: what was written there once ended up in every b" "."""
    text, options = compiler.prepared("begin.cu", {})
    assert compiler.compile_text(text, "begin.cu", options)[1] == ""
    assert all(bytes([value])[0] == value for value in range(256))


def test_machine_code_is_made_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Each set of definitions once."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    compiled = []
    monkeypatch.setattr(compiler, "compile_text", lambda *args: compiled.append(args) or (b"\x7fELF code", ""))
    compiler.compile_ahead("begin.cu", [{}, {"A": 1}, {}, {"A": 1}])
    assert len(compiled) == 2
    assert compiler.machine_code("begin.cu", {"A": 1}) == b"\x7fELF code" and len(compiled) == 2


def test_machine_code_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A second start compiles nothing."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    first = compiler.machine_code("begin.cu", {})
    monkeypatch.setattr(compiler, "compile_text", lambda *args: pytest.fail("compiled twice"))
    assert compiler.machine_code("begin.cu", {}) == first


def test_cases_of_one_row_hold_weights_back_and_do_not() -> None:
    """On a card the op's cases are what tries both."""
    one_row = pytest.importorskip("redline.kernels.one_row_cuda")
    cases = [case for case in GATED.cases if case["T"] == 1]
    assert {one_row.form_for(product.GATED, case["F"], case["K"]).held for case in cases} == {0, 1}
    assert [one_row.form_for(product.GATED, 8192, inputs).held for inputs in (2048, 3072, 3584, 4096)] == [0, 1, 0, 1]
