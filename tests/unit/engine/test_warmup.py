"""What idle moments are used for, piece by piece."""

from __future__ import annotations

from redline.engine.draft import Plan
from redline.engine.warmup import WarmUpSizes, warm_up_rest
from redline.kernels.attention_plan import usual_rows


class Runner:
    """Tells what it was asked for. Three sizes of steps can be captured."""

    def __init__(self) -> None:
        self.did: list[object] = []
        self.is_fresh = False
        self._sizes = 3

    def prepare(self) -> bool:
        if self._sizes:
            self._sizes -= 1
            self.did.append("capture")
        return self._sizes > 0

    def prepare_prompts(self, rows: int) -> None:
        self.did.append(rows)

    def launch(self, plan: Plan) -> None:
        raise AssertionError("a request has pages")


def sizes(max_tokens: int, *, compiles: bool) -> WarmUpSizes:
    return {"num_pages": 9, "page_size": 64, "max_tokens": max_tokens, "vocab_size": 99, "compiles": compiles}


def test_one_thing_at_a_time_captures_first() -> None:
    runner = Runner()
    pieces = warm_up_rest(runner, **sizes(2000, compiles=True))  # type: ignore[arg-type]
    before = 0
    for more in pieces:
        assert len(runner.did) - before <= 1 or not more
        before = len(runner.did)
    assert runner.did == ["capture"] * 3 + usual_rows(2000) and runner.did[-1] == 2048
    assert next(pieces, False) is False


def test_nothing_is_planned_where_nothing_is_compiled() -> None:
    runner = Runner()
    assert list(warm_up_rest(runner, **sizes(2000, compiles=False)))[-1] is False  # type: ignore[arg-type]
    assert runner.did == ["capture"] * 3
