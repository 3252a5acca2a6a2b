"""Search puts the name before the text and the likely before the unlikely, says why, and takes any query."""

from __future__ import annotations

import pytest

import small_archive
from saidata.errors import Misuse
from saidata.index import Index
from saidata.retrieve import Weights, search


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return small_archive.make(tmp_path_factory.mktemp("home"))


def names(index: Index, query: str) -> list[str]:
    return [candidate.package for candidate in search(query, index)]


def test_a_name_beats_text(index: Index) -> None:
    assert names(index, "lantern-common")[0] == "lantern-common"
    assert names(index, "Lantern")[0] == "lantern"


def test_a_description_finds_the_program_before_its_parts(index: Index) -> None:
    found = names(index, "web server")
    assert found[0] == "lantern" and set(found) >= {"lantern-doc", "python3-lantern"}


def test_without_the_prior_the_program_is_not_first(index: Index) -> None:
    found = [candidate.package for candidate in search("web server", index, weights=Weights(prior=0))]
    assert found[0] != "lantern"  # what the prior is there for


def test_words_in_other_forms_and_stop_words(index: Index) -> None:
    assert names(index, "a program for searching files in the lines")[0] == "finder"


def test_every_candidate_says_why(index: Index) -> None:
    best = search("lantern", index)[0]
    assert best.reasons[0] == "the package is called so"
    assert "2 other packages need it" in best.reasons
    assert any(reason.startswith("text rank") for reason in search("web server", index)[0].reasons)


def test_limit_and_order(index: Index) -> None:
    found = search("server", index, 3)
    assert len(found) == 3
    assert [candidate.score for candidate in found] == sorted((candidate.score for candidate in found), reverse=True)


@pytest.mark.parametrize(
    "query", ['"', "AND OR NOT", "name:lantern", "lantern*", "NEAR(a b)", "'; DROP TABLE words", "(((", "-x -y", "c++", "a\0b"]
)
def test_nothing_in_a_query_is_an_operator(index: Index, query: str) -> None:
    try:
        search(query, index)
    except Misuse as error:
        assert "no word" in error.message


@pytest.mark.parametrize("query", ["", "   ", "!!!", "-", "lantern " * 1000])
def test_an_empty_or_endless_query_is_a_sentence(index: Index, query: str) -> None:
    with pytest.raises(Misuse) as error:
        search(query, index)
    assert error.value.hint
