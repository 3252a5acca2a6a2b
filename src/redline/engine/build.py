"""Builds an engine from a configuration: look at the machine, plan, load, allocate, warm up.

The stages report progress, and everything that was chosen is in `Engine.info` and `Engine.notes`. The worker process and
the offline door start here. Open `build` first.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch

from redline import checkpoint as checkpoints
from redline import env, log
from redline.checkpoint import Checkpoint
from redline.checkpoint.opener import tokenizer_for
from redline.config import AUTO, BATCH_INVARIANT, EngineConfig
from redline.engine.admission import Limits
from redline.engine.batch import BatchFiller
from redline.engine.constraints import Constraints
from redline.engine.grammar import Compiler, Vocabulary
from redline.engine.graphs import Capture, CudaCapture, StepGraphs
from redline.engine.growth import Growth
from redline.engine.loop import Loop
from redline.engine.message import EngineInfo
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.runner import Runner
from redline.engine.scheduler import Scheduler
from redline.engine.stages import ALLOCATING, DEVICE, LOADING, READING, WARMING, Stages
from redline.engine.stats import Accounts
from redline.engine.torch_thread import TorchThread
from redline.engine.warmup import WarmUpSizes, warm_up, warm_up_rest
from redline.errors import DoesNotFit
from redline.hardware import Ceilings, Machine, ceilings, identify
from redline.hardware.detect import detect
from redline.hardware.power import PowerMeter, power_source
from redline.kernels import compiled
from redline.kernels.probes import measure
from redline.layers.batch import KVCache
from redline.models.load import load
from redline.models.registry import Model
from redline.models.registry import build as build_model
from redline.plan.corrections import Keeper, Subject
from redline.plan.footprint import ROUNDING_BYTES
from redline.plan.memory import CUDA_CONTEXT_BYTES, MemoryPlan
from redline.plan.meter import Meter
from redline.plan.promise import promiser
from redline.plan.resolve import DTYPE_BYTES, Resolved, resolve
from redline.plan.workspace import prompt_tokens
from redline.shapes import ModelShape

ALIGNMENT_BYTES = 1 << 20
"""What beginnings at whole groups of bytes take of the memory of all weights: up to 255 bytes for each of some thousand."""

P = ParamSpec("P")
R = TypeVar("R")
Progress = Callable[[str, float], None]
"""Called with a stage as a person reads it, and the per cent of the whole start."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model and its loop. `close` frees the device."""

    loop: Loop
    info: EngineInfo
    checkpoint: Checkpoint
    probe: Callable[[], Ceilings]
    keeper: Keeper
    """Keeps what steps take for later starts; call its `idle` while the loop has nothing to do."""
    prepare: Callable[[], bool]
    """Take one more step of what makes later requests fast, a fraction of a second; whether there are more. Call it while
    the loop has nothing to do."""

    @property
    def measured(self) -> bool:
        """Whether the device's ceilings are known, so that receipts can name its limit."""
        return self.loop.meter.ceilings is not None

    def measure(self) -> None:
        """Measure the device, about a second, with nothing running on it; kept for the next start."""
        assert not self.loop.has_work, "a busy device cannot be measured"
        self.loop.meter.ceilings = self.probe()

    def close(self) -> None:
        self.keeper.close()
        self.loop.close()


def silent(stage: str, percent: float) -> None:
    """Progress that nobody wants to hear of."""


def build(config: EngineConfig, progress: Progress = silent, *, has_idle_moments: bool = False) -> Engine:
    """Load `config.model.model` and make it ready. `has_idle_moments`: `Engine.prepare` is called whenever there is nothing to do for a while.

    Raises NotFound, CheckpointError, ConfigError or DoesNotFit with what to change; nothing stays allocated then.
    """
    stages = progress if isinstance(progress, Stages) else Stages(progress)
    stages(READING, 3)
    checkpoint = checkpoints.open(config.model.model, revision=config.model.revision)
    stages(DEVICE, 4)
    machine = usable(detect(visible=env.visible_gpus()), config)
    resolved = resolve(
        config, checkpoint.shape, machine, stored_dtype=checkpoint.stored_dtype, free_bytes=_free_bytes(config, machine)
    )
    for note in resolved.notes:
        log.get("engine").warning("%s", note)
    identity = identify(machine, resolved.config.device.device)
    known = ceilings.load(identity)
    on_cpu = resolved.config.device.device == "cpu"
    if not on_cpu:
        compiled.keep(env.cache_dir() / "kernels" / "triton")
    thread = TorchThread(resolved.config.device.num_threads or 1) if on_cpu else None
    try:
        with compiled.prepared(torch.device(resolved.config.device.device)):
            runner = _call(thread, _load_runner, checkpoint, resolved, thread, stages, has_idle_moments)
            stages(WARMING, 95)
        warm_up(runner, **_warm_up_sizes(resolved, checkpoint.shape.vocab_size))
    except BaseException:
        if thread is not None:
            thread.close()
        raise
    accounts = _accounts(checkpoint, resolved, machine, known)
    keeper = Keeper(_subject(checkpoint, resolved, machine), checkpoint.name, accounts.meter)
    keeper.begin()
    loop = Loop(
        runner,
        _scheduler(checkpoint, resolved, captured=runner.captures),
        accounts,
        _constraints(checkpoint, config, on_cpu=on_cpu),
        seed=config.model.seed,
    )
    info = _info(checkpoint, resolved, accounts, stages)
    rest = warm_up_rest(runner, **_warm_up_sizes(resolved, checkpoint.shape.vocab_size))
    probe = functools.partial(_call, thread, measure, machine, info.device)
    return Engine(loop, info, checkpoint, probe, keeper, functools.partial(_prepare, rest, runner))


def _prepare(rest: Iterator[bool], runner: Runner) -> bool:
    """One more piece of the `rest`; behind it, of what was asked for since."""
    more = next(rest, None)
    return runner.prepare() if more is None else more


def _call(thread: TorchThread | None, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`work` done in the thread of a CPU's engine, or here."""
    return work(*args, **kwargs) if thread is None else thread.call(work, *args, **kwargs)


def usable(machine: Machine, config: EngineConfig) -> Machine:
    """`machine` as torch can use it: its CPU build, or one that is too new for the driver, sees none of the GPUs.

    Raises ConfigError where the configuration is strict and left the device open.
    """
    if not machine.gpus or config.device.device == "cpu" or torch.cuda.is_available():
        return machine
    note = f"no GPU: torch {torch.__version__} cannot use the {machine.gpus[0].name} that is here"
    if config.device.device == AUTO:
        log.fallback("device", note, strict=config.device.strict)
    return dataclasses.replace(machine, gpus=(), notes=(*machine.notes, note))


def _free_bytes(config: EngineConfig, machine: Machine) -> int | None:
    """Free memory of the GPU that will be used, read with this process's CUDA context in place; None on a CPU."""
    wanted = config.device.device
    if wanted == "cpu" or not machine.gpus:
        return None
    index = int(wanted.partition(":")[2] or 0) if wanted.startswith("cuda") else machine.gpus[0].index
    return torch.cuda.mem_get_info(index)[0] if index < torch.cuda.device_count() else None


def _load_model(checkpoint: Checkpoint, resolved: Resolved, device: torch.device, progress: Progress) -> Model:
    settings = resolved.config.model
    dtype = getattr(torch, settings.dtype)
    try:
        model = build_model(
            checkpoint.shape,
            dtype,
            device,
            max_len=settings.max_model_len or 0,
            invariant=resolved.config.device.determinism == BATCH_INVARIANT,
            arena_bytes=0 if device.type == "cpu" else resolved.memory.weights_bytes + ALIGNMENT_BYTES,
        )
        load(model, checkpoint, progress=lambda share: progress(LOADING, 5 + 85 * share), seed=settings.seed or 0)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the device ran out of memory while {resolved.memory.weights_bytes / 2**30:.1f} GiB of weights were loaded",
            hint="free the device, or choose a smaller --dtype or model",
        ) from error
    return model


def _load_runner(
    checkpoint: Checkpoint, resolved: Resolved, thread: TorchThread | None, progress: Progress, has_idle_moments: bool
) -> Runner:
    """Everything that lies on the device: weights, KV pages, the token table."""
    config = resolved.config
    device = torch.device(config.device.device)
    progress(LOADING, 5)
    model = _load_model(checkpoint, resolved, device, progress)
    progress(ALLOCATING, 90)
    page_size, rows, length = config.cache.page_size or 0, config.scheduler.max_num_seqs or 0, config.model.max_model_len or 0
    cache = _allocate_cache(checkpoint.shape, resolved.memory, page_size, getattr(torch, config.model.dtype), device)
    table = torch.zeros((rows + 1, length + 1), dtype=torch.int32, device=device)  # the last row is padding
    if device.type == "cuda":
        _set_aside(resolved.memory.workspace.step, device)
    capture, graphs = _capture(checkpoint.shape, resolved, thread), None
    if capture is not None:
        sizes = {"num_rows": rows, "max_model_len": length, "prompt_tokens": prompt_tokens(checkpoint.shape)}
        graphs = StepGraphs(model, cache, table, capture, **sizes, has_idle_moments=has_idle_moments)
    filler = BatchFiller(
        max_num_seqs=rows,
        max_model_len=length,
        page_size=page_size,
        eos_ids=checkpoint.generation.eos_ids,
        device=device,
        graphs=graphs,
    )
    return Runner(model, cache, filler, table, thread, graphs)


def _set_aside(step_bytes: int, device: torch.device) -> None:
    """Take what steps will need, and leave it with torch, which hands it out to them. Raises DoesNotFit."""
    try:
        torch.empty(step_bytes, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"{step_bytes / 2**20:.0f} MiB for the tensors of a step are not left on {device}: another process took them meanwhile",
            hint="lower --gpu-memory-utilization, --max-num-batched-tokens or --max-num-seqs",
        ) from error


def _capture(shape: ModelShape, resolved: Resolved, thread: TorchThread | None) -> Capture | None:
    """How decode steps are captured on the device; None where they are not. Raises ConfigError where that is to be an error."""
    config = resolved.config
    if thread is not None or config.device.enforce_eager:
        return None
    if shape.moe is not None:
        log.fallback("cuda_graph", "sparse layers wait for the device in every step", strict=config.device.strict)
        return None
    return CudaCapture(torch.device(config.device.device), resolved.memory.workspace.graphs)


def _warm_up_sizes(resolved: Resolved, vocab_size: int) -> WarmUpSizes:
    config = resolved.config
    return {
        "num_pages": resolved.memory.num_pages,
        "page_size": config.cache.page_size or 0,
        "max_tokens": min((config.model.max_model_len or 0) - 1, config.scheduler.max_num_batched_tokens or 0),
        "vocab_size": vocab_size,
        "compiles": config.device.device != "cpu",
    }


def _scheduler(checkpoint: Checkpoint, resolved: Resolved, *, captured: bool) -> Scheduler:
    config = resolved.config
    pool = PagePool(resolved.memory.num_pages, config.cache.page_size or 0)
    limits = Limits(
        max_num_seqs=config.scheduler.max_num_seqs or 0,
        max_num_batched_tokens=config.scheduler.max_num_batched_tokens or 0,
        max_model_len=config.model.max_model_len or 0,
        max_queued_requests=config.scheduler.max_queued_requests,
        max_position=checkpoint.shape.max_position,
    )
    prefix = PrefixCache(pool) if config.cache.enable_prefix_caching else None
    growth = Growth(pool.page_size) if config.scheduler.look_ahead else None
    scheduler = Scheduler(limits, pool, prefix, checkpoint.generation.eos_ids, growth)
    scheduler.captured = captured
    return scheduler


def _accounts(checkpoint: Checkpoint, resolved: Resolved, machine: Machine, known: Ceilings | None) -> Accounts:
    dtype, shape, device = resolved.config.model.dtype, checkpoint.shape, resolved.config.device
    name = identify(machine, device.device).name
    promises = promiser(shape, machine, device.device, dtype)
    meter = Meter(shape, dtype, DTYPE_BYTES[dtype], DTYPE_BYTES[dtype], known, checkpoint.file_bytes, name, promises)
    power = PowerMeter(power_source(machine, device.device), aside=ThreadPoolExecutor(1, "redline-power").submit)
    return Accounts(meter, shape.sliding_window, power=power, receipts=device.receipts)


def _subject(checkpoint: Checkpoint, resolved: Resolved, machine: Machine) -> Subject:
    """What the steps of this engine say something about."""
    device, dtype = resolved.config.device, resolved.config.model.dtype
    unusual: dict[str, object] = {}
    if device.device == "cpu" and device.num_threads != machine.cpu.cores:
        unusual["num_threads"] = device.num_threads
    if device.device != "cpu" and device.enforce_eager:
        unusual["enforce_eager"] = True
    if device.determinism == BATCH_INVARIANT:
        unusual["determinism"] = device.determinism
    ways = tuple((name, str(value)) for name, value in unusual.items())
    return Subject(identify(machine, device.device), checkpoint.shape, dtype, dtype, ways=ways)


def _constraints(checkpoint: Checkpoint, config: EngineConfig, *, on_cpu: bool) -> Constraints:
    """Grammars for the checkpoint's tokenizer, which is read when the first one comes."""

    def compiler() -> Compiler:
        tokenizer = tokenizer_for(checkpoint, config.model.tokenizer)
        return Compiler(Vocabulary(tokenizer, checkpoint.shape.vocab_size, checkpoint.generation.eos_ids))

    return Constraints(compiler, num_threads=1 if on_cpu else min(8, max(1, (os.cpu_count() or 2) // 2)))


def _allocate_cache(shape: ModelShape, memory: MemoryPlan, page_size: int, dtype: torch.dtype, device: torch.device) -> KVCache:
    try:
        return KVCache.allocate(
            num_layers=shape.num_layers,
            num_pages=memory.num_pages,
            page_size=page_size,
            num_kv_heads=shape.num_kv_heads,
            head_size=shape.head_size,
            dtype=dtype,
            device=device,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DoesNotFit(
            f"{memory.num_pages} KV pages of {memory.kv_page_bytes / 2**20:.2f} MiB ({memory.kv_bytes / 2**30:.2f} GiB) do not fit "
            f"beside {memory.weights_bytes / 2**30:.2f} GiB of weights",
            hint="lower --gpu-memory-utilization, --kv-cache-memory or --max-model-len",
        ) from error


def _info(checkpoint: Checkpoint, resolved: Resolved, accounts: Accounts, stages: Stages) -> EngineInfo:
    config, memory, defaults = resolved.config, resolved.memory, checkpoint.generation
    named = {
        name: value
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        if (value := getattr(defaults, name)) is not None
    }
    return EngineInfo(
        model=checkpoint.name,
        dtype=config.model.dtype,
        device=config.device.device,
        max_model_len=config.model.max_model_len or 0,
        vocab_size=checkpoint.shape.vocab_size,
        num_pages=memory.num_pages,
        page_size=config.cache.page_size or 0,
        max_num_seqs=config.scheduler.max_num_seqs or 0,
        stored_dtype=checkpoint.stored_dtype,
        weight_bytes=memory.weights_bytes,
        kv_bytes=memory.kv_bytes,
        planned_bytes=0 if config.device.device == "cpu" else memory.total_bytes + CUDA_CONTEXT_BYTES + ROUNDING_BYTES,
        start_s=stages.total_s,
        start_stages=stages.seconds(),
        file_bytes=checkpoint.file_bytes,
        eos_ids=defaults.eos_ids,
        hidden_size=checkpoint.shape.hidden_size,
        pooling=checkpoint.embedding.pooling,
        matryoshka=checkpoint.embedding.matryoshka,
        matryoshka_dimensions=checkpoint.embedding.dimensions,
        defaults=named,
        predicted=accounts.predicted(config.scheduler.max_num_seqs or 1),
        foreseen=accounts.foreseen(config.scheduler.max_num_seqs or 1),
        receipts=accounts.receipts,
        notes=(*resolved.notes, *(f"{field}: {reason}" for field, reason in resolved.reasons.items())),
    )
