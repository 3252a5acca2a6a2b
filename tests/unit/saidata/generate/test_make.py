"""Making files with a model that is scripted: what comes of good answers, wrong ones, broken ones, and of none."""

from __future__ import annotations

import json

import pytest

from saidata.check import verdicts
from saidata.facts import Evidence
from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.generate.make import Maker, Options
from saidata.generate.prompt import STATIC, VERSION
from saidata.models import Answer
from saidata_making import TEXTS, Scripted, fact, obeying, webthing

GOOD = json.dumps({"category": "networking", **TEXTS})


def contradicting(data, evidence):
    """Verdicts of a judge who knows that this software is no DNS server."""
    found = list(verdicts(data, evidence))
    if data["metadata"].get("category") == "networking":
        found.append(_no(("metadata", "category"), "networking"))
    return found


def _no(path, value):
    from saidata.facts import Verdict

    return Verdict(path=path, value=value, status="contradicted", reason="it is no such thing")


def test_a_file_is_made_in_one_ask_and_every_fact_of_it_is_confirmed():
    model = Scripted()
    made = Maker(model).make(webthing())
    assert len(model.asks) == 1 and made.valid and made.complete and made.repairs == 0
    assert Text.parse(made.yaml, "made").value == made.data and not mistakes(made.data, strict=True)
    assert {verdict.status for verdict in made.verdicts} == {"confirmed"}
    assert made.data["metadata"]["tags"] == ["web", "server"], "a tag that comes twice stands once"
    assert made.data["saidata"]["model"] == "scripted" and made.prompt_version == VERSION
    assert made.digest == webthing().digest()


def test_the_model_never_sees_nor_writes_what_evidence_decides():
    model = Scripted()
    Maker(model).make(webthing())
    (ask,) = model.asks
    told = " ".join(message.content for message in ask.messages)
    assert "/etc/webthing" not in told and "BSD-2-Clause" not in told and "webthing.service" not in told
    assert set(ask.schema["properties"]) == {"display_name", "description", "category", "subcategory", "tags"}
    assert ask.schema["additionalProperties"] is False


def test_the_static_part_comes_first_and_is_the_same_for_every_software():
    model = Scripted()
    list(Maker(model).make_all([webthing(), webthing(name="other"), webthing(without=("section",))]))
    assert all(ask.messages[: len(STATIC)] == STATIC and len(ask.messages) == len(STATIC) + 1 for ask in model.asks)


def test_without_anything_to_ask_no_model_is_asked():
    model = Scripted()
    made = Maker(model).make(Evidence(name="riddle", snapshot=""))
    assert not model.asks and made.valid and made.effort.asks == 0
    assert set(made.data) == {"version", "metadata", "saidata"}


@pytest.mark.parametrize("text", ['{"display_name":"Web Thing","descr', "no JSON at all", "[1, 2]", '"text"', ""])
def test_an_answer_that_breaks_off_is_asked_again_for_what_is_missing(text):
    model = Scripted({0: text or " "})
    made = Maker(model).make(webthing())
    assert made.valid and made.complete and made.repairs == 1 and len(model.asks) == 2
    assert made.data["metadata"]["description"] == TEXTS["description"]
    if text.startswith("{"):
        assert "display_name" not in model.asks[1].schema["properties"]
    assert "broke off" in model.asks[1].messages[-1].content


def test_an_answer_that_stays_broken_leaves_the_values_out_and_says_so():
    made = Maker(Scripted({0: "{", 1: "{"})).make(webthing())
    assert made.valid and not made.complete and made.repairs == 1
    assert "description" not in made.data["metadata"] and made.data["commands"]


def test_a_value_that_is_refused_is_asked_again_with_the_rule_and_then_taken_out():
    model = Scripted({0: GOOD, 1: '{"category":"web"}'})
    made = Maker(model, judge=contradicting).make(webthing())
    assert made.repairs == 1 and made.data["metadata"]["category"] == "web" and not made.removed
    assert "[contradicted]" in model.asks[1].messages[-1].content
    assert list(model.asks[1].schema["properties"]) == ["category"]
    stubborn = Maker(Scripted({0: GOOD, 1: '{"category":"networking"}'}), judge=contradicting).make(webthing())
    assert "category" not in stubborn.data["metadata"] and stubborn.valid
    assert [fault.path for fault in stubborn.removed] == [("metadata", "category")]
    assert "networking" not in stubborn.yaml
    never = Maker(Scripted({0: GOOD}), Options(repairs=0), judge=contradicting).make(webthing())
    assert never.repairs == 0 and "category" not in never.data["metadata"]


def test_a_contradicted_fact_takes_its_entry_with_it():
    def judge(data, evidence):
        return [_no(("commands", 0, "path"), "/usr/sbin/webthing")] if "commands" in data else []

    made = Maker(Scripted(), judge=judge).make(webthing())
    assert "commands" not in made.data and made.valid and made.removed


def test_evidence_that_is_itself_wrong_is_not_written_and_the_rule_is_named():
    evidence = webthing(fact("licence", "Free As In Beer ((("), without=("licence",))
    made = Maker(Scripted()).make(evidence)
    assert "license" not in made.data["metadata"] and made.valid and made.repairs == 0
    assert [(fault.code[:3], fault.path) for fault in made.removed] == [("SD5", ("metadata", "license"))]


@pytest.mark.parametrize("wrong", ["/etc/other/two.cf", "/etc/a/one.cf ", ["/etc/a/one.cf"], 7, True])
def test_what_an_unbound_server_makes_up_is_not_taken(wrong):
    """Not every server does what response_format says; names and paths still come from the candidates alone."""
    evidence = webthing(fact("config", "/etc/a/one.cf"), fact("config", "/etc/b/two.cf"), without=("config",))
    answer = {"category": "web", **TEXTS, "config_file": wrong, "license": "MIT", "ports": [{"port": 1}]}
    model = Scripted({0: json.dumps(answer), 1: '{"config_file":"/etc/b/two.cf"}'})
    made = Maker(model).make(evidence)
    assert made.repairs == 1 and made.complete and made.data["services"][0]["config_files"] == ["/etc/b/two.cf"]
    assert list(model.asks[1].schema["properties"]) == ["config_file"]
    assert made.data["metadata"]["license"] == "BSD-2-Clause" and made.data["ports"] == [{"port": 80, "protocol": "tcp"}]
    stubborn = Maker(Scripted({0: json.dumps(answer), 1: json.dumps(answer)})).make(evidence)
    assert "config_files" not in stubborn.data["services"][0] and stubborn.valid and not stubborn.complete


def test_contradictory_evidence_of_two_sources_is_still_one_valid_file():
    evidence = webthing(fact("licence", "MIT", provider="pypi"), fact("version", "9", "webthing-common"), fact("port", "x/tcp"))
    made = Maker(Scripted()).make(evidence)
    assert made.valid and made.data["metadata"]["license"] == "BSD-2-Clause" and len(made.data["ports"]) == 1


def test_many_files_come_back_each_once_whatever_their_answers_need():
    evidences = [webthing(name=f"thing{number}") for number in range(40)]
    evidences[5] = Evidence(name="riddle", snapshot="")
    model = Scripted({3: "broken", 11: "broken", 40: "broken"})
    made = dict(Maker(model).make_all(iter(evidences)))
    assert sorted(made) == list(range(40)) and all(made[number].name == each.name for number, each in enumerate(evidences))
    assert sum(each.repairs for each in made.values()) == 2, "a repair that breaks off is not repaired again"


class Kept(dict):
    """A cache that is a dictionary."""

    def get(self, key: str, model: str) -> Answer | None:
        return super().get((key, model))

    def put(self, key: str, model: str, answer: Answer) -> None:
        self[key, model] = answer


def test_only_what_depends_on_a_changed_fact_is_asked_again():
    model, kept = Scripted(), Kept()
    evidences = [webthing(name=f"thing{number}") for number in range(150)]
    first = dict(Maker(model, cache=kept).make_all(evidences))
    assert len(model.asks) == 150
    again = dict(Maker(model, cache=kept).make_all(evidences))
    assert len(model.asks) == 150 and all(each.effort.from_cache for each in again.values())
    assert {n: m.data["metadata"] for n, m in first.items()} == {n: m.data["metadata"] for n, m in again.items()}
    evidences[7] = webthing(fact("config", "/etc/thing7/more.conf"), name="thing7")  # which the model does not see
    changed = dict(Maker(model, cache=kept).make_all(evidences))
    assert len(model.asks) == 150 and len(changed[7].data["files"]) == 3
    evidences[8] = webthing(fact("summary", "a mail server"), name="thing8", without=("summary",))
    list(Maker(model, cache=kept).make_all(evidences))
    assert len(model.asks) == 151 and "mail server" in model.asks[-1].messages[-1].content
    list(Maker(model, Options(temperature=0.5), cache=kept).make_all(evidences[:3]))
    list(Maker(Scripted(name="another"), cache=kept).make_all(evidences[:3]))
    assert len(model.asks) == 154, "other parameters are another ask, another model does not take this one's answers"


def test_both_forms_make_the_same_file():
    plain = Maker(Scripted(), Options(origin=False)).make(webthing())
    model = Scripted()
    whole = Maker(model, Options(origin=False, form="yaml")).make(webthing())
    assert plain.data == whole.data and plain.yaml == whole.yaml
    lark = model.asks[0].lark
    assert lark is not None and "/etc/webthing/webthing.conf" in lark and "%json" in lark


def test_the_yaml_form_mends_a_broken_answer_as_well():
    model = Scripted({0: 'version: "0.3"\n\nmetadata:\n  name: webthing\n  display_name: "Web'})
    made = Maker(model, Options(form="yaml")).make(webthing())
    assert made.valid and made.repairs == 1 and made.data["metadata"]["display_name"] == TEXTS["display_name"]
    assert model.asks[1].lark is None and model.asks[1].schema is not None, "a repair asks for single values"


def test_what_the_user_wrote_is_kept_whatever_the_judge_says():
    given = {"metadata": {"name": "webthing", "category": "networking"}}
    made = Maker(Scripted(), judge=contradicting).make(webthing(), given=given)
    assert made.data["metadata"]["category"] == "networking" and not made.removed
    by = {feature.path: feature.by for feature in made.features}
    assert by["metadata", "category"] == "user"
    assert [why for why, _ in made.review][0] == "contradicted"


def test_schema_of_the_script_is_that_of_the_ask():
    """The scripted model answers as bound models do, or these tests would show nothing."""
    model = Scripted()
    Maker(model).make(webthing())
    import jsonschema_rs

    assert jsonschema_rs.validator_for(model.asks[0].schema).is_valid(obeying(model.asks[0].schema))
