"""What is chosen on which machine, that nothing stays open, and that contradictions and reductions are said aloud."""

from __future__ import annotations

import dataclasses

import pytest

from redline.config import AUTO, EngineConfig
from redline.errors import ConfigError, DoesNotFit
from redline.hardware import Cpu, Gpu, Machine
from redline.plan.memory import GIBI, page_bytes
from redline.plan.resolve import Resolved, resolve
from redline.shapes import ModelShape, known

SMOL = known("smollm2-135m")
LLAMA = known("llama-3.1-8b")
GEMMA = known("gemma-3-1b")
H200 = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 * GIBI, 139 * GIBI, "580")
T4 = Gpu(0, "GPU-2", "Tesla T4", (7, 5), 15 * GIBI, 15 * GIBI, "580")
STRANGER = Gpu(0, "GPU-3", "NVIDIA X", (15, 0), 48 * GIBI, 48 * GIBI, "580")
NO_GPU = ("no GPU: no NVIDIA driver here",)


def machine(
    *gpus: Gpu, vectors: tuple[str, ...] = ("avx512_bf16", "avx2"), available: int = 24 * GIBI, cores: int = 2
) -> Machine:
    return Machine(Cpu("a cpu", cores, vectors), gpus, available, available, notes=() if gpus else NO_GPU)


def run(
    shape: ModelShape = SMOL, on: Machine | None = None, stored: str = "bf16", free: int | None = None, **options: object
) -> Resolved:
    return resolve(EngineConfig.from_options(**options), shape, on or machine(), stored_dtype=stored, free_bytes=free)


@pytest.mark.parametrize(
    ("on", "shape", "stored", "dtype", "reason"),
    [
        (machine(), SMOL, "q4_1", "bfloat16", "avx512_bf16"),
        (machine(vectors=("amx_bf16",)), SMOL, "f16", "bfloat16", "amx_bf16"),
        (machine(vectors=("avx2",)), SMOL, "bf16", "float32", "no bfloat16 units"),
        (machine(vectors=("avx2",)), SMOL, "f16", "float32", "float16 is slow"),
        (machine(H200), SMOL, "bf16", "bfloat16", "natively"),
        (machine(H200), SMOL, "f32", "bfloat16", "natively"),
        (machine(H200), SMOL, "f16", "float16", "checkpoint's own"),
        (machine(T4), SMOL, "bf16", "float16", "not known to multiply bfloat16"),
        (machine(T4), GEMMA, "bf16", "float32", "leaves the range of float16"),
        (machine(STRANGER), SMOL, "bf16", "float16", "not known"),
    ],
)
def test_the_type_follows_the_device_and_the_file(on: Machine, shape: ModelShape, stored: str, dtype: str, reason: str) -> None:
    resolved = run(shape, on, stored)
    assert resolved.config.model.dtype == dtype and reason in resolved.reasons["dtype"]


@pytest.mark.parametrize(
    ("on", "device", "page_size", "seqs", "tokens"),
    [(machine(), "cpu", 16, 16, 512), (machine(H200), "cuda:0", 64, 256, 8192), (machine(T4), "cuda:0", 64, 128, 2048)],
)
def test_sizes_follow_the_device(on: Machine, device: str, page_size: int, seqs: int, tokens: int) -> None:
    config = run(on=on).config
    assert config.device.device == device
    assert (config.cache.page_size, config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (
        page_size,
        seqs,
        tokens,
    )


# Decided in the API process: from the chat template, and from the pool that the engine reports.
NOT_THE_ENGINES = ("tool_parser", "reasoning_parser", "max_queued_tokens")


@pytest.mark.parametrize("on", [machine(), machine(H200)])
def test_nothing_is_left_open_and_every_choice_has_a_reason(on: Machine) -> None:
    resolved = run(on=on)
    config = resolved.config
    for section in (config.model, config.cache, config.scheduler, config.device):
        for field in dataclasses.fields(section):
            if field.name in NOT_THE_ENGINES:
                continue
            value = getattr(section, field.name)
            assert value != AUTO
            assert value is not None or field.name in ("tokenizer", "chat_template", "revision", "seed"), field.name
    chosen = {
        "device",
        "dtype",
        "page_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "num_threads",
        "max_model_len",
        "num_pages",
    }
    assert set(resolved.reasons) == chosen and all(resolved.reasons.values())
    assert resolve(config_without_memory(config), SMOL, on, stored_dtype="bf16").config == config


def config_without_memory(config: EngineConfig) -> EngineConfig:
    """A resolved config as a user would write it: num_pages and kv_cache_memory size the same pool."""
    return dataclasses.replace(config, cache=dataclasses.replace(config.cache, kv_cache_memory=None))


def test_what_the_user_wrote_stays_and_needs_no_reason() -> None:
    resolved = run(on=machine(H200), device="cpu", dtype="float32", page_size=32, max_num_seqs=3, max_num_batched_tokens=77)
    config = resolved.config
    assert (config.device.device, config.model.dtype, config.cache.page_size) == ("cpu", "float32", 32)
    assert (config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (3, 77)
    assert set(resolved.reasons) == {"num_threads", "max_model_len", "num_pages"}


def test_a_machine_without_a_gpu_says_why_it_uses_the_cpu() -> None:
    assert run().reasons["device"] == NO_GPU[0]


def test_one_batch_limit_follows_the_other() -> None:
    few = run(max_num_batched_tokens=5).config.scheduler
    many = run(max_num_seqs=600).config.scheduler
    assert (few.max_num_seqs, many.max_num_batched_tokens) == (5, 600)


def test_cpu_pages_take_a_quarter_of_memory_and_at_most_4_gib() -> None:
    """135M weights in float32 and 131072 tokens of KV would want 12 GiB."""
    page = page_bytes(SMOL, 16, 2)
    assert run().memory.num_pages == 4 * GIBI // page
    assert run(on=machine(available=8 * GIBI)).memory.num_pages == 2 * GIBI // page
    assert run(max_num_seqs=1, max_model_len=64).memory.num_pages == 2 * 64 // 16
    assert run(max_num_seqs=1, max_model_len=64, enable_prefix_caching=False).memory.num_pages == 64 // 16


def test_gpu_pages_take_what_the_share_leaves() -> None:
    resolved = run(LLAMA, machine(H200), free=130 * GIBI, gpu_memory_utilization=0.5)
    memory = resolved.memory
    assert memory.budget_bytes == 70 * GIBI - 10 * GIBI  # half of the card less what others hold
    assert 0 <= memory.budget_bytes - memory.total_bytes < memory.kv_page_bytes
    assert resolved.config.cache.kv_cache_memory == memory.kv_bytes / GIBI


def test_a_context_reduced_on_its_own_is_said_aloud() -> None:
    """8B in bfloat16 on 24 GiB: the default 4 GiB of pages hold 32768 of 131072 tokens."""
    resolved = run(LLAMA)
    assert resolved.config.model.max_model_len == 32768
    assert "131072" in resolved.reasons["max_model_len"]
    assert any("max_model_len is 32768" in note for note in resolved.notes)
    with pytest.raises(DoesNotFit, match="32768") as caught:
        run(LLAMA, strict=True)
    assert "--max-model-len 32768" in caught.value.hint
    assert run(SMOL).config.model.max_model_len == 8192 and run(SMOL).notes == ()


def test_a_context_that_was_asked_for_is_given_or_refused_never_reduced() -> None:
    """45000 tokens need 5.5 GiB, more than the default for pages but less than there is; 131072 need 16."""
    resolved = run(LLAMA, max_model_len=45000)
    assert resolved.config.model.max_model_len == 45000 and resolved.memory.kv_bytes >= 45000 * 2**17
    with pytest.raises(DoesNotFit, match="one sequence of 131072 tokens needs 16.0 GiB"):
        run(LLAMA, max_model_len=131072)


def test_a_model_that_leaves_no_context_worth_having_does_not_fit() -> None:
    with pytest.raises(DoesNotFit, match=r"GiB for weights|one sequence of 256 tokens"):
        run(LLAMA, machine(available=int(15.5 * GIBI)))
    with pytest.raises(DoesNotFit, match="one sequence of 256 tokens") as caught:
        run(LLAMA, kv_cache_memory=0.01)
    assert "--kv-cache-memory 0.04" in caught.value.hint


def test_float16_on_a_cpu_runs_one_sequence_and_warns() -> None:
    resolved = run(dtype="float16")
    assert resolved.config.scheduler.max_num_seqs == 1 and "slow" in resolved.reasons["max_num_seqs"]
    assert any("slow" in note for note in resolved.notes)
    assert run(on=machine(T4), dtype="float16").notes == ()


def test_float16_that_a_family_leaves_is_warned_of() -> None:
    assert any("too narrow for gemma3" in note for note in run(GEMMA, machine(T4), dtype="float16").notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_num_seqs": 8, "max_num_batched_tokens": 4}, "no room for one token of each"),
        ({"num_pages": 10, "kv_cache_memory": 1.0}, "both size the KV pool"),
        ({"max_model_len": 8193}, "more than the 8192 tokens"),
        ({"max_model_len": 1}, "at least 2"),
        ({"page_size": 24}, "power of two"),
        ({"num_pages": 0}, "at least 1"),
        ({"max_num_seqs": 0}, "at least 1"),
        ({"max_num_batched_tokens": -1}, "at least 1"),
        ({"max_queued_requests": 0}, "at least 1"),
        ({"num_threads": 0}, "at least 1"),
        ({"gpu_memory_utilization": 0.0}, "above 0"),
        ({"gpu_memory_utilization": 1.1}, "at most 1"),
        ({"kv_cache_memory": -1.0}, "above 0"),
        ({"kv_cache_memory": float("nan")}, "above 0"),
        ({"device": "gpu"}, "auto, cpu or cuda:N"),
        ({"device": "cuda:0"}, "not on this machine"),
        ({"tensor_parallel_size": 2}, "one device"),
    ],
)
def test_contradictions_are_refused_by_name(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        run(**options)
    assert caught.value.param in options


def test_a_missing_gpu_is_explained_with_what_detection_saw() -> None:
    with pytest.raises(ConfigError, match="no NVIDIA driver here"):
        run(device="cuda:0")
    with pytest.raises(ConfigError, match="cuda:0"):
        run(on=machine(H200), device="cuda:3")
    assert run(on=machine(H200), device="cuda").config.device.device == "cuda:0"
