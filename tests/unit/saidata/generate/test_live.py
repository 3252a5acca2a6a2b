"""A file as it is written: values are told and judged as they come, a stop keeps what there is, and it can be gone on with."""

from __future__ import annotations

import pytest

from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.generate.live import Live, stopped_in
from saidata.generate.make import Maker, Options
from saidata.generate.reading import read_part, whole_sentence
from saidata_making import TEXTS, Scripted, webthing


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_every_value_is_told_once_in_its_order_and_the_text_is_whole(form):
    model = Scripted(piece=3)
    live = Live(Maker(model, Options(form=form, origin=False)), webthing())
    steps = list(live)
    paths = [step.path for step in steps if step.path]
    assert len(paths) == len(set(paths)) == 5 and paths[0] == ("metadata", "display_name")
    made = live.made()
    assert made.complete and made.valid and made.data == Maker(Scripted(), Options(origin=False)).make(webthing()).data
    text = "".join(step.text for step in steps)
    assert live.kept is not None and live.kept[2].text == text
    if form == "yaml":
        assert Text.parse(text, "stream").value["commands"] == made.data["commands"]


def test_a_wrong_value_is_told_when_it_is_written_and_does_not_stay():
    def judge(data, evidence):
        from saidata.facts import Verdict

        said = data["metadata"].get("category")
        return [Verdict(path=("metadata", "category"), value=said, status="contradicted", reason="no")] if said else []

    live = Live(Maker(Scripted(), Options(repairs=0), judge=judge), webthing())
    told = [step for step in live if step.faults]
    assert [step.path for step in told] == [("metadata", "category")] and told[0].faults[0].code == "contradicted"
    assert "category" not in live.made().data["metadata"]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("after", range(0, 60, 3))
def test_a_stop_at_any_point_keeps_a_valid_file_that_can_be_gone_on_with(form, after):
    options = Options(form=form, origin=False)
    live = Live(Maker(Scripted(piece=40 if form == "yaml" else 5), options), webthing())
    for number, _ in enumerate(live):
        if number == after:
            live.stop()
    part = live.made()
    data = Text.parse(part.yaml, "part").value
    assert not mistakes(data, strict=True) and data["metadata"]["name"] == "webthing"
    unfinished, stopped = stopped_in(part.yaml)
    assert unfinished is not part.complete and stopped == part.stopped
    model = Scripted()
    whole = Live(Maker(model, options), webthing(), given=data, stopped=stopped)
    list(whole)
    assert whole.made().complete
    metadata = whole.made().data["metadata"]
    assert metadata["description"].startswith(data["metadata"].get("description", ""))
    wanted = Maker(Scripted(), options).make(webthing()).data
    assert {**whole.made().data, "metadata": {**metadata, "description": ""}} == {
        **wanted,
        "metadata": {**wanted["metadata"], "description": ""},
    }


def test_what_was_edited_in_between_stands_and_other_options_hold_for_the_rest():
    live = Live(Maker(Scripted(piece=4)), webthing())
    for step in live:
        if step.path == ("metadata", "display_name"):
            live.stop()
    text = live.made().yaml.replace("Web Thing", "Edited Thing")
    assert "# saidata: not finished" in text
    model = Scripted()
    going_on = Live(Maker(model, Options(temperature=0.7)), webthing(), given=Text.parse(text, "edited").value)
    list(going_on)
    assert going_on.made().data["metadata"]["display_name"] == "Edited Thing"
    assert going_on.made().data["metadata"]["description"] == TEXTS["description"]
    assert model.asks[0].temperature == 0.7 and "display_name" not in model.asks[0].schema["properties"]


def test_a_stopped_answer_is_not_kept_for_later():
    live = Live(Maker(Scripted(piece=4)), webthing())
    for _ in live:
        live.stop()
    assert live.kept is None and not live.made().complete


def test_parts_of_an_object_are_read_up_to_what_is_whole():
    text = '{"a":"x, y","b":["c","d"],"e":null,"f":"open, and'
    for end in range(len(text) + 1):
        pairs, open_string = read_part(text[:end])
        assert set(pairs) <= {"a", "b", "e"} and pairs.get("a", "x, y") == "x, y" and pairs.get("b", ["c", "d"]) == ["c", "d"]
    assert read_part(text) == ({"a": "x, y", "b": ["c", "d"], "e": None}, ("f", "open, and"))
    assert read_part('{"a":"x') == ({}, ("a", "x"))
    assert read_part('{"a":"x"}') == ({"a": "x"}, None)


def test_a_sentence_that_the_bound_cut_ends_at_its_last_whole_part():
    clause = "A server that keeps pages in memory for a long time and hands them out to whoever asks for them"
    assert whole_sentence(f"{clause}, {'word ' * 40}"[:201] + ".") == f"{clause}."
    assert whole_sentence("Short.") == "Short."
    assert whole_sentence("R" + "r" * 200 + ".") == "R" + "r" * 200 + "."
    assert not whole_sentence("A thing " + "very " * 40 + "and the.").endswith(("and.", "the.", "and the."))
