"""What generation hands back: `Made`, one file with all that is known of how it came to be. Plain records, JSON-able."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from saidata.facts import Path, Status, Verdict
from saidata.generate.skeleton import Where

Review = Literal["contradicted", "low confidence", "not checkable", "models disagree"]


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of how sure one value is. Calibration turns this into `confidence`; nothing is made up before."""

    path: Path
    value: str
    by: Where  # who decided it
    status: Status | None = None  # its verdict; None for prose, which nobody checks
    rank: int = 0  # of the value among the candidates, best first
    candidates: int = 1
    sources: int = 0  # how many sources say so
    logprob: float | None = None  # mean over the value's own tokens, before any constraint
    share: float | None = None  # of the probability of all that was allowed, 0 to 1
    margin: float | None = None  # log-probability ahead of the best other that was allowed, at its closest
    agreement: float | None = None  # share of the models that gave this value
    confidence: float | None = None  # calibrated; None where nothing was calibrated for it


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """What a file cost: all answers for it together."""

    asks: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int | None = None
    seconds: float = 0.0
    from_cache: bool = False

    def __add__(self, other: Effort) -> Effort:
        known = self.steps is not None and other.steps is not None
        return Effort(
            asks=self.asks + other.asks,
            tokens=self.tokens + other.tokens,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            steps=(self.steps or 0) + (other.steps or 0) if known else None,
            seconds=self.seconds + other.seconds,
            from_cache=self.from_cache and other.from_cache,
        )


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer, or one value of it, could not be taken. `code` is that of a rule of check, or ANSWER."""

    code: str
    path: Path
    message: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One generated file."""

    name: str
    data: dict[str, Any]
    yaml: str
    valid: bool  # by the strict schema
    complete: bool = True  # every question was answered; False where it was stopped
    missing: tuple[
        str, ...
    ] = ()  # what the model was asked for and did not say: its answer ended early, or was none of what was asked
    stopped: Path = ()  # where, if it was stopped in the middle of a text
    verdicts: tuple[Verdict, ...] = ()
    features: tuple[Feature, ...] = ()
    abstained: dict[str, str] = {}  # what is left out, and why
    removed: tuple[Fault, ...] = ()  # values that were contradicted or broke a rule, and so were not written
    repairs: int = 0  # how often the model was asked again
    model: str = ""
    prompt_version: str = ""
    digest: str = ""  # of the evidence
    effort: Effort = Effort()
    receipt: dict[str, Any] | None = None
    asked: tuple[str, ...] = ()  # the models that were asked, in their order
    route: str = ""  # why this model was asked, where there were several
    disagreements: dict[str, dict[str, list[str]]] = {}  # place: what was said of it, and by which models

    @property
    def review(self) -> list[tuple[str, Feature]]:
        """What a person should look at first: (why, feature), the most doubtful first."""
        found: list[tuple[int, float, str, Feature]] = []
        for feature in self.features:
            why = _doubt(feature)
            if why is not None:
                sure = feature.confidence if feature.confidence is not None else feature.share
                found.append((why[0], 1.0 if sure is None else sure, why[1], feature))
        return [(why, feature) for _, _, why, feature in sorted(found, key=lambda each: each[:3])]


def _doubt(feature: Feature) -> tuple[int, str] | None:
    if feature.status == "contradicted":
        return 0, "contradicted"
    if feature.agreement is not None and feature.agreement < 1:
        return 1, "models disagree"
    sure = feature.confidence if feature.confidence is not None else feature.share
    if feature.by == "model" and sure is not None and sure < 0.5:
        return 2, "low confidence"
    if feature.status == "not_checkable":
        return 3, "not checkable"
    return None
