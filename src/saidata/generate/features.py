"""What is recorded of each value for calibration: verdict, rank, sources, log-probabilities. Open `features`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saidata.facts import Evidence, Path, Verdict
from saidata.generate.made import Feature
from saidata.generate.skeleton import Question, Skeleton, Where, get
from saidata.models import Answer, Score

# Which facts a list's values are chosen from, for their rank.
_KINDS = {
    "packages": ("package",),
    "services": ("unit",),
    "files": ("config", "conffile"),
    "directories": ("directory", "log"),
    "commands": ("command",),
    "ports": ("port",),
}


def features(
    data: Mapping[str, Any], verdicts: Sequence[Verdict], evidence: Evidence, skeleton: Skeleton, answer: Answer | None
) -> tuple[Feature, ...]:
    """One for each value that has a verdict or that the model gave."""
    found: dict[Path, Feature] = {}
    for verdict in verdicts:
        question = skeleton.question(verdict.path) or skeleton.question(verdict.path[:-1])
        by: Where = "user" if verdict.path in skeleton.given else "model" if question is not None else "evidence"
        rank, candidates = _rank(verdict, evidence, question)
        found[verdict.path] = Feature(
            path=verdict.path,
            value=verdict.value,
            by=by,
            status=verdict.status,
            rank=rank,
            candidates=candidates,
            sources=len({fact.source for fact in verdict.facts}),
        )
    measured = _measured(answer, skeleton) if answer is not None else {}
    for question in skeleton.questions:
        value = get(data, question.path)
        if value is None:
            continue
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        path = question.path if question.path in found or not question.as_list else (*question.path, 0)
        before = found.get(path) or Feature(path=path, value=shown, by="model", candidates=max(1, len(question.allowed)))
        logprob, share, margin = measured.get(question.key, (None, None, None))
        found[path] = Feature(
            **{name: getattr(before, name) for name in ("path", "value", "by", "status", "rank", "candidates", "sources")},
            logprob=logprob,
            share=share,
            margin=margin,
        )
    return tuple(found.values())


def _rank(verdict: Verdict, evidence: Evidence, question: Question | None) -> tuple[int, int]:
    if question is not None and question.allowed:
        values: Sequence[str] = question.allowed
    else:
        kinds: Any = _KINDS.get(str(verdict.path[0]), ())
        values = evidence.values(*kinds) if kinds else ()
    return (values.index(verdict.value) if verdict.value in values else 0), max(1, len(values))


Measure = tuple[float | None, float | None, float | None]


def _measured(answer: Answer, skeleton: Skeleton) -> dict[str, Measure]:
    """Log-probability, share and margin of each answered key, from the tokens of its value alone."""
    if not answer.scores:
        return {}
    starts, at = [], 0
    for score in answer.scores:
        starts.append(at)
        at += len(score.text)
    written = "".join(score.text for score in answer.scores)
    found: dict[str, Measure] = {}
    for question, start, end in _spans(written, skeleton.questions):
        own = [(begin, score) for begin, score in zip(starts, answer.scores, strict=True) if start <= begin < end]
        if own:
            found[question.key] = _measure(written, (start, end), own, question)
    return found


def _spans(written: str, questions: Sequence[Question]) -> Iterator[tuple[Question, int, int]]:
    """Where the value of each key stands in the answer."""
    at = 0
    for question in questions:
        key = re.compile(rf'"{re.escape(question.key)}"\s*:\s*').search(written, at)
        if key is None:
            continue
        try:
            _, end = json.JSONDecoder().raw_decode(written, key.end())
        except ValueError:
            end = len(written)  # the part that was written before it was stopped
        yield question, key.end(), end
        at = end


def _measure(written: str, span: tuple[int, int], own: Sequence[tuple[int, Score]], question: Question) -> Measure:
    start, end = span
    inner = [score.logprob for begin, score in own if begin < end - 1] or [own[0][1].logprob]  # without the closing quote
    logprob = sum(inner) / len(inner)
    if question.kind != "choice":
        return logprob, None, None
    options = [json.dumps(value, ensure_ascii=False) for value in question.schema["enum"]]
    share, margin = 1.0, math.inf
    for begin, score in own:
        before = written[start:begin]
        allowed = [other for text, other in score.others if text and _leads(before + text, options)]
        if allowed:
            share *= 1.0 / (1.0 + sum(math.exp(min(50.0, other - score.logprob)) for other in allowed))
            margin = min(margin, score.logprob - max(allowed))
    return logprob, share, None if margin == math.inf else margin


def _leads(text: str, options: Sequence[str]) -> bool:
    """Whether one of the options begins so, or is followed by what an object goes on with."""
    return any(
        option.startswith(text) or (text.startswith(option) and text[len(option) :] in (",", "}", ',"')) for option in options
    )
