"""What users of other systems were promised, held against the machines they were promised for: docs/claims.md is `page()`.

Numbers follow from the chips, formats and shapes of this version, so the page is the same on every machine. How a figure is judged
is `judges.py`'s. Open `CLAIMS`, then `page`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redline.plan import judges, published
from redline.plan.judges import Verdict


@dataclass(frozen=True)
class Claim:
    """`ids` name the demands, `text` the figure as it was promised."""

    ids: str
    text: str
    judge: Callable[[], Verdict]


CLAIMS: tuple[tuple[str, tuple[Claim, ...]], ...] = (
    (
        "nOpenaiServer, on one T4",
        (
            Claim("NO104", "7B Q4_K_M at 180 tok/s", lambda: judges.single_stream("llama-2-7b", 180)),
            Claim("NO105", "13B Q4_K_M at 90 tok/s", lambda: judges.single_stream("13b", 90)),
            Claim("NO106", "33B Q4_K_M at 50 tok/s", lambda: judges.single_stream("33b", 50)),
            Claim("NO107", "70B Q4_K_M at 25 tok/s", lambda: judges.single_stream("70b", 25)),
            Claim("NO111", "first token below 20 ms (7B)", judges.first_token),
            Claim("NO003, NO103, NO108, NO141", "above 95 % tensor-core utilization", judges.utilisation),
            Claim("NO110", "above 280 GB/s achieved", judges.t4_bandwidth),
            Claim("NO096", "model swap below 10 ms", judges.swap),
            Claim("NO112", "multi-user throughput 5 to 8x", judges.t4_users),
            Claim("NO079, NO113", "context window 4 to 8x larger", judges.longer_context),
        ),
    ),
    (
        "KernelPyTorch, on Hopper and Blackwell",
        (
            Claim("KP008", "2.5x B200 over H200", judges.b200),
            Claim("KP009, KP074, KP196", "75 % of H100/H200 peak, 740 TFLOP/s, in attention", judges.attention_16),
            Claim("KP075, KP197", "1.2 PFLOP/s FP8 attention", judges.attention_8),
            Claim("KP010, KP081, KP205", "3.5x less memory with NVFP4", judges.small_memory),
            Claim("KP011, KP200", "below 1 ms for models under 1B", judges.small_model),
            Claim("KP201", "above 10,000 tok/s for 70B", judges.seventy),
            Claim("KP208, KP209", "above 95 % scaling to 8 GPUs, below 5 % communication", judges.scaling),
            Claim("KP147, KP151", "6.0 TB/s of a B200; use of an H200's 4.8 TB/s", judges.saturation),
            Claim("KP199", "sequences of 1M tokens and more", judges.million),
            Claim("KP261, KP262", "edge: 4 GB of memory, 10 ms", judges.edge),
        ),
    ),
    (
        "SAIGEN, on one GB10 of 128 GB",
        (
            Claim("SG003", "70B in about 35 GB", judges.seventy_small),
            Claim("SG004, SG014", "405B in 128 GB", judges.four_hundred),
            Claim("SG013, SG046", "2 to 4x faster by fp4", judges.fp4_speed),
            Claim("SG097", "50 and more concurrent requests", judges.concurrent),
        ),
    ),
    (
        "Tensor-parallel Bumblebee",
        (
            Claim("TB013", "15 / 7.5 / 3.75 GB for a 4B model", judges.ladder),
            Claim("TB032, TB035", "70B over 8 nodes of 4 GPUs", judges.replicas),
        ),
    ),
    (
        "HeartMuLa, on one GB10",
        (
            Claim("HM058, HM097", "real-time factor 0.02 to 0.05", judges.songs),
            Claim("HM053", "real-time factor 0.3 to 0.5 in FP16", judges.song_16),
            Claim("HM054", "real-time factor 0.1 to 0.2 in FP4", judges.song_4),
            Claim("HM040", "the 3B model in about 2 GB at FP4", judges.song_bytes),
            Claim("HM009, HM039", "1 PFLOP/s at FP4", judges.petaflop),
        ),
    ),
)

INTRODUCTION = """\
Headline figures that other systems promised their users, held against the machine they were promised for. A floor is the least
that the machine allows: data sheet rates, every byte read once, nothing lost between kernels. A forecast is what this planner
expects (`redline plan MODEL --on CHIP`), with its error bar; for chips that were not measured bars are wide. Formats other than
16 and 32 bits are planned, not run by this version. *In part* means that it holds for some of the cases the claim covers, and the last
column says which. A T4 in these rows has 320 GB/s, 65 TFLOP/s and PCIe 3; 90 % of a card's memory may be used."""

NOT_JUDGED = """\
Not judged here: claims of training, accuracy and effort (KP188 to KP194, KP263 to KP278, SG024), ratios over a baseline that nobody can run
(NO004, KP024, KP050), and gains of drafts (NO009, TB040), which depend on the text."""


REALITY = """\
## Limits against reality

Steps that others published of single GPUs, beside their limit. Nobody may beat one. For chips but the measured H200 the limit is the
data sheet's; a context of 1 stands where a source does not say it."""


def page() -> str:
    """docs/claims.md without its first lines, which the tool that writes it adds."""
    lines = [INTRODUCTION]
    for title, claims in CLAIMS:
        lines += [
            "",
            f"## {title}",
            "",
            "| IDs | claim | verdict | what the machine allows | what would make it so |",
            "| --- | --- | --- | --- | --- |",
        ]
        for claim in claims:
            told = claim.judge()
            lines.append(f"| {claim.ids} | {claim.text} | {told.verdict} | {told.floor} | {told.would} |")
    return "\n".join([*lines, "", NOT_JUDGED, "", *_reality(), ""])


def _reality() -> list[str]:
    """Every published step of one GPU with its limit."""
    lines = [REALITY, "", "| engine | model | chip | weights | case | limit ms | reached ms | limit / reached |"]
    lines.append("| --- | --- | --- | --- | --- | ---: | ---: | ---: |")
    for row in published.ROWS:
        limit = published.limit_s(row) * 1e3
        case = f"batch {row.batch}, context {row.context}" if row.context else f"{row.batch} x {row.prompt} to the first token"
        chip = "H200, measured" if row.chip == "P" else published.place(row).name
        lines.append(
            f"| {row.engine} | {row.model} | {chip} | {row.weights} | {case} | {limit:.4g} | {row.ms:.4g} | {limit / row.ms:.2f} |"
        )
    return lines
