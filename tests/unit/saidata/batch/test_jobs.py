"""Jobs: what goes on, what is tried again, what is left alone, and what a broken disk or store says."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from saidata.batch import files
from saidata.batch.archive import Archive
from saidata.batch.jobs import Jobs, Settings
from saidata.batch.names import Wanted, chosen, parsed, read_list
from saidata.batch.run import Progress, Runner
from saidata.batch.store import Store
from saidata.errors import Misuse, NotHere, SaidataError, Unreachable
from saidata.generate.make import Maker
from saidata_making import Scripted, fact, webthing

SETTINGS = Settings(model="scripted")


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "work.db") as opened:
        yield opened


def started(store: Store, folder: Path, *names: str, settings: Settings = SETTINGS) -> int:
    return Jobs(store).start([Wanted(name) for name in names], "list", folder, settings)[0]


def run(
    store: Store, job: int, model: Scripted | None = None, evidence_of=lambda name: webthing(name=name), told=None
) -> Progress:
    chosen_model = model or Scripted()
    runner = Runner(store, lambda answers: Maker(chosen_model, cache=answers), evidence_of, *([told] if told else []))
    return runner.run(job)


def test_a_list_is_made_and_a_second_run_asks_no_model(store, tmp_path):
    model = Scripted()
    progress = run(store, started(store, tmp_path / "out", "alpha", "beta"), model)
    assert (progress.done, progress.valid, progress.ended, len(model.asks)) == (2, 2, 2, 2)
    path = tmp_path / "out" / "al" / "alpha" / "default.yaml"
    before = path.stat().st_mtime_ns, path.read_text()
    again = run(store, started(store, tmp_path / "out", "alpha", "beta"), model)
    assert (again.done, again.from_cache, again.tokens, len(model.asks)) == (2, 2, 0, 2)
    assert (path.stat().st_mtime_ns, path.read_text()) == before, "a file that says the same is not touched"
    assert len(Archive(store).history("alpha")) == 1


def test_names_that_are_refused_fail_alone_and_can_be_tried_again(store, tmp_path):
    known: list[str] = ["good", "last"]

    def evidence_of(name):
        if name not in known:
            raise NotHere(f"nothing is known of {name}", hint="search")
        return webthing(name=name)

    states: list[str] = []
    job = started(store, tmp_path / "out", "good", "../../etc/passwd", "n" * 1_000_000, "ghost", "last")
    progress = run(store, job, evidence_of=evidence_of, told=lambda progress, name, state: states.append(state))
    assert (progress.done, progress.failed) == (2, 3) and states.count("failed") == 3
    jobs = Jobs(store)
    reasons = {item.name[:20]: item.reason for item in jobs.items(job, "failed")}
    assert "nothing is known of ghost" in reasons["ghost"] and len(max(reasons.values(), key=len)) < 400
    assert jobs.job(job).state == "done with failures"
    assert not (tmp_path / "etc").exists() and len(list((tmp_path / "out").rglob("*.yaml"))) == 2
    known.append("ghost")
    assert jobs.retry(job) == 3 and run(store, job, evidence_of=evidence_of).done == 1
    assert [item.tries for item in jobs.items(job) if item.name == "ghost"] == [2]


def test_a_dead_model_ends_the_run_with_its_sentence_and_the_rest_waits(store, tmp_path):
    class Dying(Scripted):
        def answers(self, asks):
            for number, answer in super().answers(asks):
                if number == 2:
                    raise Unreachable("the server does not answer")
                yield number, answer

    job = started(store, tmp_path / "out", *(f"n{number}" for number in range(5)))
    with pytest.raises(Unreachable):
        run(store, job, Dying())
    assert Jobs(store).job(job).counts == {"waiting": 3, "done": 2, "kept": 0, "failed": 0}
    same, known = Jobs(store).start([Wanted(f"n{n}") for n in range(5)], "list", tmp_path / "out", SETTINGS)
    assert (same, known) == (job, True)
    assert run(store, job).before == 2 and Jobs(store).job(job).state == "done"


def test_a_file_that_was_edited_by_hand_stays_unless_it_is_forced(store, tmp_path):
    out = tmp_path / "out"
    run(store, started(store, out, "alpha"))
    path = out / "al" / "alpha" / "default.yaml"
    path.write_text(path.read_text() + "# mine\n")
    progress = run(store, started(store, out, "alpha"))
    assert (progress.kept, progress.done) == (1, 0) and path.read_text().endswith("# mine\n")
    forced = Settings(model="scripted", force=True)
    assert run(store, started(store, out, "alpha", settings=forced)).done == 1
    assert not path.read_text().endswith("# mine\n")
    archive = Archive(store)
    notes = [version.note for version in archive.history("alpha")]
    assert notes[:2] == ["generated", "edited by hand"]
    assert archive.text(archive.version("alpha", 2)).endswith("# mine\n"), "what was edited is in the archive"


def test_a_changed_fact_makes_a_new_version_of_that_file_alone(store, tmp_path):
    out, model = tmp_path / "out", Scripted()
    run(store, started(store, out, "alpha", "beta"), model)

    def newer(name):
        return webthing(*([fact("config", "/etc/beta/new.conf")] if name == "beta" else []), name=name)

    run(store, started(store, out, "alpha", "beta"), model, newer)
    archive = Archive(store)
    assert len(model.asks) == 2, "the model does not see that fact"
    assert [len(archive.history(name)) for name in ("alpha", "beta")] == [1, 2]
    diff = archive.diff("beta")
    assert "+    path: /etc/beta/new.conf" in diff
    taken_out = [line for line in diff.splitlines()[2:] if line.startswith("-")]
    assert all("generation_" in line for line in taken_out), "but for its date and seconds, nothing went"
    back = archive.back("beta", 1)
    assert (back.number, back.note) == (3, "back to 1") and archive.text(back) == archive.text(archive.version("beta", 1))
    assert [version.number for version in archive.names()] == [1, 3]
    with pytest.raises(NotHere, match="no version 9"):
        archive.version("beta", 9)
    with pytest.raises(NotHere):
        archive.history("gamma")


def test_a_cancelled_job_begins_nothing_more_and_can_be_taken_up(store, tmp_path):
    job = started(store, tmp_path / "out", *(f"n{number}" for number in range(40)))
    jobs = Jobs(store)

    def cancels(progress, name, state):
        if progress.ended == 5:
            jobs.cancel(job)

    run(store, job, told=cancels)
    now = jobs.job(job)
    assert now.state == "cancelled" and 5 <= now.counts["done"] < 20
    again, known = jobs.start([Wanted(f"n{n}") for n in range(40)], "list", tmp_path / "out", SETTINGS)
    assert not known and again != job, "a cancelled job is not gone on with by itself"
    jobs.revive(job)
    assert run(store, job).ended == 40


def test_two_processes_cannot_run_one_job(store, tmp_path):
    job = started(store, tmp_path / "out", "alpha")
    with Jobs(store).held(job):
        with pytest.raises(Misuse, match=f"job {job} is being run by process {os.getpid()}"):
            with Jobs(store).held(job):
                pass
    with Jobs(store).held(job):
        pass


def test_progress_has_rate_and_time_left(store, tmp_path):
    seen: list[tuple[int, float | None, float]] = []
    job = started(store, tmp_path / "out", *(f"n{number}" for number in range(6)))
    run(
        store,
        job,
        Scripted(pause_s=0.01),
        told=lambda p, name, state: seen.append((p.ended, p.left_s, p.files_per_minute)),
    )
    assert [ended for ended, *_ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1][1] == 0 and all(0 < rate < 6001 for *_, rate in seen)


def test_a_full_disk_is_a_sentence_and_nothing_half_written_stays(store, tmp_path, monkeypatch):
    job = started(store, tmp_path / "out", "alpha", "beta")
    sync = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaidataError, match="No space left") as caught:
        run(store, job)
    assert "make room" in caught.value.hint
    assert len(list((tmp_path / "out").rglob("*.yaml"))) == 1 and not list((tmp_path / "out").rglob(files.TEMPORARY + "*"))
    monkeypatch.undo()
    assert run(store, job).done == 1 and Jobs(store).job(job).state == "done"


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be one" * 40, b"SQLite format 3\0" + b"\xff" * 4000]
)
def test_a_store_that_is_none_says_so(tmp_path, content):
    (tmp_path / "work.db").write_bytes(content)
    with pytest.raises(Misuse, match="corrupt|no file of saidata"):
        Store(tmp_path / "work.db")


def test_a_store_of_another_shape_or_place_says_so(tmp_path):
    Store(tmp_path / "work.db").close()
    with sqlite3.connect(tmp_path / "work.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(Misuse, match="another version"):
        Store(tmp_path / "work.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaidataError, match="cannot be used"):
        Store(tmp_path / "file" / "work.db")


def test_an_unknown_job_says_so(store):
    with pytest.raises(NotHere, match="there is no job 7"):
        Jobs(store).job(7)


def test_lists_have_headers_comments_and_each_name_once(tmp_path):
    text = "# a list\r\nnginx  # the first\n## Databases\nredis\n\n  nginx\nc++filt\n##\nbare\n"
    assert parsed(text) == [Wanted("nginx"), Wanted("redis", "Databases"), Wanted("c++filt", "Databases"), Wanted("bare")]
    assert [each.name for each in chosen(parsed(text), "^data")] == ["redis", "c++filt"]
    with pytest.raises(Misuse, match="no category matches"):
        chosen(parsed(text), "mail")
    with pytest.raises(Misuse, match="no regular expression"):
        chosen(parsed(text), "(")
    with pytest.raises(NotHere):
        read_list(tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(Misuse, match="not UTF-8"):
        read_list(tmp_path / "latin")
    with pytest.raises(Misuse):
        read_list(tmp_path)
