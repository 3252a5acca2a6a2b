"""`Maker`: files from evidence and one model, one constrained answer each, many side by side.

A file goes through plan, ask, read and judge. What the judge finds at fault is asked again, a bounded number of times and with
the rule that was broken; what is still at fault is taken out and said. Open `Maker.make_all`; `live.py` is the same, as it is written.
"""

from __future__ import annotations

import datetime
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from saidata.check import verdicts
from saidata.facts import Evidence, Path
from saidata.format.emit import emit
from saidata.generate import prompt
from saidata.generate.features import features
from saidata.generate.forms import Written, form_of
from saidata.generate.judge import Judge, Judged, asked_again, judged, without
from saidata.generate.made import Effort, Feature, Made
from saidata.generate.plan import DEFAULT_LIMITS, Limits, plan
from saidata.generate.skeleton import Skeleton, get, key_of
from saidata.models import Answer, Ask, Model
from saidata.models.ask import Form

READY = 64  # files that need no model, before they are handed out between others

Calibrate = Callable[[Feature], float | None]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How files are made. What changes an answer is part of its cache key."""

    form: Form = "json"
    scores: bool = False  # log-probabilities for the confidence of each field; forced tokens then cost a step each
    repairs: int = 1  # how often a file may be asked again
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 400
    limits: Limits = DEFAULT_LIMITS
    notes: bool = False  # comments in the file behind what could not be checked
    origin: bool = True  # the block `saidata`: model, date, seconds


class AnswerCache(Protocol):
    """Answers by the key of their ask and the model."""

    def get(self, key: str, model: str) -> Answer | None: ...

    def put(self, key: str, model: str, answer: Answer) -> None: ...


class Job(msgspec.Struct, kw_only=True):
    """One file while it is made."""

    number: int
    evidence: Evidence
    skeleton: Skeleton
    asked: Skeleton  # the questions that are open now: all of them, or those that are repaired
    answers: dict[str, Any] = {}
    answer: Answer | None = None  # the first, which the features are read from
    effort: Effort = Effort()
    repairs: int = 0
    complete: bool = True
    stopped: Path = ()


class Maker:
    """Makes files with one model. `judge` gives verdicts, `cache` keeps answers, `calibrate` turns a feature into a confidence."""

    def __init__(
        self,
        model: Model,
        options: Options | None = None,
        *,
        judge: Judge = verdicts,
        cache: AnswerCache | None = None,
        calibrate: Calibrate | None = None,
    ):
        self.model = model
        self.options = options or Options()
        self._judge = judge
        self._cache = cache
        self._calibrate = calibrate

    def make(self, evidence: Evidence, *, given: Mapping[str, Any] | None = None, stopped: Path = ()) -> Made:
        """One file. `given` is what a user wrote already, as in `plan`."""
        job = self.begin(0, evidence, given, stopped)
        return next(made for _, made in self._run(iter([job])))

    def make_all(self, evidences: Iterable[Evidence]) -> Iterator[tuple[int, Made]]:
        """The files as they are ready, each with the number of its evidence. Evidence is taken as there is room for it."""
        return self._run(self.begin(number, evidence) for number, evidence in enumerate(evidences))

    def begin(self, number: int, evidence: Evidence, given: Mapping[str, Any] | None = None, stopped: Path = ()) -> Job:
        """The file planned."""
        skeleton = plan(evidence, self.options.limits, given, stopped)
        return Job(number=number, evidence=evidence, skeleton=skeleton, asked=skeleton)

    def ask(self, job: Job, remark: str = "") -> Ask:
        """What the model is asked now."""
        options = self.options
        unbound = Ask(
            messages=prompt.messages(job.evidence, job.asked, remark=remark),
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed + job.repairs,
            scores=options.scores,
        )
        if options.form == "yaml" and not job.repairs:  # a repair asks for single values
            whole = len("".join(emit(job.skeleton.filled({})))) // 2
            unbound = msgspec.structs.replace(unbound, max_tokens=options.max_tokens + whole, scores=False)
        return self._form(job).bound(unbound)

    def _form(self, job: Job) -> Written:
        return form_of("json" if job.repairs else self.options.form, job.asked)

    def _run(self, jobs: Iterator[Job]) -> Iterator[tuple[int, Made]]:
        """All jobs, then those that need a repair, until none does."""
        again: list[tuple[Job, str]] = []
        yield from self._pass(((job, "") for job in jobs), again)
        while again:
            pending, again = again, []
            yield from self._pass(iter(pending), again)

    def _pass(self, jobs: Iterator[tuple[Job, str]], again: list[tuple[Job, str]]) -> Iterator[tuple[int, Made]]:
        """One answer for each job. What needs no model does not wait for it, and does not pile up behind it either."""
        ready: deque[tuple[Job, Answer | None]] = deque()
        running: dict[int, tuple[Job, str]] = {}

        def misses() -> Iterator[Ask]:
            numbers = itertools.count()
            while len(ready) < READY and (following := next(jobs, None)) is not None:
                job, remark = following
                ask = self.ask(job, remark) if job.asked.questions else None
                known = self._cache.get(ask.key(), self.model.name) if ask is not None and self._cache is not None else None
                if ask is None or known is not None:
                    ready.append((job, known))
                    continue
                running[next(numbers)] = (job, ask.key())
                yield ask

        more = True
        while more:
            first = misses()
            head = next(first, None)
            more = head is not None or len(ready) >= READY
            while ready:
                yield from self._take(*ready.popleft(), again, cached=True)
            if head is None:
                continue
            for number, answer in self.model.answers(itertools.chain([head], first)):
                job, key = running.pop(number)
                if self._cache is not None and self.whole(job, answer):
                    self._cache.put(key, self.model.name, answer)
                while ready:
                    yield from self._take(*ready.popleft(), again, cached=True)
                yield from self._take(job, answer, again)

    def _take(
        self, job: Job, answer: Answer | None, again: list[tuple[Job, str]], *, cached: bool = False
    ) -> Iterator[tuple[int, Made]]:
        """The file, or a note in `again` that it must be asked once more."""
        if answer is not None:
            self.take(job, answer, cached=cached)
        found = self.judged(job)
        remark = self._repair(job, found)
        if remark:
            again.append((job, remark))
        else:
            yield job.number, self.finished(job, found)

    def cached(self, job: Job) -> Answer | None:
        """The answer to what the job asks, where it was given before."""
        return None if self._cache is None else self._cache.get(self.ask(job).key(), self.model.name)

    def whole(self, job: Job, answer: Answer) -> bool:
        """Whether an answer says all that was asked. One that does not is a server's fault, and is not kept for the next run."""
        read = self._form(job).read(answer.text)
        return read is not None and all(question.key in read for question in job.asked.questions)

    def complete(self, job: Job, answer: Answer | None) -> Made:
        """The file of a job that was answered elsewhere (`ask`), repaired where it must be."""
        again: list[tuple[Job, str]] = []
        made = list(self._take(job, answer, again))
        while not made:
            pending, again = again, []
            made = list(self._pass(iter(pending), again))
        return made[0][1]

    def take(self, job: Job, answer: Answer, *, cached: bool = False) -> None:
        """Read an answer into the job."""
        form = self._form(job)
        read = form.read(answer.text)
        if read is None:
            read = form.read_part(answer.text)[0]
        job.complete = all(question.key in read for question in job.asked.questions)
        job.answers = {**job.answers, **read}
        if job.answer is None:
            job.answer = answer
        spent = Effort(
            asks=1,
            tokens=answer.tokens,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            steps=answer.steps,
            seconds=0.0 if cached else answer.seconds,
            from_cache=cached,
        )
        job.effort = job.effort + spent if job.effort.asks else spent

    def judged(self, job: Job) -> Judged:
        """The file as far as it is answered, with its verdicts and faults."""
        return judged(job.skeleton.filled(job.answers), job.evidence, job.skeleton, self._judge)

    def _repair(self, job: Job, found: Judged) -> str:
        """What to tell the model, where it is worth asking again; the job is then set to what is asked."""
        if job.repairs >= self.options.repairs or job.stopped:
            return ""
        questions = asked_again(found.faults, job.skeleton)
        if not job.complete:
            questions = tuple(question for question in job.skeleton.questions if question.key not in job.answers) or questions
            remark = "Your answer broke off or had values that are not allowed. Answer only these keys, and keep them short: "
        else:
            remark = "These values were refused: " + " ".join(f"[{fault.code}] {fault.message}." for fault in found.faults[:4])
            remark += " Answer again with only these keys: "
        if not questions:
            return ""
        job.repairs += 1
        job.asked = msgspec.structs.replace(job.skeleton, questions=questions)
        return remark + ", ".join(question.key for question in questions)

    def finished(self, job: Job, found: Judged) -> Made:
        """The result: what is still at fault is taken out, the rest is written."""
        found, removed = without(found, job.evidence, job.skeleton, self._judge)
        described = features(found.data, found.verdicts, job.evidence, job.skeleton, job.answer)
        if self._calibrate is not None:
            described = tuple(msgspec.structs.replace(each, confidence=self._calibrate(each)) for each in described)
        data = self._with_origin(found.data, job) if self.options.origin else found.data
        notes = {v.path: f"not checked: {v.reason}" for v in found.verdicts if v.status == "not_checkable"}
        open_now = () if job.complete else _open(job, data)
        return Made(
            name=job.evidence.name,
            data=data,
            yaml=emit(data, notes if self.options.notes else None),
            valid=not found.faults,
            complete=not open_now,
            missing=open_now,
            stopped=job.stopped,
            verdicts=found.verdicts,
            features=described,
            abstained={**job.skeleton.abstained, **_declined(job)},
            removed=removed,
            repairs=job.repairs,
            model=self.model.name,
            prompt_version=prompt.VERSION,
            digest=job.evidence.digest(),
            effort=job.effort,
            asked=(self.model.name,) if job.effort.asks else (),
            receipt=job.answer.receipt if job.answer is not None else None,
        )

    def _with_origin(self, data: dict[str, Any], job: Job) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        origin = {"model": self.model.name, "generation_date": now.isoformat().replace("+00:00", "Z")}
        seconds = {} if job.effort.from_cache else {"generation_time": round(job.effort.seconds, 2)}
        return {**data, "saidata": {**origin, **seconds}}


def _open(job: Job, data: Mapping[str, Any]) -> tuple[str, ...]:
    """The places that the model was asked for and said nothing of."""
    return tuple(
        key_of(question.path)
        for question in job.skeleton.questions
        if question.key not in job.answers and get(data, question.path) is None
    )


def _declined(job: Job) -> dict[str, str]:
    """The questions that the model answered with null."""
    return {
        key_of(question.path): "the model chose none of the candidates"
        for question in job.skeleton.questions
        if question.key in job.answers and job.answers[question.key] is None
    }
