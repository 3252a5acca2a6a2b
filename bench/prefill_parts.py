"""Where a layer's prefill goes, part by part, on one GPU: `PYTHONPATH=src python bench/prefill_parts.py [--model qwen3-8b]`.

Times, each alone and inside a CUDA graph: the four products by cuBLAS, attention by cuDNN, by torch's flash backend and by
our paged kernel (with a cached prefix too), and the elementwise kernels; checks cuDNN's results against float32; measures
what a first call at a new prompt length costs, and how long the host needs for each call. Operands of short prompts are
rotated past the L2. One JSON object a line: `share` is the part of the measured ceiling (matmul rate or read bandwidth)
that was reached. A part that fails says why and the rest goes on; past `--seconds` the rest is skipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from parts import Part, Run, guarded, measure, say

L2_BYTES = 50 << 20
LENGTHS = ((2, 4096), (1, 4096), (1, 512), (1, 128), (8, 4096))
DTYPE = torch.bfloat16
DEVICE = "cuda"


@dataclass(frozen=True)
class Model:
    """One layer's sizes: D model, N and K heads of H, F of the feed-forward layer."""

    name: str
    d: int
    n: int
    k: int
    h: int
    f: int
    qk_norm: bool


MODELS = (
    Model("qwen3-8b", 4096, 32, 8, 128, 12288, True),
    Model("llama-3.2-1b", 2048, 32, 8, 64, 8192, False),
)


def main() -> None:
    options = _options()
    began = time.perf_counter()
    say({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cudnn": torch.backends.cudnn.version()})
    models = [model for model in MODELS if options.model in ("both", model.name)]
    for part in _parts(models, options.only.split(",") if options.only else []):
        if time.perf_counter() - began > options.seconds:
            say({"part": part.name, **part.about, "skipped": "out of time"})
            continue
        say({"part": part.name, **part.about} | guarded(lambda part=part: measure(part)))
        torch.cuda.empty_cache()
    say({"seconds": round(time.perf_counter() - began, 1)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="both", choices=("both", *(model.name for model in MODELS)))
    parser.add_argument(
        "--only", default="", help="families of parts: peak,attention,prefix,elementwise,matmul,plans,residual,blas,tiles"
    )
    parser.add_argument("--seconds", type=float, default=55.0, help="start no further part after this long")
    return parser.parse_args()


def _parts(models: list[Model], only: list[str]) -> Iterator[Part]:
    families: list[tuple[str, Callable[[], Iterator[Part]]]] = [("peak", _peaks)]
    kinds = {"attention": _attention, "plans": _plans, "matmul": _matmuls, "elementwise": _elementwise, "prefix": _prefix}
    for model in models:
        families += [(name, lambda make=make, model=model: make(model)) for name, make in kinds.items()]
    families += [
        ("residual", lambda: _residual(models[0])),
        ("blas", lambda: _blas(models[0])),
        ("tiles", lambda: _tiles(models)),
    ]
    for name, parts in families:
        if not only or name in only:
            try:
                yield from parts()
            except Exception as error:  # the other families go on
                say({"family": name, "error": f"{type(error).__name__}: {str(error)[:300]}"})


def _peaks() -> Iterator[Part]:
    size = 8192

    def product() -> list[Run]:
        a, b = _random(size, size), _random(size, size)
        return [lambda: F.linear(a, b)]

    yield Part("peak matmul", product, flops=2 * size**3)
    yield Part("peak copy", lambda: _copies(1 << 30), bytes=2 << 30)


def _copies(count: int) -> list[Run]:
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return [lambda: target.copy_(source)]


def _random(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, device=DEVICE).mul_(scale)


def _matmuls(model: Model) -> Iterator[Part]:
    shapes = {
        "qkv": ((model.n + 2 * model.k) * model.h, model.d),
        "o": (model.d, model.n * model.h),
        "gate_up": (2 * model.f, model.d),
        "down": (model.d, model.f),
    }
    for tokens in (8192, 128, 512, 4096, 32768):
        for name, (outputs, inputs) in shapes.items():

            def make(tokens: int = tokens, outputs: int = outputs, inputs: int = inputs) -> list[Run]:
                copies = 1 if tokens >= 4096 else max(2, -(-4 * L2_BYTES // (2 * outputs * inputs)))
                weights = [_random(outputs, inputs, scale=inputs**-0.5) for _ in range(copies)]
                x = _random(tokens, inputs)
                return [lambda w=w: F.linear(x, w) for w in weights]

            yield Part(
                f"matmul {name}",
                make,
                flops=2 * tokens * outputs * inputs,
                bytes=2 * outputs * inputs,
                about={"model": model.name, "tokens": tokens},
            )


def _qkv(model: Model, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as [B, heads, L, H] views of packed tokens, each contiguous by token."""
    return tuple(  # type: ignore[return-value]
        _random(batch, length, heads, model.h).transpose(1, 2) for heads in (model.n, model.k, model.k)
    )


def _slices(model: Model, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same as slices of one projection."""
    wide = _random(batch, length, model.n + 2 * model.k, model.h)
    return tuple(part.transpose(1, 2) for part in wide.split((model.n, model.k, model.k), 2))  # type: ignore[return-value]


def _sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    with sdpa_kernel([backend]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def _expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    return _sdpa(SDPBackend.CUDNN_ATTENTION, q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))


def _cudnn_call(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, lse: bool = False) -> tuple[Tensor, Tensor]:
    """The op behind SDPA's cuDNN backend, called by name: no choice of backend, and it can return the log of the sums."""
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, lse, 0.0, causal, False, scale=q.shape[-1] ** -0.5)
    return found[0], found[1]


def _varlen(library: str, q: Tensor, k: Tensor, v: Tensor) -> Run:
    """The ops for packed sequences of any lengths, of cuDNN and of torch's flash backend."""
    batch, _, length, size = q.shape
    starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=DEVICE)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    if library == "flash":
        flash = torch.ops.aten._flash_attention_forward
        return lambda: flash(q, k, v, starts, starts, length, length, 0.0, True, False, scale=size**-0.5)
    cudnn = torch.ops.aten._cudnn_attention_forward
    return lambda: cudnn(q, k, v, None, starts, starts, length, length, False, 0.0, True, False, scale=size**-0.5)


def _exact(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    with sdpa_kernel([SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q.float(), k, v, is_causal=causal)


def _error(want: Tensor, have: Tensor) -> float:
    want, have = want.double(), have.double()
    return float((have - want).square().mean().sqrt() / want.square().mean().sqrt())


def _attention(model: Model) -> Iterator[Part]:
    ways: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
        "cudnn": _cudnn_call,
        "cudnn sdpa gqa": lambda q, k, v: _sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v),
        "cudnn lse": lambda q, k, v: _cudnn_call(q, k, v, lse=True),
        "cudnn expanded": _expanded,
        "flash": lambda q, k, v: _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v),
    }
    for batch, length in LENGTHS:
        about = {"model": model.name, "batch": batch, "length": length}
        flops = 2 * batch * model.n * model.h * length * (length + 1)
        for name, way in ways.items():
            yield Part(
                f"attention {name}", _with_qkv(_qkv, model, batch, length, way), flops, about=about, check=_checked(model, way)
            )
        yield Part("attention cudnn slices", _with_qkv(_slices, model, batch, length, _cudnn_call), flops, about=about)
        if (batch, length) != (8, 4096):
            for library in ("cudnn", "flash"):
                yield Part(
                    f"attention {library} varlen",
                    lambda b=batch, n=length, library=library: [_varlen(library, *_qkv(model, b, n))],
                    flops,
                    about=about,
                )
        yield Part("attention paged", lambda b=batch, n=length: [_paged(model, b, n, n)], flops, about=about)


def _with_qkv(
    source: Callable[..., Any], model: Model, batch: int, length: int, way: Callable[..., Any]
) -> Callable[[], list[Run]]:
    def make() -> list[Run]:
        q, k, v = source(model, batch, length)
        return [lambda: way(q, k, v)]

    return make


def _checked(model: Model, way: Callable[..., Any]) -> Callable[[], float]:
    def check() -> float:
        q, k, v = _qkv(model, 2, 200)
        found = way(q, k, v)
        return _error(_exact(q, k, v), found[0] if isinstance(found, tuple) else found)

    return check


def _paged(model: Model, batch: int, queries: int, context: int, page_size: int = 64) -> Run:
    from redline.kernels.attention import make_ragged, paged_attention

    ragged, pages = make_ragged([queries] * batch, [context] * batch, page_size, torch.device(DEVICE), 0)
    k_cache, v_cache = (_random(pages, page_size, model.k, model.h) for _ in range(2))
    q = _random(batch * queries, model.n, model.h)
    return lambda: paged_attention(q, k_cache, v_cache, ragged, model.h**-0.5)


def _prefix(model: Model) -> Iterator[Part]:
    """New tokens behind cached ones: our kernel whole, or cuDNN over the cached part (no mask) as the larger half of a merge."""
    for queries, context in ((2048, 8192), (8192, 16384), (512, 4096), (64, 4096)):
        about = {"model": model.name, "queries": queries, "context": context}
        pairs = queries * (context - queries) + queries * (queries + 1) // 2
        flops = 4 * model.n * model.h * pairs
        yield Part("prefix paged", lambda a=queries, b=context: [_paged(model, 1, a, b)], flops, about=about)
        cached = context - queries

        def rectangle(lse: bool, queries: int = queries, cached: int = cached) -> list[Run]:
            q, _, _ = _qkv(model, 1, queries)
            _, k, v = _qkv(model, 1, cached)
            return [lambda: _cudnn_call(q, k, v, causal=False, lse=lse)]

        yield Part(
            "prefix cudnn cached part, lse",
            lambda rectangle=rectangle: rectangle(True),
            4 * model.n * model.h * queries * cached,
            about=about,
            check=lambda: _merge_error(model),
        )
        yield Part(
            "prefix gather of pages", lambda c=cached: [_gather(model, c)], bytes=8 * cached * model.k * model.h, about=about
        )


def _gather(model: Model, tokens: int) -> Run:
    pages = _random(2 * tokens // 64, 64, model.k, model.h)
    index = torch.randperm(len(pages), device=DEVICE)[: tokens // 64]

    def run() -> tuple[Tensor, Tensor]:
        return pages.index_select(0, index), pages.index_select(0, index)

    return run


def _merge_error(model: Model) -> float:
    """Two halves of the keys merged by their log-sums, against the whole: says whether cuDNN's are natural logarithms."""
    q, k, v = _qkv(model, 1, 300)
    old, new = slice(0, 172), slice(172, 300)
    o1, l1 = _cudnn_call(q[:, :, new], k[:, :, old], v[:, :, old], causal=False, lse=True)
    o2, l2 = _cudnn_call(q[:, :, new], k[:, :, new], v[:, :, new], causal=True, lse=True)
    l1, l2 = l1.reshape(o1.shape[:3]), l2.reshape(o1.shape[:3])
    weight = torch.sigmoid(l1 - l2)[..., None]
    return _error(_exact(q, k, v)[:, :, new], o1.float() * weight + o2.float() * (1 - weight))


def _plans(model: Model) -> Iterator[Part]:
    """First calls at lengths that are new: `first_ms` is what cuDNN takes to plan; the last is known already."""
    for length in (131, 640, 768, 1000, 3333, 640):
        q, k, v = _qkv(model, 1, length)
        flops = 2 * model.n * model.h * length * (length + 1)
        about = {"model": model.name, "batch": 1, "length": length}
        yield Part("plan cudnn", lambda q=q, k=k, v=v: [lambda: _cudnn_call(q, k, v)], flops, about=about)
    yield Part("plan cudnn overlapping", lambda: [_overlapping(model)], about={"model": model.name, "batch": 8, "length": 1000})


def _overlapping(model: Model) -> Run:
    """Eight prompts of 1000 tokens end to end, read as eight of 1024: the rows past a prompt's end are the next one's."""
    views = []
    for heads in (model.n, model.k, model.k):
        packed = _random(8 * 1000 + 24, heads, model.h)
        row = heads * model.h
        views.append(packed.as_strided((8, heads, 1024, model.h), (1000 * row, model.h, row, 1)))
    q, k, v = views
    return lambda: _cudnn_call(q, k, v)


def _elementwise(model: Model) -> Iterator[Part]:
    from redline.kernels import activation, kv_write, norm, prepare, rope
    from redline.kernels.heads import HeadPreparation
    from redline.ops import OPS

    for tokens in (8192, 128, 4096):
        axes = {"T": tokens, "D": model.d, "F": model.f, "N": model.n, "K": model.k, "H": model.h, "L": 8192, "S": 64}

        def calls(tokens: int = tokens) -> dict[str, Callable[[], list[Run]]]:
            weight, head_weight = torch.ones(model.d, device=DEVICE), torch.ones(model.h, device=DEVICE)
            table = torch.rand(8192, model.h, device=DEVICE)
            positions, slots = torch.arange(tokens, device=DEVICE) % 8192, torch.randperm(tokens, device=DEVICE)

            def cache() -> Tensor:
                return _random(tokens // 64 + 1, 64, model.k, model.h)

            def add_norm() -> list[Run]:
                x, r = _random(tokens, model.d), torch.randn(tokens, model.d, device=DEVICE)
                return [lambda: norm.add_rms_norm(x, r, weight, 1e-6)]

            def head_norm() -> list[Run]:
                q = _random(tokens, model.n + 2 * model.k, model.h)[:, : model.n]
                return [lambda: norm.rms_norm(q, head_weight, 1e-6)]

            def rotate() -> list[Run]:
                q, k = _random(tokens, model.n, model.h), _random(tokens, model.k, model.h)
                return [lambda: rope.rotate(q, k, positions, table)]

            def write() -> list[Run]:
                k, v = _random(tokens, model.k, model.h), _random(tokens, model.k, model.h)
                k_cache, v_cache = cache(), cache()
                return [lambda: kv_write.write_kv(k, v, k_cache, v_cache, slots)]

            def silu() -> list[Run]:
                x = _random(tokens, 2 * model.f)
                return [lambda: activation.silu_mul(x)]

            def heads() -> list[Run]:
                qkv, caches = _random(tokens, (model.n + 2 * model.k) * model.h), (cache(), cache())
                weights = (head_weight, head_weight) if model.qk_norm else (None, None)
                how = HeadPreparation(*weights, 1e-6, table)
                return [lambda: prepare.prepare_heads(qkv, positions, slots, *caches, how, 0)]

            return {
                "prepare_heads": heads,
                "add_rms_norm": add_norm,
                "rms_norm heads": head_norm,
                "rotate": rotate,
                "write_kv": write,
                "silu_mul": silu,
            }

        for name, make in calls().items():
            op = OPS[name.split()[0]]
            sizes = axes | ({"T": tokens * model.n, "D": model.h} if name.endswith("heads") else {})
            yield Part(name, make, bytes=op.total_bytes(sizes, "bf16"), about={"model": model.name, "tokens": tokens})


def _residual(model: Model) -> Iterator[Part]:
    """Products that add to the float32 residual in their own tail: the norm behind would then read and write half as much."""
    from redline.kernels import norm

    for tokens in (8192, 512):
        for name, inputs in (("o", model.n * model.h), ("down", model.f)):

            def make(tokens: int = tokens, inputs: int = inputs) -> list[Run]:
                x, w, stream = _random(tokens, inputs), _random(model.d, inputs), torch.randn(tokens, model.d, device=DEVICE)
                add = torch.ops.aten.addmm.dtype_out
                return [lambda: add(stream, x, w.t(), torch.float32, out=stream)]

            about = {"model": model.name, "tokens": tokens}
            yield Part(f"matmul {name} + residual", make, 2 * tokens * model.d * inputs, 2 * model.d * inputs, about)

        def wide_norm(tokens: int = tokens) -> list[Run]:
            stream, weight = torch.randn(tokens, model.d, device=DEVICE), torch.ones(model.d, device=DEVICE)
            return [lambda: norm.rms_norm(stream, weight, 1e-6, DTYPE)]

        yield Part("rms_norm of the residual", wide_norm, bytes=6 * tokens * model.d, about={"tokens": tokens})


def _blas(model: Model) -> Iterator[Part]:
    """The products by torch's other way to cuBLAS."""
    before = torch.backends.cuda.preferred_blas_library()
    for library in ("cublaslt", "cublas"):
        torch.backends.cuda.preferred_blas_library(library)
        for part in _matmuls(model):
            if part.about["tokens"] in (128, 512, 8192):
                part.about |= {"library": library}
                yield part
    torch.backends.cuda.preferred_blas_library(before)


def _tiles(models: list[Model]) -> Iterator[Part]:
    """Other tiles for the paged kernel."""
    from redline.kernels import attention_triton
    from redline.kernels.attention_triton import Tiling

    chosen = attention_triton.PREFILL_TILINGS["wgmma"]
    for model in models:
        before = chosen[model.h]
        for tiling in (
            Tiling(128, 64, 8, 4, tma=True),
            Tiling(64, 64, 4, 4),
            Tiling(64, 64, 4, 4, tma=True),
            Tiling(128, 64, 8, 5, tma=True),
            Tiling(128, 64, 4, 4, tma=True),
        ):
            if tiling == before:
                continue
            chosen[model.h] = tiling
            for batch, queries, context in ((2, 4096, 4096), (1, 2048, 8192)):
                pairs = queries * (context - queries) + queries * (queries + 1) // 2
                yield Part(
                    "tiles paged",
                    lambda model=model, b=batch, q=queries, c=context: [_paged(model, b, q, c)],
                    4 * batch * model.n * model.h * pairs,
                    about={"model": model.name, "batch": batch, "queries": queries, "context": context, "tiles": str(tiling)},
                )
        chosen[model.h] = before


if __name__ == "__main__":
    main()
