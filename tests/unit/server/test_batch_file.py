"""A batch between two files: what a crash leaves is gone on with, and what is of something else is never mixed in."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from batches import jsonl, line
from redline.errors import ConfigError, InvalidRequest, NotFound
from redline.server.batch_file import FileBatch, Input, is_done
from redline.server.batch_lines import answered, unanswered
from redline.server.batch_store import Line, Result

MODEL = "m"


def result_of(line: Line) -> Result:
    if line.number % 7 == 0:
        return Result(line.number, False, unanswered(line.custom_id, "code", "message"))
    return answered(line, 200, "req", b'{"n": %d}' % line.number)


def input_of(folder: Path, count: int = 20) -> Input:
    path = folder / "in.jsonl"
    path.write_bytes(jsonl(line(f"r{i}", model=MODEL) for i in range(count)))
    return Input(path)


def answer(batch: FileBatch, count: int, rng: random.Random) -> None:
    """Results for the next lines, in another order than theirs."""

    async def work() -> None:
        lines = await batch.take(count)
        rng.shuffle(lines)
        for cut in range(0, len(lines), 3):
            await batch.finish([result_of(line) for line in lines[cut : cut + 3]])

    asyncio.run(work())


def test_results_are_in_the_order_of_the_input_at_the_end(tmp_path: Path) -> None:
    asked, output = input_of(tmp_path), tmp_path / "out.jsonl"
    assert asked.models == {MODEL} and is_done(asked, output) is None
    with FileBatch(asked, output, MODEL) as batch:
        answer(batch, 20, random.Random(1))
        assert (batch.done, batch.total, batch.failed) == (20, 20, 2)
        batch.complete()
    rows = output.read_text().splitlines()
    assert [f'"custom_id":"r{i}"' in row for i, row in enumerate(rows)] == [True] * 20
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}
    assert is_done(asked, output) == 2


@pytest.mark.soak
def test_a_run_that_was_cut_off_anywhere_is_gone_on_with(tmp_path: Path, effort: int) -> None:
    """The partial file is cut at any byte, as a crash of the machine may leave it; no line is lost or there twice."""
    asked, output = input_of(tmp_path), tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    rng = random.Random(9)
    for _ in range(40 * effort):
        output.unlink(missing_ok=True)
        with FileBatch(asked, output, MODEL) as batch:
            answer(batch, rng.randrange(1, 20), rng)
            before = batch.done
        size = partial.stat().st_size
        os.truncate(partial, rng.randrange(size + 1))
        if rng.random() < 0.3:
            with partial.open("ab") as file:
                file.write(b'{"custom_id": "r1", "resp')
        with FileBatch(asked, output, MODEL) as batch:
            assert batch.done <= before
            answer(batch, 20, rng)
            batch.complete()
        assert is_done(asked, output) == 2


def test_what_is_of_something_else_is_not_touched(tmp_path: Path) -> None:
    asked, output = input_of(tmp_path), tmp_path / "out.jsonl"
    with FileBatch(asked, output, MODEL) as batch:
        answer(batch, 5, random.Random(1))
    kept = (tmp_path / "out.jsonl.partial").read_bytes()
    with pytest.raises(ConfigError, match="another input or another model"), FileBatch(asked, output, "other"):
        pass
    other = input_of(tmp_path, 21)
    with pytest.raises(ConfigError, match="another input or another model"), FileBatch(other, output, MODEL):
        pass
    assert (tmp_path / "out.jsonl.partial").read_bytes() == kept
    output.write_text("something that somebody needs\n")
    with pytest.raises(ConfigError, match="is there already"):
        is_done(other, output)
    (tmp_path / "out.jsonl.partial").write_text("something else\n")
    with pytest.raises(ConfigError), FileBatch(other, output, MODEL):
        pass
    assert (tmp_path / "out.jsonl.partial").read_text() == "something else\n"


def test_an_output_that_is_older_than_its_input_is_not_its_result(tmp_path: Path) -> None:
    asked, output = input_of(tmp_path), tmp_path / "out.jsonl"
    with FileBatch(asked, output, MODEL) as batch:
        answer(batch, 20, random.Random(1))
        batch.complete()
    os.utime(output, (1, 1))
    with pytest.raises(ConfigError, match="is there already"):
        is_done(asked, output)


def test_two_runs_never_write_one_output(tmp_path: Path) -> None:
    asked, output = input_of(tmp_path), tmp_path / "out.jsonl"
    with FileBatch(asked, output, MODEL):
        with pytest.raises(ConfigError, match="another run is writing"), FileBatch(asked, output, MODEL):
            pass


def test_a_faulty_input_is_told_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n" * 9 + jsonl([line("a")]))
    with pytest.raises(InvalidRequest, match=r"line 1: .*line 5: .*and 4 more") as caught:
        Input(path)
    assert caught.value.param == "input"
    with pytest.raises(NotFound):
        Input(tmp_path / "none.jsonl")
    with pytest.raises(NotFound):
        Input(tmp_path)


def test_a_place_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="cannot be written") as caught,
        FileBatch(input_of(tmp_path), tmp_path / "no" / "out", MODEL),
    ):
        pass
    assert caught.value.param == "output"
