"""A model in this process: loaded when it is asked, bound by the schema, and what goes wrong is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saidata.errors import Misuse
from saidata.models import Ask, Local, Message

SRC = Path(__file__).parents[4] / "src"
ENUM = {"type": "object", "properties": {"port": {"enum": [80, None]}}, "required": ["port"], "additionalProperties": False}


def ask(text: str, **options) -> Ask:
    return Ask(messages=(Message("system", "Answer."), Message("user", text)), max_tokens=16, **options)


def test_the_rooms_of_generation_do_not_load_torch_or_redline():
    code = (
        "import sys, saidata.models, saidata.generate.make, saidata.generate.live, saidata.batch.run; "
        "print([name for name in ('torch', 'redline', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_that_is_not_here_is_redlines_sentence():
    with Local("no-such-model-here") as model, pytest.raises(Misuse, match="no-such-model-here"):
        list(model.answers([ask("hello")]))
    with Local("random:tiny", nonsense=1) as model, pytest.raises(Misuse, match="nonsense"):
        list(model.answers([ask("hello")]))


@pytest.fixture(scope="module")
def small(smollm2):
    with Local("smollm2-135m", num_threads=1) as model:
        yield model


@pytest.mark.real_model
def test_answers_obey_their_schemas_and_share_the_prompts_beginning(small):
    asks = [
        ask(f"Which port does server number {number} of our long and boring list of servers use?", schema=ENUM)
        for number in range(3)
    ]
    found = dict(small.answers(iter(asks)))
    assert sorted(found) == [0, 1, 2]
    assert all(json.loads(answer.text)["port"] in (80, None) and answer.finish == "stop" for answer in found.values())
    assert all(answer.cached_tokens for answer in found.values()) and all(answer.prompt_tokens > 16 for answer in found.values())
    assert all(answer.steps is not None and answer.steps < answer.tokens for answer in found.values()), (
        "forced tokens take no step"
    )


@pytest.mark.real_model
def test_a_streamed_answer_is_the_collected_one_and_scores_have_texts(small):
    wanted = ask("Which port?", schema=ENUM, scores=True)
    list(small.answers([wanted]))  # from here on the prompt's beginning is kept: steps of other sizes may compute other last bits
    ((_, whole),) = small.answers([wanted])
    pieces = list(small.stream(wanted))
    assert "".join(piece.text for piece in pieces) == whole.text == pieces[-1].answer.text
    assert "".join(score.text for score in whole.scores).startswith(whole.text) and whole.scores == pieces[-1].answer.scores
    lark = ask("Which port?", lark='start: "port: " p\np: %json {"enum": [80, 443]}')
    ((_, bound),) = small.answers([lark])
    assert bound.text in ("port: 80", "port: 443")
    stopped = small.stream(ask("Count to one hundred."))
    next(stopped)
    stopped.close()
    ((_, after),) = small.answers([wanted])
    assert after.text == whole.text, "a stream that was closed is out of the way"
