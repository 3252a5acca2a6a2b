"""How each figure of claims.py is judged: what the machine allows, by the planner's limits, and what would make it so.

Limits are data sheets' rates with nothing lost; forecasts are the plan's, with their bars. Every function returns a `Verdict`.
Open `single_stream` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redline.hardware.specs import Chip, named
from redline.plan.footprint import Footprint, footprint
from redline.plan.memory import GIBI, Limits
from redline.plan.place import on_chips
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import Load, Predictor, short
from redline.plan.roofline import weight_count
from redline.plan.split import Layout
from redline.shapes import ModelShape, from_hf, known

YES, NO, PART = "feasible", "infeasible", "in part"

_LLAMA = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
_SHAPES: dict[str, dict[str, Any]] = {  # models that claims name and the table of known ones has not; their public config.json
    "13b": {**_LLAMA, "num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40},
    "33b": {**_LLAMA, "num_hidden_layers": 60, "hidden_size": 6656, "intermediate_size": 17920, "num_attention_heads": 52},
    "70b": {
        **_LLAMA,
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "qwen3-4b": {
        "model_type": "qwen3",
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
}

Q4 = "q4_k_m"
SONG_BYTES = 10.53e9  # weights that a frame of HeartMuLa reads in 16 bits, backbone and seven passes of the depth decoder (HM042)
SONG_KV_BYTES = 0.41e9  # and its KV cache of 1,800 positions, two rows of 0.114 MB each
FRAME_S = 0.08


@dataclass(frozen=True)
class Verdict:
    """`floor` is what the machine allows, `would` what makes the claim true, or what its limit is."""

    verdict: str
    floor: str
    would: str


@lru_cache(maxsize=64)
def model(name: str) -> ModelShape:
    return from_hf(_SHAPES[name]) if name in _SHAPES else known(name)


def predictor(name: str, on: str, weights: str, kv: str = "", tensor: int = 1) -> Predictor:
    """A forecast of one replica; KV in the chip's 16 bits where nothing is said."""
    place = on_chips(on)
    return Predictor(model(name), place, weight_format(weights), kv_format(kv or place.dtype), Layout(tensor))


def memory(name: str, on: str, weights: str, kv: str = "", users: int = 1, context: int = 4096, tensor: int = 1) -> Footprint:
    place = on_chips(on)
    formats = weight_format(weights), kv_format(kv or place.dtype)
    return footprint(model(name), place, *formats, Layout(tensor), Limits(users, 2048, context, graphs=True))


def sheet(on: str) -> Chip:
    row = named(on)
    assert row is not None, on
    return row


def limit_s(made: Predictor, users: int, context: int) -> float:
    """Least seconds of a decode step."""
    return made.decode(users, context).seconds.limit or 0.0


# One token at a time on a T4


def single_stream(name: str, goal: float) -> Verdict:
    """Tokens per second of one user on a T4 in Q4_K_M, with what does not fit its memory read over PCIe."""
    made, need = predictor(name, "t4", Q4), memory(name, "t4", Q4, context=512)
    over = max(0.0, -need.kv_room)
    step = limit_s(made, 1, 256)
    host = sheet("t4").host_bytes_per_s
    assert host is not None
    # What lies in host memory is read at the link's rate instead of the memory's.
    least = step + over * (1 / host - 1 / made.place.peak.read_bytes_per_s)
    where = f", {_gb(over)} of it over PCIe 3" if over else ""
    floor = f"{_gb(need.weights_bytes)} of weights a token{where}: at most {_n(1 / least)} tok/s for one user"
    if over:
        card = next(on for on in ("l40s", "h100", "h200") if memory(name, on, Q4, context=512).kv_room > 0)
        told = predictor(name, card, Q4).decode(1, 256).seconds.inverse()
        return Verdict(
            NO,
            floor,
            f"a card that holds it: {sheet(card).name} is forecast {_n(told.low)} to {_n(told.high)} tok/s for one user",
        )
    drafted = goal * step
    users = next((count for count in range(2, 257) if count / limit_s(made, count, 256) >= goal), None)
    many = f"{users} users together by the limit" if users else "no number of users"
    card = next(on for on in ("l4", "a10", "l40s", "a100", "h100") if 1 / limit_s(predictor(name, on, Q4), 1, 256) >= goal)
    return Verdict(
        NO, floor, f"{many}; drafts with {_n(drafted)} tokens a step accepted; or {sheet(card).name}, whose limit is above it"
    )


def first_token() -> Verdict:
    made = predictor("llama-2-7b", "t4", Q4)

    def least(tokens: int) -> float:
        return made.first_token(tokens).limit or 0.0

    most = max((tokens for tokens in range(1, 1024) if least(tokens) <= 0.02), default=0)
    told = made.first_token(512)
    return Verdict(
        PART,
        f"weights once: {_ms(least(1))}; 512 tokens: {_ms(least(512))} at the float16 rate",
        f"prompts of at most {most} new tokens, the rest from the prefix cache; 512 new ones are forecast {_ms(told.low)} to {_ms(told.high)}",
    )


def utilisation() -> Verdict:
    step = predictor("llama-2-7b", "t4", Q4).decode(1, 256)
    flops = sum(part.flops for part in step.parts)
    share = flops / (step.seconds.limit or 1.0) / sheet("t4").flops["float16"]
    return Verdict(
        NO,
        f"one user's step uses {share:.1%} of the matrix units when memory is read at 100 %",
        "prompts alone come near it; the figure that counts for answers is the share of the bandwidth",
    )


def t4_bandwidth() -> Verdict:
    share = 280e9 / sheet("t4").read_bytes_per_s
    return Verdict(
        YES,
        f"{share:.0%} of the data sheet's 320 GB/s; an H200 read at 96 % of its own",
        "weights read in one pass, with nothing between kernels",
    )


def swap() -> Verdict:
    need = memory("llama-2-7b", "t4", Q4)
    host = sheet("t4").host_bytes_per_s or 1.0
    return Verdict(
        NO,
        f"{_gb(need.weights_bytes)} over PCIe 3 x16 ({_gb(host)}/s): {_ms(need.weights_bytes / host)}",
        f"both models in the card's memory, where a swap is a pointer; in 10 ms {host * 0.01 / 1e6:.0f} MB cross the link",
    )


def t4_users() -> Verdict:
    made = predictor("llama-2-7b", "t4", Q4)
    room = memory("llama-2-7b", "t4", Q4, users=16, context=1024).sequences(1024)
    one, many = limit_s(made, 1, 512), limit_s(made, room, 512)
    gain = room * one / many
    return Verdict(
        YES if gain >= 5 else NO,
        f"{room} sequences of 1,024 tokens fit; together at most {gain:.1f}x one user's rate",
        "batches of all of them, paged KV",
    )


def longer_context() -> Verdict:
    plain, fewer = (memory("llama-2-7b", "t4", Q4, kv).longest(1) for kv in ("float16", "int4"))
    return Verdict(
        PART,
        f"KV in 4 bits with scales takes {16 / kv_format('int4').bits:.1f}x less: {plain:,} tokens become {fewer:,} beside 7B Q4_K_M on a T4",
        "4x and more only by 3 bits or fewer, where long answers suffer, or by dropping tokens",
    )


# Hopper and Blackwell


def b200() -> Verdict:
    new, old = sheet("b200"), sheet("h200")
    read = new.read_bytes_per_s / old.read_bytes_per_s
    flops = new.flops["bfloat16"] / old.flops["bfloat16"]
    same = _ratio("llama-3.1-70b", "fp8", "fp8")
    fewer = _ratio("llama-3.1-70b", "fp8", "nvfp4")
    return Verdict(
        PART,
        f"bandwidth {read:.2f}x, bf16 {flops:.2f}x: one user's 70B fp8 step at most {same:.2f}x",
        f"nvfp4 on the B200 against fp8 on the H200: {fewer:.2f}x by the limit",
    )


def _ratio(name: str, before: str, after: str) -> float:
    return limit_s(predictor(name, "h200", before), 1, 1024) / limit_s(predictor(name, "b200", after), 1, 1024)


def attention_16() -> Verdict:
    share = 740e12 / sheet("h200").flops["bfloat16"]
    return Verdict(
        PART,
        f"{share:.0%} of the data sheet's 989.5 TFLOP/s, 97 % of the 766 that a large product reaches on an H200",
        "head size 256 without a mask (FlashAttention-3's own headline); cuDNN is published at 673 to 702 from 16k tokens on",
    )


def attention_8() -> Verdict:
    share = 1.2e15 / sheet("h200").flops["fp8"]
    return Verdict(
        PART,
        f"{share:.0%} of the data sheet's 1,979 TFLOP/s, 83 % of the 1,453 that fp8 products reach",
        "nothing published on an H200: cuDNN 1,010 to 1,062 at 16k and 32k tokens",
    )


def small_memory() -> Verdict:
    plain, packed = (memory("llama-3.1-70b", "b200", name).weights_bytes for name in ("bfloat16", "nvfp4"))
    small = memory("llama-3.1-8b", "b200", "bfloat16").weights_bytes / memory("llama-3.1-8b", "b200", "nvfp4").weights_bytes
    return Verdict(
        PART,
        f"4.5 bits a packed weight: 3.56x for those; whole models with head and embedding in 16 bits: 70B {plain / packed:.2f}x, 8B {small:.2f}x",
        "large models, or a packed head as well",
    )


def small_model() -> Verdict:
    h200 = predictor("qwen3-0.6b", "h200", "bfloat16").decode(1, 256).seconds
    t4 = predictor("qwen3-0.6b", "t4", "float16").decode(1, 256).seconds
    return Verdict(
        YES,
        f"0.6B, one token in 16 bits: {_ms(h200.limit)} on an H200, {_ms(t4.limit)} on a T4",
        f"an H200 with captured steps: forecast {_ms(h200.low)} to {_ms(h200.high)}; a T4 only with fewer bits than are of use",
    )


def seventy() -> Verdict:
    goal, load = 10_000, Load(512, 128, 128)
    texts = []
    for count in (1, 2, 4, 8):
        made = predictor("llama-3.1-70b", f"{count}xh200", "fp8", "fp8", tensor=count)
        fits = memory("llama-3.1-70b", f"{count}xh200", "fp8", "fp8", load.users, 256, count).sequences(256) >= load.users
        steady = made.steady(load).tokens_per_s
        texts.append((count, fits, steady))
    floor = "; ".join(f"{count}: {_n(rate.limit)}" for count, _, rate in texts)
    least = next((count for count, fits, rate in texts if fits and (rate.limit or 0) >= goal), None)
    told = next(((count, rate) for count, fits, rate in texts if fits and rate.value >= goal), None)
    would = (
        f"{told[0]} H200, forecast {_n(told[1].low)} to {_n(told[1].high)} tok/s" if told else "more than 8 H200 by the forecast"
    )
    return Verdict(YES if least else NO, f"512 users, 128 tokens in and out, fp8: at most {floor} tok/s on so many H200", would)


def scaling() -> Verdict:
    shares = []
    for users in (1, 64):
        one = predictor("llama-3.1-70b", "8xh200", "fp8", tensor=1).decode(users, 1024).seconds
        eight = predictor("llama-3.1-70b", "8xh200", "fp8", tensor=8).decode(users, 1024)
        shares.append((users, one.value / eight.seconds.value / 8, _talk(eight)))
    text = "; ".join(f"{users} user{'s' * (users > 1)} {share:.0%}, of which talking {talk:.0%}" for users, share, talk in shares)
    prompt = predictor("llama-3.1-70b", "8xh200", "fp8", tensor=8).step([(0, 8192)])
    return Verdict(
        NO,
        f"tensor parallel 8, 70B fp8 on H200, forecast speed-up over one card as a share of 8: {text}; a prompt of 8,192 tokens talks for {_talk(prompt):.0%}",
        "8 replicas of a model that fits one card scale by 100 %, with no talking; one request over 8 cards does not",
    )


def _talk(step: Any) -> float:
    return float(sum(part.seconds for part in step.parts if part.bound == "link") / step.seconds.value)


def saturation() -> Verdict:
    read = sheet("b200").read_bytes_per_s
    return Verdict(
        YES,
        f"{6e12 / read:.0%} of the data sheet's {read / 1e12:g} TB/s",
        "an H200 read at 96 % of its own; 4.59 of its 4.8 TB/s were measured",
    )


def million() -> Verdict:
    plain, packed = (memory("llama-3.1-8b", "h200", "bfloat16", kv).longest(1) for kv in ("bfloat16", "fp8"))
    step = predictor("llama-3.1-8b", "h200", "bfloat16", "fp8").decode(1, 1_000_000).seconds
    return Verdict(
        PART,
        f"8B on one H200 holds {plain:,} tokens in bf16 KV, {packed:,} in fp8; a token at 1M takes at least {_ms(step.limit)}",
        "fp8 KV on one H200, or two cards; a model that was trained for it",
    )


# Small machines, and memory


def edge() -> Verdict:
    chip = sheet("orin")
    most = chip.read_bytes_per_s * 0.01
    one = predictor("llama-3.2-1b", "orin", "int4").decode(1, 512).seconds
    need = memory("llama-3.2-1b", "orin", "int4", context=2048)
    return Verdict(
        YES,
        f"{chip.name} reads {_gb(most)} in 10 ms; 1B int4 with its head in 16 bits: {_ms(one.limit)}, {_gb(need.weights_bytes)}",
        f"forecast {_ms(one.low)} to {_ms(one.high)}; memory below 4 GB without the driver's own",
    )


def ladder() -> Verdict:
    sizes = [memory("qwen3-4b", "h200", name).weights_bytes / GIBI for name in ("float32", "bfloat16", "int8", "int4")]
    return Verdict(
        YES,
        "Qwen3-4B: " + " / ".join(f"{size:.2f}" for size in sizes) + " GiB in float32, bf16, int8, int4",
        "int8 is a little larger with its head in 16 bits",
    )


def seventy_small() -> Verdict:
    sizes = {name: memory("llama-3.1-70b", "gb10", name).weights_bytes for name in ("bfloat16", "nvfp4", "int4")}
    return Verdict(
        PART,
        ", ".join(f"{name} {_gb(size)}" for name, size in sizes.items()),
        "35 GB is 4.0 bits with no scales, head or embedding; a card of 48 GB holds it with a short context",
    )


def four_hundred() -> Verdict:
    place, need = on_chips("gb10"), memory("llama-3.1-405b", "gb10", "int4")
    beside = need.fixed - need.weights_bytes
    bits = (place.usable_bytes - beside) * 8 / weight_count(model("llama-3.1-405b"))
    step = predictor("llama-3.1-405b", "gb10", "int4").decode(1, 256).seconds.limit or 1.0
    cards = next(n for n in (2, 4, 8) if memory("llama-3.1-405b", f"{n}xh200", "int4", tensor=n).kv_room > 0)
    return Verdict(
        NO,
        f"int4 is {_gb(need.weights_bytes)} of {_gb(place.usable_bytes)} that may be used; {bits:.1f} bits a weight would fit; two GB10 at int4: at most {_n(2 / step)} tok/s",
        f"70B (fp8 or fewer bits) on one GB10; 405B int4 on {cards} H200",
    )


def fp4_speed() -> Verdict:
    gain = _gain("llama-3.1-8b", "gb10", "nvfp4")
    eight = _gain("llama-3.1-8b", "gb10", "fp8")
    return Verdict(
        YES,
        f"8B for one user on a GB10, limit over bf16: fp8 {eight:.2f}x, nvfp4 {gain:.2f}x",
        "kernels that read packed weights at the memory's rate",
    )


def _gain(name: str, on: str, weights: str) -> float:
    return limit_s(predictor(name, on, "bfloat16"), 1, 512) / limit_s(predictor(name, on, weights), 1, 512)


def concurrent() -> Verdict:
    need = memory("llama-3.1-70b", "gb10", "nvfp4", users=50, context=4096)
    made = predictor("llama-3.1-70b", "gb10", "nvfp4")
    room = need.sequences(4096)
    rate = 50 / limit_s(made, 50, 2048)
    return Verdict(
        YES if room >= 50 else PART,
        f"70B nvfp4 on a GB10 holds {room} sequences of 4,096 tokens; 50 together make at most {_n(rate)} tok/s",
        "fp8 KV, a shared prefix, or an 8B model",
    )


def replicas() -> Verdict:
    cards = next(n for n in (1, 2, 4) if memory("llama-3.1-70b", f"{n}xh200", "fp8", tensor=n).kv_room > 0)
    plain = next(n for n in (1, 2, 4) if memory("llama-3.1-70b", f"{n}xh200", "bfloat16", tensor=n).kv_room > 0)
    return Verdict(YES, f"70B fits {cards} H200 in fp8 and {plain} in bf16", "32 GPUs on 8 nodes are for users, not for size")


# Songs


def _song(on: str, bits: float) -> float:
    """Least real-time factor of one song's language model, its weights in so many bits."""
    return (SONG_BYTES * bits / 16 + SONG_KV_BYTES) / sheet(on).read_bytes_per_s / FRAME_S


def _together(goal: float) -> int:
    """Songs on a GB10 in nvfp4 that together come to `goal`: weights are read once for all, each has its own KV."""
    rate = sheet("gb10").read_bytes_per_s * FRAME_S
    return next(n for n in range(1, 64) if (SONG_BYTES * 4.5 / 16 / n + SONG_KV_BYTES) / rate <= goal)


def songs() -> Verdict:
    plain, packed = _song("gb10", 16), _song("gb10", 4.5)
    cards = ", ".join(
        f"{sheet(on).name} {_song(on, bits):.3f} in {name}"
        for on, bits, name in (("h200", 16, "bf16"), ("h200", 8, "fp8"), ("5090", 4.5, "nvfp4"))
    )
    return Verdict(
        NO,
        f"one song's language model: GB10 {plain:.2f} in bf16, {_song('gb10', 8):.2f} in 8 bits, {packed:.2f} in nvfp4",
        f"several songs together share the weights, each slower than that (at least {_together(0.05)} of them for 0.05 a song on average); or {cards}",
    )


def song_16() -> Verdict:
    return Verdict(PART, f"GB10 in bf16: {_song('gb10', 16):.2f}", "the slow end only by the limit; 8 bits for the rest")


def song_4() -> Verdict:
    return Verdict(
        YES,
        f"GB10 in nvfp4: {_song('gb10', 4.5):.2f}",
        "packed kernels near the memory's rate; the codec comes on top",
    )


def song_bytes() -> Verdict:
    return Verdict(
        YES,
        f"3.94 B parameters in 4.5 bits: {_gb(3.94e9 * 4.5 / 8)}",
        "every matrix packed; 0.1 to 0.2 GB more with a head in 16 bits",
    )


def petaflop() -> Verdict:
    rate = sheet("gb10").flops.get("nvfp4", 0.0) / 1e12
    return Verdict(
        NO, f"1 PFLOP/s is with sparsity; dense fp4 is {rate:,.0f} TFLOP/s", "not the limit of one song: its bytes are"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _ms(seconds: float | None) -> str:
    return f"{short((seconds or 0.0) * 1e3):.3g} ms"


def _n(value: float | None) -> str:
    return f"{value or 0.0:,.0f}" if (value or 0.0) >= 100 else f"{value or 0.0:.3g}"
