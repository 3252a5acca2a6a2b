"""Holding a model to many schemas and judging what comes out: every finished answer against jsonschema-rs, every refusal by its words.

Open `Report`, then `offline` and `over_http`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jsonschema_rs

from redline import LLM, SamplingParams
from redline.checkpoint.opener import tokenizer_for
from redline.engine.grammar import Compiler, Vocabulary, of_json_schema
from redline.errors import RedlineError

PROMPT = "Write an example of this as JSON: "
_NAMED = re.compile(r"'[^']+'|allows no answer|too (complex|large)")


@dataclass
class Report:
    """What became of each schema, by name."""

    accepted_names: list[str] = field(default_factory=list)
    refused: int = 0
    finished: int = 0
    unfinished: int = 0
    invalid: list[tuple[str, str]] = field(default_factory=list)  # a finished answer that the judge does not accept
    unnamed: list[tuple[str, str]] = field(default_factory=list)  # a refusal that names nothing
    keywords: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        return len(self.accepted_names)

    def accepted_of(self, prefix: str) -> int:
        """Accepted schemas whose names begin so."""
        return sum(name.startswith(prefix) for name in self.accepted_names)

    def refuse(self, name: str, message: str) -> None:
        self.refused += 1
        named = re.search(r"keyword '([^']+)'", message)
        self.keywords[named[1] if named else message[:60]] += 1
        if not _NAMED.search(message):
            self.unnamed.append((name, message))

    def answer(self, name: str, schema: Any, text: str, *, finished: bool) -> None:
        self.accepted_names.append(name)
        if not finished:
            self.unfinished += 1
            return
        self.finished += 1
        try:
            valid = _validator(schema).is_valid(json.loads(text))
        except ValueError:
            valid = False
        if not valid:
            self.invalid.append((name, text))

    def as_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "refused": self.refused,
            "finished": self.finished,
            "unfinished": self.unfinished,
            "invalid": len(self.invalid),
            "refusals_without_a_name": len(self.unnamed),
            "refused_for": dict(self.keywords.most_common()),
        }


def offline(llm: LLM, schemas: dict[str, Any], *, max_tokens: int) -> Report:
    """Each schema once, greedily, all together, through the offline door."""
    report = Report()
    compiler = Compiler(Vocabulary(tokenizer_for(llm.checkpoint), llm.info.vocab_size, llm.info.eos_ids))
    grammars: dict[str, str] = {}
    for name, schema in schemas.items():
        try:
            grammars[name] = of_json_schema(schema)
            compiler.matcher(grammars[name])
        except RedlineError as error:
            grammars.pop(name, None)
            report.refuse(name, error.message)
    prompts = [llm.render([{"role": "user", "content": PROMPT + json.dumps(schemas[name])[:800]}]) for name in grammars]
    answers = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=max_tokens), grammar=list(grammars.values()))
    for name, done in zip(grammars, answers, strict=True):
        report.answer(name, schemas[name], done.text, finished=done.choices[0].finish == "stop")
    return report


def over_http(url: str, schemas: dict[str, Any], *, max_tokens: int, clients: int = 16) -> Report:
    """Each schema once, drawn at random, through `response_format` of the chat API; several at a time."""
    report = Report()

    def ask(schema: Any) -> httpx2.Response:
        format = {"type": "json_schema", "json_schema": {"name": "example", "schema": schema}}
        body = {"messages": [{"role": "user", "content": PROMPT}], "response_format": format, "seed": 7, "max_tokens": max_tokens}
        return http.post("/v1/chat/completions", json=body)

    with httpx2.Client(base_url=url, timeout=300) as http, ThreadPoolExecutor(clients) as pool:
        for (name, schema), answer in zip(schemas.items(), pool.map(ask, schemas.values()), strict=True):
            told = answer.json()
            assert answer.status_code in (200, 400), told
            if answer.status_code == 400:
                report.refuse(name, told["error"]["message"])
            else:
                choice = told["choices"][0]
                report.answer(name, schema, choice["message"]["content"], finished=choice["finish_reason"] == "stop")
    return report


def _validator(schema: Any) -> Any:
    """Of the draft that the schema names; formats are asserted, as they are enforced."""
    named = str(schema.get("$schema", "")) if isinstance(schema, dict) else ""
    kinds = {"draft-04": jsonschema_rs.Draft4Validator, "draft-06": jsonschema_rs.Draft6Validator}
    kinds |= {"draft-07": jsonschema_rs.Draft7Validator, "2019-09": jsonschema_rs.Draft201909Validator}
    kind = next((kinds[part] for part in kinds if part in named), jsonschema_rs.Draft202012Validator)
    return kind(schema, validate_formats=True)
