"""The frozen configuration. A field's help text is its documentation and its command-line help.

A user writes some fields; `plan.resolve` returns a new `EngineConfig` in which nothing is `auto` any more, with a
reason for each choice. Nothing is changed after construction. `cli/options.py` generates flags from these records;
`from_options` builds them from flat keyword arguments and refuses an unknown name. Open `EngineConfig` first.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from redline.errors import ConfigError

AUTO = "auto"
BATCH_INVARIANT = "batch_invariant"


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> Any:
    """A documented field: `help` is one sentence, `flags` are extra spellings on the command line."""
    return field(default=default, metadata={"help": help, "choices": choices, "flags": flags})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    model: str = option("", "A .gguf file, a Hugging Face style folder, a hub name, an alias, or random:NAME.")
    tokenizer: str | None = option(None, "Folder or tokenizer.json to use instead of the model's own.")
    chat_template: str | None = option(None, "File with a Jinja chat template to use instead of the model's own.")
    tool_parser: str = option(
        AUTO,
        "How the model writes tool calls; auto learns it from the chat template, none refuses tools.",
        choices=(AUTO, "hermes", "llama3_json", "mistral", "template", "none"),
    )
    reasoning_parser: str = option(
        AUTO,
        "How the model marks its reasoning; auto learns it from the chat template, none leaves it in the text.",
        choices=(AUTO, "think", "none"),
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub model.")
    dtype: str = option(
        AUTO,
        "Type of weights and activations; auto takes what the machine runs best.",
        choices=(AUTO, "float32", "bfloat16", "float16"),
    )
    max_model_len: int | None = option(None, "Longest context in tokens; the model's own where not given.")
    seed: int | None = option(
        None, "Seed of random: weights, and of the draws of requests that bring none; without it those draw at random."
    )


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    page_size: int | None = option(None, "Tokens in one KV page; chosen for the device where not given.")
    num_pages: int | None = option(None, "KV pages in the pool; from the memory budget where not given.")
    gpu_memory_utilization: float = option(0.9, "Share of the device memory that redline may use.")
    kv_cache_memory: float | None = option(None, "GiB for the KV pages, instead of what the budget leaves.")
    enable_prefix_caching: bool = option(True, "Reuse the KV pages of prompts that begin alike.")


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    max_num_seqs: int | None = option(None, "Most sequences that run together; chosen for the device where not given.")
    max_num_batched_tokens: int | None = option(None, "Token budget of one step, prefill and decode together.")
    max_queued_requests: int = option(1024, "Requests that may wait; one more is refused with 429.")
    max_queued_tokens: int | None = option(
        None, "Prompt and expected answer tokens that may wait; eight times what the KV pages hold where not given."
    )
    look_ahead: bool = option(
        True, "Start a request only where nobody is expected to give up pages for it later; off, wherever its prompt fits now."
    )
    max_queue_s: float = option(300.0, "Longest predicted wait in the queue; what would wait longer is refused with 429.")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    device: str = option(AUTO, "cpu or cuda:N; auto takes the first GPU, or the CPU where there is none.")
    tensor_parallel_size: int = option(1, "GPUs that share each layer.", flags=("-tp",))
    num_threads: int | None = option(None, "CPU threads of the engine; the number of cores where not given.")
    enforce_eager: bool = option(False, "Run decode steps op by op instead of as CUDA graphs, which saves their memory.")
    determinism: str = option(
        "default",
        "With batch_invariant, answers do not depend, bit for bit, on what shares their batch: slower, and on a GPU only.",
        choices=("default", BATCH_INVARIANT),
    )
    receipts: bool = option(True, "Account for every request, so that it can be asked how far it was from the machine's limit.")
    strict: bool = option(False, "Turn every fallback into an error.")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.")
    api_key: str | None = option(None, "Key that every request must bring as a bearer token.")
    served_model_name: str | None = option(None, "Name in /v1/models; the model's own where not given.")
    restart_stuck_s: float = option(
        30.0, "Seconds after which an engine that does not move, and did not say it would take so long, is restarted; 0 never."
    )
    state_dir: str | None = option(
        None, "Folder for keys, stored responses, files and jobs; redline's data folder where the command line gives none."
    )
    admin_host: str = option("127.0.0.1", "Address of the admin API: keys and usage.")
    admin_port: int | None = option(None, "Port of the admin API, which is off without one; 0 takes a free one.")
    admin_key: str | None = option(None, "Key of the admin API, beside keys of scope admin.")
    audit_log: str | None = option(None, "Append one JSON line for every request to this file, without prompts or answers.")
    cors_origin: tuple[str, ...] = option((), "Origin whose pages may ask this server from a browser; may be repeated.")
    unknown_fields: str = option(
        "error",
        "Refuse a request with a field that no API has, or drop the field and say so in the header x-redline-warnings.",
        choices=("error", "warn"),
    )
    otlp_endpoint: str | None = option(
        None, "Send OpenTelemetry traces to this URL, such as http://localhost:4318/v1/traces; needs redline[otel]."
    )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """All that the engine reads. Sections are frozen; derive a changed one with `dataclasses.replace`."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    device: DeviceConfig = DeviceConfig()

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """Build a config from flat names (`model=`, `dtype=`, `max_num_seqs=` …).

        Raises ConfigError for a name that no section has (with the nearest one) or a value of the wrong type.
        """
        owners = {f.name: section for section in dataclasses.fields(cls) for f in dataclasses.fields(_section(section.name))}
        chosen: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            if name not in owners:
                raise ConfigError(f"unknown option {name}", hint=_nearest(name, owners), param=name)
            chosen.setdefault(owners[name].name, {})[name] = checked(_section(owners[name].name), name, value)
        return cls(**{section: _section(section)(**fields) for section, fields in chosen.items()})


def _section(name: str) -> Any:
    return {"model": ModelConfig, "cache": CacheConfig, "scheduler": SchedulerConfig, "device": DeviceConfig}[name]


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def checked(section: type, name: str, value: Any) -> Any:
    """`value` if it is of the declared type and among the choices of `section.name`; raises ConfigError."""
    declared = get_type_hints(section)[name]
    allowed = get_args(declared) or (declared,)
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed and int not in allowed:
        value = float(value)
    fits = any(isinstance(value, kind) and not (kind is int and isinstance(value, bool)) for kind in allowed)
    if not fits:
        raise ConfigError(f"{name} must be {getattr(declared, '__name__', declared)}, not {value!r}", param=name)
    choices = next(f for f in dataclasses.fields(section) if f.name == name).metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}", param=name)
    return value
