"""What is recorded of each value for its confidence: from its own tokens, over what was allowed, with its verdict."""

from __future__ import annotations

import json
import math

from saidata.generate.features import features
from saidata.generate.make import Maker, Options
from saidata.generate.plan import plan
from saidata.models import Answer, Score
from saidata_making import Scripted, fact, webthing


def scored(*tokens: tuple[str, float, dict[str, float]]) -> Answer:
    scores = tuple(Score(text, logprob, tuple(others.items())) for text, logprob, others in tokens)
    return Answer(text="".join(score.text for score in scores), finish="stop", scores=scores)


def of_category(*tokens):
    evidence = webthing()
    skeleton = plan(evidence)
    answer = scored(*tokens)
    data = skeleton.filled({"category": "dns"})
    found = {feature.path: feature for feature in features(data, [], evidence, skeleton, answer)}
    return found["metadata", "category"]


def test_a_choice_is_measured_over_what_was_allowed_and_structure_does_not_count():
    feature = of_category(
        ('{"', -9.0, {}),
        ("category", -9.0, {}),
        ('":"', -9.0, {}),
        ("d", -0.7, {"w": -0.9, "Z": -0.1, "": -0.1}),  # web is allowed, Z is not
        ("ns", -0.1, {}),
        ('"}', -5.0, {}),
    )
    assert feature.share is not None and math.isclose(feature.share, 1 / (1 + math.exp(-0.2)), rel_tol=1e-6)
    assert feature.margin is not None and math.isclose(feature.margin, 0.2, abs_tol=1e-9)
    assert feature.by == "model" and feature.candidates > 5 and feature.confidence is None


def test_an_end_of_the_value_among_the_others_counts_as_allowed():
    feature = of_category(('{"category":"', 0.0, {}), ("dns", -0.5, {'dns",': -1.5, 'dnsx"': -0.6}), ('"}', 0.0, {}))
    assert feature.share is None or feature.share < 1


def test_values_that_the_user_or_evidence_gave_have_verdict_rank_and_sources():
    evidence = webthing(fact("package", "webthing", provider="pypi"))
    made = Maker(Scripted(), Options(scores=True)).make(evidence)
    by_path = {feature.path: feature for feature in made.features}
    second = by_path["files", 1, "path"]
    assert (second.by, second.status, second.rank, second.candidates, second.logprob) == ("evidence", "confirmed", 1, 2, None)
    prose = by_path["metadata", "description"]
    assert (
        prose.by == "model"
        and prose.logprob is not None
        and math.isclose(prose.logprob, -0.1)
        and prose.share is None
        and prose.status is None
    )
    assert all(feature.confidence is None for feature in made.features), "nothing was calibrated, so there is no confidence"


def test_calibration_gives_the_confidence_and_what_is_doubtful_comes_first():
    maker = Maker(Scripted(), calibrate=lambda feature: 0.1 if feature.path[-1] == "category" else 0.9)
    made = maker.make(webthing())
    why, first = made.review[0]
    assert (why, first.path, first.confidence) == ("low confidence", ("metadata", "category"), 0.1)


def test_features_survive_json():
    import msgspec

    from saidata.generate.made import Made

    made = Maker(Scripted(), Options(scores=True)).make(webthing())
    again = msgspec.json.decode(msgspec.json.encode(made), type=Made)
    assert again.features[0].path == made.features[0].path and json.loads(msgspec.json.encode(made))["name"] == "webthing"
