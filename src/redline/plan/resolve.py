"""From what the user wrote to a config in which nothing is `auto`, with a reason for each choice.

Pure: everything it knows of the machine comes in as a record. Raises ConfigError for options that contradict each
other and DoesNotFit for a model that the memory cannot hold. Open `resolve` first.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TypeVar

from redline.config import AUTO, EngineConfig
from redline.errors import ConfigError, DoesNotFit
from redline.hardware.machine import Gpu, Machine
from redline.hardware.specs import architecture
from redline.plan import determinism
from redline.plan.memory import (
    CPU_PROCESS_BYTES,
    CUDA_CONTEXT_BYTES,
    GIBI,
    Budget,
    Limits,
    MemoryPlan,
    longest_context,
    page_bytes,
    pages_for,
    plan_memory,
    size,
)
from redline.shapes import ModelShape

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # as /proc/cpuinfo spells them; the last is Arm's
_BEYOND_FLOAT16 = ("gemma3",)  # families whose activations pass 65504, the largest float16
_CPU_KV_BYTES = 4 * GIBI
_CPU_KV_SHARE = 0.25  # of the memory available: other programs live here too
_LARGE_CARD = 32 * GIBI
_SHORTEST_CONTEXT = 256  # a context reduced below this would be of no use to anybody

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Defaults of one kind of device, with the reason for each."""

    page_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    why: str


_CPU_SIZES = Sizes(16, 16, 512, "a CPU gains little from more, and long steps would make streams stutter")
_SMALL_GPU_SIZES = Sizes(64, 128, 2048, "a card of less than 32 GiB keeps its memory for weights and KV")
_GPU_SIZES = Sizes(64, 256, 8192, "enough rows to leave the memory-bound range of large cards")


@dataclass(frozen=True)
class Resolved:
    """`config` holds no auto and no None where a number is needed. `reasons` has a sentence per field chosen here,
    `notes` the sentences worth a log line: what was reduced, and what will be slow.
    """

    config: EngineConfig
    memory: MemoryPlan
    reasons: dict[str, str]
    notes: tuple[str, ...] = ()


def resolve(
    config: EngineConfig, shape: ModelShape, machine: Machine, *, stored_dtype: str, free_bytes: int | None = None
) -> Resolved:
    """Choose what the user left open.

    `stored_dtype` is the checkpoint's dominating format. `free_bytes` is the device's free memory before the model is
    loaded, as seen by a process that already holds its CUDA context; None: what detection saw.
    Raises ConfigError, DoesNotFit.
    """
    _check_options(config, shape)
    _check_threads(config.device.num_threads, machine.cpu.cores)
    reasons: dict[str, str] = {}

    def pick(field: str, given: T | None, choice: tuple[T, str]) -> T:
        if given is not None and given != AUTO:
            return given
        reasons[field] = choice[1]
        return choice[0]

    device = pick("device", config.device.device, choose_device(machine))
    gpu = _gpu(device, machine)
    device = gpu.device if gpu else "cpu"
    determinism.check(config.device.determinism, shape, on_cpu=gpu is None)
    dtype = pick("dtype", config.model.dtype, choose_dtype(machine, gpu, stored_dtype=stored_dtype, family=shape.family))
    sizes = choose_sizes(gpu)
    page_size = pick("page_size", config.cache.page_size, (sizes.page_size, sizes.why))
    num_seqs = pick("max_num_seqs", config.scheduler.max_num_seqs, _num_seqs(config, sizes, dtype, gpu))
    num_tokens = pick("max_num_batched_tokens", config.scheduler.max_num_batched_tokens, _num_tokens(sizes, num_seqs))
    threads = pick("num_threads", config.device.num_threads, (machine.cpu.cores, "one per core that may be used"))

    budget, budget_reason = _budget(config, machine, gpu, free_bytes)
    limits = _limits(config, shape, num_seqs, num_tokens, gpu)
    element = DTYPE_BYTES[dtype]
    given = config.model.max_model_len
    if given is None:
        length, reasons["max_model_len"] = _longest(shape, element, page_size, budget, limits)
    else:
        length, budget = given, _room_for_one(budget, pages_for(given, page_size) * page_bytes(shape, page_size, element))
    limits = dataclasses.replace(limits, max_model_len=length)
    memory = plan_memory(shape, element, page_size, budget, limits)
    if config.cache.num_pages is None:
        reasons["num_pages"] = f"{size(memory.kv_bytes)} of KV pages: {budget_reason}"

    notes = _notes(config, shape, dtype, length, reasons, on_cpu=gpu is None)
    notes += determinism.notes(config.device.determinism, shape, gpu, dtype)
    resolved = EngineConfig(
        model=dataclasses.replace(config.model, dtype=dtype, max_model_len=length),
        cache=dataclasses.replace(
            config.cache, page_size=page_size, num_pages=memory.num_pages, kv_cache_memory=memory.kv_bytes / GIBI
        ),
        scheduler=dataclasses.replace(config.scheduler, max_num_seqs=num_seqs, max_num_batched_tokens=num_tokens),
        device=dataclasses.replace(config.device, device=device, num_threads=threads),
    )
    return Resolved(resolved, memory, reasons, notes)


def _limits(config: EngineConfig, shape: ModelShape, num_seqs: int, num_tokens: int, gpu: Gpu | None) -> Limits:
    """With the model's own context, before it is known what the memory allows."""
    return Limits(
        max_num_seqs=num_seqs,
        max_num_batched_tokens=num_tokens,
        max_model_len=shape.max_position,
        prefix_caching=config.cache.enable_prefix_caching,
        num_pages=config.cache.num_pages,
        graphs=gpu is not None and not config.device.enforce_eager and shape.moe is None,
        gpu=gpu is not None,
    )


def choose_device(machine: Machine) -> tuple[str, str]:
    """(device, reason): the first GPU, or the CPU."""
    if machine.gpus:
        return machine.gpus[0].device, f"the first GPU here, {machine.gpus[0].name}"
    return "cpu", next((note for note in machine.notes if note.startswith("no GPU")), "no GPU here")


def choose_dtype(machine: Machine, gpu: Gpu | None, *, stored_dtype: str = "bf16", family: str = "") -> tuple[str, str]:
    """(type, reason) of weights and activations for a GPU, or for the CPU where `gpu` is None."""
    if gpu is None:
        unit = next((name for name in _BF16_UNITS if name in machine.cpu.vectors), None)
        if unit:
            return "bfloat16", f"this CPU multiplies it natively ({unit}), two to three times as fast as float32"
        return "float32", "this CPU has no bfloat16 units, and float16 is slow on any CPU"
    known = architecture(gpu.capability)
    if known is not None and "bfloat16" in known.native and stored_dtype != "f16":
        return "bfloat16", f"{gpu.name} multiplies it natively, and it has float32's range"
    if family in _BEYOND_FLOAT16:
        return "float32", f"{family} leaves the range of float16, and {gpu.name} is not known to multiply bfloat16"
    if stored_dtype == "f16":
        return "float16", "the checkpoint's own type"
    return "float16", f"{gpu.name} is not known to multiply bfloat16"


def choose_sizes(gpu: Gpu | None) -> Sizes:
    """Default page size and batch limits for a GPU, or for the CPU where `gpu` is None."""
    if gpu is None:
        return _CPU_SIZES
    return _GPU_SIZES if gpu.memory_bytes >= _LARGE_CARD else _SMALL_GPU_SIZES


def _gpu(device: str, machine: Machine) -> Gpu | None:
    """The GPU that `device` names, None for the CPU. Raises ConfigError for a device that is not here."""
    if device == "cpu":
        return None
    name = "cuda:0" if device == "cuda" else device
    gpu = machine.gpu(name)
    if gpu is None:
        here = ", ".join(gpu.device for gpu in machine.gpus) or "; ".join(machine.notes) or "there is no GPU here"
        raise ConfigError(f"device {device} is not on this machine ({here})", hint="use --device cpu or auto", param="device")
    return gpu


def _num_seqs(config: EngineConfig, sizes: Sizes, dtype: str, gpu: Gpu | None) -> tuple[int, str]:
    if gpu is None and dtype == "float16":
        return 1, "float16 on a CPU is slow for more than one row"
    most = config.scheduler.max_num_batched_tokens or sizes.max_num_seqs
    if most < sizes.max_num_seqs:
        return most, "a step of max_num_batched_tokens has no room for more"
    return sizes.max_num_seqs, sizes.why


def _num_tokens(sizes: Sizes, num_seqs: int) -> tuple[int, str]:
    if num_seqs > sizes.max_num_batched_tokens:
        return num_seqs, "one token for each of max_num_seqs"
    return sizes.max_num_batched_tokens, sizes.why


def _budget(config: EngineConfig, machine: Machine, gpu: Gpu | None, free_bytes: int | None) -> tuple[Budget, str]:
    """What may be used on the device, and why the KV pages take what they take."""
    asked = config.cache.kv_cache_memory
    kv_asked = None if asked is None else int(asked * GIBI)
    if gpu is None:
        free = machine.available_bytes if free_bytes is None else free_bytes
        total = max(0, free - CPU_PROCESS_BYTES)
        kv_most = min(_CPU_KV_BYTES, int(_CPU_KV_SHARE * free))
        reason = f"at most 4 GiB and a quarter of the {size(free)} available, and no more than the longest batch needs"
        budget = Budget(total, "this machine", kv_most, kv_asked)
    else:
        # The context of this process is part of what others use once free_bytes was read with it in place.
        used = gpu.memory_bytes - gpu.free_bytes + CUDA_CONTEXT_BYTES if free_bytes is None else gpu.memory_bytes - free_bytes
        share = config.cache.gpu_memory_utilization
        reason = f"what {share:.0%} of {gpu.name} leaves beside weights and workspace, and no more than the longest batch needs"
        budget = Budget(int(share * gpu.memory_bytes) - used, gpu.device, None, kv_asked)
    scratch = determinism.scratch_bytes(config.device.determinism)
    budget = dataclasses.replace(budget, total_bytes=budget.total_bytes - scratch)
    return budget, "as --kv-cache-memory asks" if kv_asked is not None else reason


def _longest(shape: ModelShape, dtype_bytes: int, page_size: int, budget: Budget, limits: Limits) -> tuple[int, str]:
    """The context that the memory allows, at most the model's own. Raises DoesNotFit if that is next to nothing."""
    length = longest_context(shape, dtype_bytes, page_size, budget, limits)
    if length < min(_SHORTEST_CONTEXT, shape.max_position):
        least = dataclasses.replace(limits, max_model_len=min(_SHORTEST_CONTEXT, shape.max_position))
        plan_memory(shape, dtype_bytes, page_size, budget, least)  # says what is missing, unless just this length fits
        length = least.max_model_len
    if length < shape.max_position:
        return length, f"reduced from the model's {shape.max_position} to what the KV pages hold for one sequence"
    return length, "the model's own"


def _room_for_one(budget: Budget, one_sequence_bytes: int) -> Budget:
    """A context that the user asked for lifts the modest default of KV memory as far as one sequence needs."""
    if budget.kv_most is None:
        return budget
    return dataclasses.replace(budget, kv_most=max(budget.kv_most, one_sequence_bytes))


def _notes(
    config: EngineConfig, shape: ModelShape, dtype: str, length: int, reasons: dict[str, str], *, on_cpu: bool
) -> tuple[str, ...]:
    """What deserves a log line. Under `strict` a context reduced on its own is an error."""
    notes = []
    if config.model.max_model_len is None and length < shape.max_position:
        notes.append(f"max_model_len is {length}: {reasons['max_model_len']}")
        if config.device.strict:
            raise DoesNotFit(notes[0], hint=f"set --max-model-len {length} to accept it")
    if on_cpu and dtype == "float16":
        notes.append("float16 on a CPU is slow for more than one row: prompts and batches take many times as long as in bfloat16")
    if dtype == "float16" and shape.family in _BEYOND_FLOAT16:
        notes.append(f"float16 is too narrow for {shape.family}: answers may be garbage, use bfloat16 or float32")
    return tuple(notes)


def _check_options(config: EngineConfig, shape: ModelShape) -> None:
    """Raise ConfigError for a value out of range or for two options that cannot both hold."""
    cache, scheduler, model, device = config.cache, config.scheduler, config.model, config.device
    for name, value, least in (
        ("max_model_len", model.max_model_len, 2),
        ("page_size", cache.page_size, 1),
        ("num_pages", cache.num_pages, 1),
        ("max_num_seqs", scheduler.max_num_seqs, 1),
        ("max_num_batched_tokens", scheduler.max_num_batched_tokens, 1),
        ("max_queued_requests", scheduler.max_queued_requests, 1),
        ("num_threads", device.num_threads, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}", param=name)
    if cache.page_size is not None and cache.page_size & (cache.page_size - 1):
        raise ConfigError(f"page_size must be a power of two, not {cache.page_size}", hint="use 16, 32 or 64", param="page_size")
    if not 0 < cache.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"gpu_memory_utilization must be above 0 and at most 1, not {cache.gpu_memory_utilization:g}",
            param="gpu_memory_utilization",
        )
    if cache.kv_cache_memory is not None and not 0 < cache.kv_cache_memory < 1 << 20:
        raise ConfigError(
            f"kv_cache_memory must be above 0 and below {1 << 20} GiB, not {cache.kv_cache_memory:g}", param="kv_cache_memory"
        )
    if cache.num_pages is not None and cache.kv_cache_memory is not None:
        raise ConfigError("num_pages and kv_cache_memory both size the KV pool", hint="give one of them", param="num_pages")
    if model.max_model_len is not None and model.max_model_len > shape.max_position:
        raise ConfigError(
            f"max_model_len {model.max_model_len} is more than the {shape.max_position} tokens the model was made for",
            hint=f"at most --max-model-len {shape.max_position}",
            param="max_model_len",
        )
    _check_batch(scheduler.max_num_seqs, scheduler.max_num_batched_tokens)
    _check_device(device.device, device.tensor_parallel_size)


def _check_threads(num_threads: int | None, cores: int) -> None:
    if num_threads is not None and num_threads > cores:
        raise ConfigError(
            f"num_threads {num_threads} is more than the {cores} cores that may be used",
            hint=f"at most --num-threads {cores}",
            param="num_threads",
        )


def _check_batch(num_seqs: int | None, num_tokens: int | None) -> None:
    if num_seqs is not None and num_tokens is not None and num_tokens < num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens {num_tokens} has no room for one token of each of max_num_seqs {num_seqs}",
            hint="raise the first or lower the second",
            param="max_num_batched_tokens",
        )


def _check_device(device: str, tensor_parallel_size: int) -> None:
    if device != AUTO and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device must be auto, cpu or cuda:N, not {device!r}", param="device")
    if tensor_parallel_size != 1:
        raise ConfigError(
            f"tensor_parallel_size {tensor_parallel_size}: this version runs a model on one device",
            hint="leave it at 1",
            param="tensor_parallel_size",
        )
