"""The category: what the words of a summary decide, what they leave to the model, and that the section's bounds hold."""

from __future__ import annotations

import re

import pytest

from saidata.generate.category import BROAD, CATEGORIES, SECTIONS, WORDS, categories
from saidata_making import fact, webthing


def left(summary: str, section: str) -> tuple[str, ...]:
    return categories(webthing(fact("summary", summary), fact("section", section), without=("summary", "section")))


@pytest.mark.parametrize(
    ("summary", "section", "expected"),
    [
        ("keeps encrypted backups of a folder", "admin", ("backup", "security")),  # two words: the model chooses among these
        ("deduplicating backup program", "admin", ("backup",)),
        ("recursive resolver", "net", ("dns",)),
        ("network monitoring agent", "net", ("monitoring",)),  # networking is only where it works
        ("runs containers as a user", "admin", ("containers",)),
        ("broker that speaks MQTT", "net", ("messaging",)),
        ("VPN daemon", "net", ("networking",)),
        ("filters lines of JSON", "utils", ("text-processing",)),
        ("the database of a game", "games", ("games",)),  # a section of one category needs no words
        ("a service-discovery daemon, DNS-SD", "net", SECTIONS["net"]),  # DNS-SD is another word than DNS
        ("an excellent thing", "net", SECTIONS["net"]),
        ("an excellent thing", "never-heard-of", CATEGORIES),
        ("plays chess", "net", ("games",)),  # the section has no such category, and no word speaks for one that it has
        ("lets printers play chess", "net", ("hardware",)),  # one does
        ("a thing for the network", "python", SECTIONS["python"]),  # too broad a word to leave the section for
    ],
)
def test_words_decide_where_they_speak_for_one(summary: str, section: str, expected: tuple[str, ...]) -> None:
    assert left(summary, section) == expected


def test_the_words_are_of_categories_that_exist_and_can_be_found() -> None:
    assert set(WORDS) == set(CATEGORIES) - {"other"} and set(BROAD) <= set(CATEGORIES)
    for category, words in WORDS.items():
        for word in words.split():
            plain = re.sub(r"-\??", " ", word).rstrip("+?")
            assert category in left(f"a {plain} thing", "never-heard-of") or category in BROAD, word


def test_who_decided_is_the_evidence_and_the_model_is_not_asked() -> None:
    from saidata.generate.plan import plan

    assert plan(webthing()).question(("metadata", "category")) is not None
    evidence = webthing(fact("summary", "deduplicating backup program"), fact("section", "admin"), without=("summary", "section"))
    assert plan(evidence).data["metadata"]["category"] == "backup" and plan(evidence).question(("metadata", "category")) is None
