"""`Runner`: the waiting items of a job, made and put on the disk one by one, whatever happens in between.

A file is written whole before its item is done, and the item and its archived version are recorded together. Open `Runner.run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from saidata.batch import files
from saidata.batch.answers import StoredAnswers
from saidata.batch.archive import EDITED, Archive, content_of
from saidata.batch.jobs import Item, JobRecord, Jobs
from saidata.batch.store import Store
from saidata.errors import BadName, NotHere
from saidata.facts import Evidence
from saidata.format.layout import place
from saidata.generate.made import Made


class Makes(Protocol):
    """What makes files: a `Maker`, or a `Crew` of several."""

    def make_all(self, evidences: Iterable[Evidence]) -> Iterator[tuple[int, Made]]: ...


LOOK_EVERY = 8  # files between two looks whether the job was cancelled


class Progress(msgspec.Struct, kw_only=True):
    """How far a run is, and how fast."""

    total: int
    done: int = 0
    kept: int = 0
    failed: int = 0
    before: int = 0  # had come to their end when this run began
    valid: int = 0
    repaired: int = 0
    from_cache: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, that the model's server had computed before
    seconds: float = 0.0
    files_per_minute: float = 0.0
    tokens_per_s: float = 0.0
    left_s: float | None = None

    @property
    def ended(self) -> int:
        """Items that this run and those before it brought to an end."""
        return self.before + self.done + self.kept + self.failed


class Runner:
    """Runs one job. `evidence_of` gathers, `maker` makes; `told` hears of every item that ends."""

    def __init__(
        self,
        store: Store,
        maker_of: Callable[[StoredAnswers], Makes],
        evidence_of: Callable[[str], Evidence],
        told: Callable[[Progress, str, str], None] = lambda progress, name, state: None,
    ):
        self._store = store
        self._jobs = Jobs(store)
        self._archive = Archive(store)
        self.answers = StoredAnswers(store)
        self._maker = maker_of(self.answers)
        self._evidence_of = evidence_of
        self._told = told
        self._stop = False

    def stop(self) -> None:
        """Begin no further item; those that are with the model are brought to their end."""
        self._stop = True

    def run(self, number: int) -> Progress:
        """Every waiting item. Raises SaidataError where going on makes no sense (no model, no disk); the rest then waits."""
        with self._jobs.held(number):
            job = self._jobs.job(number)
            waiting = self._jobs.items(number, "waiting")
            progress = Progress(total=job.total, before=job.total - len(waiting))
            files.sweep(Path(job.folder))
            clock = _Clock(progress)
            for _, made in self._maker.make_all(self._evidence(job, waiting, progress)):
                state = self._keep(job, made)
                progress.valid += made.valid
                progress.repaired += bool(made.repairs)
                self._count(progress, made, state)
                clock.tick()
                self._told(progress, made.name, state)
            clock.tick()
            return progress

    def _evidence(self, job: JobRecord, waiting: list[Item], progress: Progress) -> Iterator[Evidence]:
        """Evidence for one item after another; an item whose name is refused fails alone."""
        for count, item in enumerate(waiting):
            if self._stop or (count % LOOK_EVERY == 0 and self._jobs.is_cancelled(job.id)):
                return
            try:
                place(item.name)
                evidence = self._evidence_of(item.name)
            except (BadName, NotHere) as error:
                self._jobs.ended(job.id, item.name, "failed", error.sentence())
                progress.failed += 1
                self._told(progress, item.name, "failed")
                continue
            yield evidence

    def _keep(self, job: JobRecord, made: Made) -> str:
        """Archive the file, put it on the disk, end the item, in this order: killed in between, all of it is done once more, and
        a file that lies there is known to be ours."""
        name, figures = made.name, _figures(made)
        if not made.valid:
            reason = "; ".join(f"[{fault.code}] {fault.message}" for fault in made.removed) or "it breaks the schema"
            self._jobs.ended(job.id, name, "failed", reason, figures)
            return "failed"
        if not made.complete:
            reason = f"the model gave no whole answer: {', '.join(made.missing)} is missing"
            self._jobs.ended(job.id, name, "failed", reason, figures)
            return "failed"
        path = Path(job.folder) / place(name)
        before = files.read(path)
        edited = before is not None and not self._archive.generated(name, before)
        with self._store.changes():
            if before is not None and edited:
                self._archive.add(name, before, content_of({"edited": before}), note=EDITED)
            if edited and not job.settings.force:
                self._jobs.ended(job.id, name, "kept", "the file was edited by hand; --force replaces it", figures)
                return "kept"
            version = self._archive.add(
                *(name, made.yaml, content_of(made.data)),
                model=made.model,
                note="generated",
                job=job.id,
                evidence=made.digest,
            )
        text = self._archive.text(version)
        if before != text:
            files.write(path, text)
        self._jobs.ended(job.id, name, "done", "", figures)
        return "done"

    def _count(self, progress: Progress, made: Made, state: str) -> None:
        setattr(progress, state, getattr(progress, state) + 1)
        progress.from_cache += made.effort.from_cache
        if not made.effort.from_cache:
            progress.tokens += made.effort.tokens
            progress.prompt_tokens += made.effort.prompt_tokens
            progress.cached_tokens += made.effort.cached_tokens


class _Clock:
    """Rate and time left, over the whole run: answers come in waves, and a shorter span would jump with them."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._began = time.monotonic()

    def tick(self) -> None:
        """Items have ended."""
        progress = self._progress
        progress.seconds = max(1e-6, time.monotonic() - self._began)
        progress.files_per_minute = 60 * (progress.ended - progress.before) / progress.seconds
        progress.tokens_per_s = progress.tokens / progress.seconds
        left = progress.total - progress.ended
        progress.left_s = left * 60 / progress.files_per_minute if progress.files_per_minute else None


def _figures(made: Made) -> Mapping[str, Any]:
    return {
        "valid": made.valid,
        "complete": made.complete,
        "repairs": made.repairs,
        "removed": [f"{fault.code} {fault.message}" for fault in made.removed],
        "review": len(made.review),
        "effort": msgspec.to_builtins(made.effort),
    }
