"""Several models: who is asked and why, what they agree on, and when the next one is turned to."""

from __future__ import annotations

import json

import pytest

from saidata.errors import Misuse
from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.generate.consensus import consensus
from saidata.generate.crew import COMPLEX_FACTS, Crew, Rule, rule_of
from saidata.generate.make import Maker, Options
from saidata_making import TEXTS, Scripted, fact, webthing


def maker(name: str, *, scores: bool = False, **values) -> Maker:
    """A model that always says these values beside the usual ones."""
    text = json.dumps({"category": "web", **TEXTS, **values})
    model = Scripted(dict.fromkeys(range(99), text), name=name)
    return Maker(model, Options(scores=scores))


def test_the_majority_decides_a_choice_and_who_said_otherwise_is_kept():
    crew = Crew([maker("a"), maker("b", category="dns"), maker("c", category="dns")], "agree")
    made = crew.make(webthing())
    assert made.data["metadata"]["category"] == "dns" and made.valid
    assert made.disagreements == {"metadata.category": {"web": ["a"], "dns": ["b", "c"]}}
    agreement = {feature.path: feature.agreement for feature in made.features}
    assert agreement["metadata", "category"] == pytest.approx(2 / 3) and agreement["metadata", "subcategory"] == 1
    assert agreement["files", 0, "path"] is None, "what evidence decided was not voted on"
    assert made.effort.asks == 3 and made.data["saidata"]["model"] == "a, b, c"
    assert [why for why, _ in made.review][0] == "models disagree"
    assert Text.parse(made.yaml, "made").value == made.data and not mistakes(made.data, strict=True)


def test_the_sentence_with_most_in_common_and_the_tags_of_half_the_models_stay():
    odd = "A compiler for a language of flowers."
    other = "A small server that hands out pages and passes requests on."
    made = consensus(
        [
            maker("a", description=odd, tags=["flowers"]).make(webthing()),
            maker("b", description=other, tags=["web", "pages"]).make(webthing()),
            maker("c", tags=["web", "server"]).make(webthing()),
        ]
    )
    assert made.data["metadata"]["description"] in (other, TEXTS["description"])
    assert made.data["metadata"]["tags"] == ["web"]


def test_one_that_broke_off_does_not_spoil_the_others():
    broken = Maker(Scripted(dict.fromkeys(range(9), "{"), name="broken"))
    made = Crew([broken, maker("a"), maker("b")], "agree").make(webthing())
    assert made.valid and made.data["metadata"]["category"] == "web" and made.data["metadata"]["display_name"] == "Web Thing"
    assert not made.complete
    alone = maker("a").make(webthing())
    assert consensus([alone]) is alone


def test_a_rule_routes_by_category_or_size_and_the_reason_is_told():
    makers = [maker("fast"), maker("strong"), maker("sql")]
    crew = Crew(makers, "route", rules=[Rule("database", "sql"), Rule("complex", "strong")])
    many = [fact("command", f"/usr/bin/tool{number}") for number in range(COMPLEX_FACTS)]
    evidences = [
        webthing(name="plain"),
        webthing(fact("section", "database"), name="store", without=("section",)),
        webthing(*many, name="huge"),
    ]
    made = {each.name: each for _, each in crew.make_all(evidences)}
    assert {name: each.model for name, each in made.items()} == {"plain": "fast", "store": "sql", "huge": "strong"}
    assert "no rule fits" in made["plain"].route and "category is database" in made["store"].route
    assert "complex" in made["huge"].route
    assert sorted(number for number, _ in crew.make_all(evidences)) == [0, 1, 2]


def test_the_next_model_is_asked_only_where_the_fast_one_is_in_doubt():
    strong = maker("strong", scores=True)
    evidences = [webthing(name=f"thing{number}") for number in range(4)]

    class Doubting(Maker):
        def finished(self, job, found):
            import msgspec

            made = super().finished(job, found)
            share = 0.2 if job.evidence.name == "thing2" else 0.9
            changed = (msgspec.structs.replace(f, share=share) if f.path[-1] == "category" else f for f in made.features)
            return msgspec.structs.replace(made, features=tuple(changed))

    fast = Doubting(maker("fast").model, Options(scores=True))
    made = {each.name: each for _, each in Crew([fast, strong], "escalate").make_all(evidences)}
    assert {name: each.model for name, each in made.items()} == {
        "thing0": "fast",
        "thing1": "fast",
        "thing2": "strong",
        "thing3": "fast",
    }
    assert made["thing2"].route == "fast was not sure of category (0.20); strong" and made["thing2"].effort.asks == 2
    assert made["thing0"].route == "fast is sure" and len(strong.model.asks) == 1


def test_rules_and_modes_that_make_no_sense_are_refused():
    for arguments, said in (
        (([], "route"), "no model"),
        (([maker("a")], "agree"), "two models"),
        (([maker("a")], "escalate"), "two models"),
    ):
        with pytest.raises(Misuse, match=said):
            Crew(*arguments)
    with pytest.raises(Misuse, match="not asked"):
        Crew([maker("a")], "route", rules=[rule_of("web=b")])
    with pytest.raises(Misuse, match="no category"):
        Crew([maker("a")], "route", rules=[rule_of("webs=a")])
    for text in ("web", "=a", "web="):
        with pytest.raises(Misuse, match="no rule"):
            rule_of(text)


def test_where_half_of_the_models_choose_none_of_the_candidates_nothing_is_written():
    two = [fact("config", f"/etc/thing.d/{name}.conf") for name in ("one", "two")]
    evidence = webthing(*two, without=("config",))
    one, none = maker("a", config_file="/etc/thing.d/one.conf"), maker("b", config_file=None)
    made = Crew([one, none], "agree").make(evidence)
    assert "config_files" not in made.data["services"][0]
    assert made.disagreements["services[0].config_files"] == {'["/etc/thing.d/one.conf"]': ["a"], "": ["b"]}
    assert Crew([one, none, maker("c", config_file="/etc/thing.d/one.conf")], "agree").make(evidence).data["services"][0][
        "config_files"
    ] == ["/etc/thing.d/one.conf"]
    broken = Maker(Scripted(dict.fromkeys(range(9), "{"), name="broken"))
    assert Crew([one, broken], "agree").make(evidence).data["services"][0]["config_files"] == ["/etc/thing.d/one.conf"]


def test_two_models_do_not_write_twice_as_many_tags():
    tags = [["web", "http", "pages"], ["files", "web"]]
    made = Crew([maker(name, tags=said) for name, said in zip("ab", tags, strict=True)], "agree").make(webthing())
    assert made.data["metadata"]["tags"] == ["web", "http", "pages"]


def test_every_model_that_was_asked_is_told():
    nobody = webthing(without=("summary", "description"))
    assert maker("a").make(webthing()).asked == ("a",) and maker("a").make(nobody).asked == ()
    assert Crew([maker("a"), maker("b")], "agree").make(webthing()).asked == ("a", "b")
    unsure = Maker(Scripted(dict.fromkeys(range(9), "{"), name="unsure"), Options(repairs=0))
    assert Crew([unsure, maker("b")], "escalate").make(webthing()).asked == ("unsure", "b")
