"""Who attends over the cache: our kernel, played by the reference, where it may, and Triton's, in its interpreter, for the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from redline import log
from redline.errors import InternalError
from redline.kernels import attention, paged_runs, whole_attention
from redline.kernels.attention_plan import Run
from redline.kernels.ragged import Ragged
from redline.kernels.tolerance import check

pytestmark = pytest.mark.usefixtures("interpreter")
CPU = torch.device("cpu")


class Own:
    """Our kernel: what it was asked, and what it does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.does: Callable[[], None] = lambda: None

    def attend_run(self, run: Run, q: Tensor, k: Tensor, v: Tensor, ragged: Ragged, scale: float, output: Tensor) -> None:
        self.asked.append((run.start, run.stop))
        self.does()
        starts = ragged.query_start_B1[run.first : run.last + 1] - run.start
        part = Ragged(
            starts,
            ragged.context_B[run.first : run.last],
            ragged.page_table_BP[run.first : run.last],
            run.max_query,
            run.max_context,
        )
        output.copy_(attention.reference(q, k, v, part, scale)[0])


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    """A card that has it, and on which its first results are right."""
    own = Own()
    module = SimpleNamespace(attend_run=own.attend_run, takes_pages=lambda page_size: page_size == 16)
    monkeypatch.setitem(sys.modules, "redline.kernels.prompt_attention_cuda", module)
    monkeypatch.setattr("redline.kernels.prompt_attention_cuda", module, raising=False)
    monkeypatch.setattr(whole_attention, "_trusted", {})
    monkeypatch.setattr(whole_attention, "_supports", lambda way, kind, dtype: way == whole_attention.PAGES)
    monkeypatch.setattr(whole_attention, "check", lambda way, kind: 0.0)
    log.FALLBACKS.clear()
    yield own
    log.FALLBACKS.clear()


def attend(
    lengths: list[tuple[int, int]], *, page_size: int = 16, window: int = 0, known: bool = True, apart: bool = False
) -> None:
    """The result is that of the reference. `apart`: tokens do not lie end to end."""
    ragged, pages = attention.make_ragged([q for q, _ in lengths], [c for _, c in lengths], page_size, CPU, seed=3, known=known)
    torch.manual_seed(1)
    wide = torch.randn(sum(q for q, _ in lengths), 6, 16)
    q = wide[:, :4] if apart else wide[:, :4].contiguous()
    caches = [torch.randn(pages, page_size, 2, 16) for _ in range(2)]
    (expected,) = attention.reference(q, *caches, ragged, 0.25, window)
    check("output", expected, paged_runs.paged_attention(q, *caches, ragged, 0.25, window), "attention", "f32")


def test_prompts_are_for_our_kernel_and_single_tokens_are_not(own: Own) -> None:
    attend([(1, 40), (1, 7), (24, 50), (30, 30), (1, 20)])
    assert own.asked == [(2, 56)]


def test_few_tokens_of_one_sequence_are_for_our_kernel(own: Own) -> None:
    attend([(2, 90)])
    attend([(1, 90)])
    attend([(2, 90), (3, 50)])
    assert own.asked == [(0, 2)]


def test_a_captured_prompt_is_for_our_kernel(own: Own) -> None:
    """Its lengths are on the device alone."""
    attend([(20, 90)], known=False)
    assert own.asked == [(0, 20)]


def test_what_it_does_not_have_is_left_to_triton(own: Own) -> None:
    attend([(20, 90)], window=9)
    attend([(20, 90)], page_size=8)
    attend([(20, 90)], apart=True)
    assert not own.asked


def test_a_kernel_that_fails_is_not_asked_again(own: Own) -> None:
    def fail() -> None:
        raise InternalError("the CUDA driver answered CUDA_ERROR_INVALID_VALUE")

    own.does = fail
    for _ in range(2):
        attend([(20, 90), (30, 40)])
    assert len(own.asked) == 1
    assert [reason for _, reason in log.FALLBACKS] == [
        "our kernel over pages failed: the CUDA driver answered CUDA_ERROR_INVALID_VALUE"
    ]


def test_wrong_first_results_are_told_and_not_used(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_attention, "check", lambda way, kind: float("nan"))
    attend([(20, 90)])
    assert not own.asked and sum(log.FALLBACKS.values()) == 1


def test_memory_that_runs_out_is_no_fault_of_the_kernel(own: Own) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    own.does = fail
    with pytest.raises(torch.OutOfMemoryError):
        attend([(20, 90)])
    own.does = lambda: None
    attend([(20, 90)])
    assert len(own.asked) == 2 and not log.FALLBACKS
