"""What one step reads, array by array, against plans written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redline.engine.batch import NEVER, BatchFiller, logit_changes
from redline.engine.draft import Entry, Plan
from redline.engine.request import Sequence
from redline.engine.rows import choice_seed
from redline.engine.shipper import Shipper
from redline.types import Request, SamplingParams

PAGE = 4
EOS = (2, 3)


def sequence(prompt: int, answer: list[int] | None = None, index: int = 0, **sampling: Any) -> Sequence:
    """A running choice with a prompt of tokens 10, 11, ... and known answer tokens."""
    request = Request(id="r", prompt=list(range(10, 10 + prompt)), sampling=SamplingParams(**sampling))
    made = Sequence(request, index, (0, 0.0, 0), 64, frozenset(), None)
    made.start(0, [], 0, 0)
    made.tokens += answer or []
    return made


def entry(of: Sequence, row: int, start: int, count: int, pages: list[int], *, fresh: bool = True, first_new: int = 0) -> Entry:
    return Entry(of, start, count, start + count == of.length, row, fresh, pages, first_new)


def plan(*entries: Entry, copies: list[tuple[int, int]] | None = None) -> Plan:
    return Plan(0, list(entries), copies or [], sum(e.count for e in entries))


@pytest.fixture
def filler() -> BatchFiller:
    return BatchFiller(max_num_seqs=4, max_model_len=32, page_size=PAGE, eos_ids=EOS, device=torch.device("cpu"))


def test_positions_slots_and_uploads_of_a_decode_beside_a_chunk(filler: BatchFiller) -> None:
    """Row 2 decodes its token 5 in the second of its pages, row 0 computes tokens 2 to 7 of a prompt that has more."""
    decode, chunk = sequence(5, [99]), sequence(12)
    inputs = filler.fill(plan(entry(decode, 2, 5, 1, [7, 3]), entry(chunk, 0, 2, 6, [5, 1]), copies=[(8, 5)]))
    packed = inputs.packed
    assert packed is not None and inputs.replay is None
    assert packed.table_rows_T.tolist() == [2] + [0] * 6
    assert packed.positions_T.tolist() == [5, 2, 3, 4, 5, 6, 7]
    assert packed.slots_T.tolist() == [3 * PAGE + 1, 22, 23, 4, 5, 6, 7]
    assert packed.ragged.query_start_B1.tolist() == [0, 1, 7] and packed.ragged.context_B.tolist() == [6, 8]
    assert packed.ragged.page_table_BP.tolist() == [[7, 3], [5, 1]]
    assert (packed.ragged.max_query, packed.ragged.max_context) == (6, 8)
    assert inputs.upload_tokens_U is not None and inputs.upload_rows_U is not None and inputs.upload_columns_U is not None
    assert inputs.upload_tokens_U.tolist() == [*range(10, 15), 99, *range(10, 22)]
    assert inputs.upload_rows_U.tolist() == [2] * 6 + [0] * 12
    assert inputs.upload_columns_U.tolist() == [*range(6), *range(12)]
    assert inputs.copy_source is not None and inputs.copy_target is not None
    assert (inputs.copy_source.tolist(), inputs.copy_target.tolist()) == ([8], [5])
    assert inputs.sample is not None, "the decode samples, the chunk does not"
    assert inputs.sample.logit_rows_R.tolist() == [0] and inputs.sample.columns_R.tolist() == [6]


def test_prompts_that_are_computed_whole_are_uploaded_where_they_are_computed(filler: BatchFiller) -> None:
    one, two = sequence(5), sequence(3)
    inputs = filler.fill(plan(entry(one, 2, 0, 5, [7, 3]), entry(two, 0, 0, 3, [5])))
    packed = inputs.packed
    assert packed is not None and inputs.upload_tokens_U is not None
    assert inputs.upload_tokens_U.tolist() == [*range(10, 15), *range(10, 13)]
    assert inputs.upload_rows_U is not None and inputs.upload_rows_U.tolist() == [2] * 5 + [0] * 3
    assert inputs.upload_columns_U is not None and inputs.upload_columns_U.tolist() == [*range(5), *range(3)]
    assert inputs.upload_rows_U.data_ptr() == packed.table_rows_T.data_ptr(), "one array under two names"
    assert inputs.upload_columns_U.data_ptr() == packed.positions_T.data_ptr()


def test_arrays_arrive_as_they_were_in_one_block_and_one_with_two_names_once() -> None:
    shipper = Shipper(torch.device("cpu"))
    shipper._packs = True  # as for a GPU
    twice, table = np.arange(5, dtype=np.int64), np.arange(12, dtype=np.int32).reshape(3, 4)[:, :3]
    arrays = {"a": twice, "table": table, "b": twice, "real": np.array([0.5], np.float32), "none": np.zeros(0, np.int64)}
    shipped = shipper.ship(arrays)
    for name, array in arrays.items():
        assert shipped[name].shape == array.shape and (shipped[name].numpy() == array).all(), name
        assert shipped[name].numpy().dtype == array.dtype
    assert shipped["a"].data_ptr() == shipped["b"].data_ptr() != shipped["table"].data_ptr()
    assert {shipped[name].data_ptr() % Shipper.ALIGNMENT for name in ("a", "table", "real")} == {
        shipped["a"].data_ptr() % Shipper.ALIGNMENT
    }


def test_a_step_keeps_its_page_table_when_a_later_one_changes_the_row(filler: BatchFiller) -> None:
    one = sequence(4, [9])
    inputs = filler.fill(plan(entry(one, 1, 3, 1, [5, 6])))
    later = filler.fill(plan(entry(one, 1, 4, 1, [5, 0], fresh=False, first_new=1)))
    first, second = inputs.packed, later.packed
    assert first is not None and second is not None
    assert first.ragged.page_table_BP.tolist() == [[5]] and second.ragged.page_table_BP.tolist() == [[5, 0]]
    assert first.slots_T.tolist() == [5 * PAGE + 3] and second.slots_T.tolist() == [0]
    assert later.upload_tokens_U is None and later.copy_source is None and later.patch_places is None


def test_flags_look_at_rows_that_draw(filler: BatchFiller) -> None:
    """Limits of a greedy row start no search, and those of a row that does not sample none either."""
    greedy = sequence(3, temperature=0.0, top_k=5, top_p=0.5, min_p=0.1)
    sample = filler.fill(plan(entry(greedy, 0, 0, 3, [0]))).sample
    assert sample is not None and sample.choice.all_greedy and not sample.choice.truncates
    drawn = sequence(3, temperature=0.5, top_p=0.5, seed=-7, index=1)
    sample = filler.fill(plan(entry(drawn, 1, 2, 1, [1]), entry(greedy, 0, 0, 3, [0]))).sample
    assert sample is not None and not sample.choice.all_greedy
    assert (sample.choice.any_top_k, sample.choice.any_top_p, sample.choice.any_min_p) == (False, True, False)
    assert sample.choice.seed_B.tolist() == [choice_seed(-7, 1), 0] and sample.choice.position_B.tolist() == [3, 3]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_seeds_of_choices_differ_and_fit_64_bits(seed: int) -> None:
    seeds = [choice_seed(seed, index) for index in range(128)]
    assert seeds[0] == seed and len(set(seeds)) == 128 and all(-(2**63) <= s < 2**63 for s in seeds)


def test_end_tokens_are_forbidden_exactly_until_min_tokens() -> None:
    one = sequence(5, min_tokens=2, max_tokens=9, stop_token_ids=(3, 8), logit_bias={8: 5.0})
    forbidden = [(8, 5.0), (2, NEVER), (3, NEVER), (8, NEVER)]
    assert [sorted(logit_changes(one, 5 + known, EOS)) == sorted(forbidden) for known in range(4)] == [True, True, False, False]
    assert logit_changes(one, 7, EOS) == [(8, 5.0)]
    on = sequence(5, min_tokens=1, max_tokens=9, stop_token_ids=(8,), ignore_eos=True)
    assert logit_changes(on, 5, EOS) == [(8, NEVER)], "with ignore_eos the end tokens are tokens like others"


def test_prompt_tokens_are_scored_once_each_over_any_chunks(filler: BatchFiller) -> None:
    """Every token but the first, by the position before it; not the token that is sampled."""
    one = sequence(9, prompt_logprobs=2)
    parts = [
        part
        for start, count in ((0, 1), (1, 4), (5, 4))
        for part in filler.fill(plan(entry(one, 1, start, count, [0, 1, 2], fresh=start == 0))).prompt_scores
    ]
    assert [position for part in parts for position in range(part.start + 1, part.start + 1 + part.count)] == list(range(1, 9))
    assert all((part.row, part.num_logprobs, part.first_row) == (1, 2, 0) for part in parts)


def test_a_prompt_computed_again_after_a_preemption_is_not_scored_again(filler: BatchFiller) -> None:
    """Its scores were delivered with the first token: nobody would take them."""
    inputs = filler.fill(plan(entry(sequence(9, [5], prompt_logprobs=2), 0, 0, 10, [0, 1, 2])))
    assert inputs.prompt_scores == ()
    assert filler.fill(plan(entry(sequence(9, index=1, prompt_logprobs=2), 0, 0, 9, [0, 1, 2]))).prompt_scores == ()
