"""What somebody wants of a machine, as text: `ttft_ms<=200, itl_ms<=8, users=32, context=8192`.

Terms with a bound are goals; users, prompt, output and context say what load they hold for; `best=` says what counts among
layouts that meet them. Knows nothing of models. Open `parse`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from redline.errors import ConfigError
from redline.plan.predict import Load

# Name of a goal: whether less is better, and what it is.
MEASURES: dict[str, tuple[bool, str]] = {
    "ttft_ms": (True, "milliseconds to the first token under the load"),
    "itl_ms": (True, "milliseconds between tokens, usually"),
    "worst_itl_ms": (True, "milliseconds between tokens while a prompt is computed beside"),
    "tokens_per_s": (False, "output tokens per second of all users"),
    "user_tokens_per_s": (False, "output tokens per second of each user"),
    "joules_per_token": (True, "joules per output token"),
    "joules_per_request": (True, "joules per answer, its prompt included"),
    "start_ttft_ms": (True, "milliseconds to the first token on an idle engine"),
}
LOADS = ("users", "prompt", "output", "context")
BEST = ("quality", "tokens_per_s", "itl_ms", "tokens_per_joule")

MOST_USERS = 65536
USERS, PROMPT, OUTPUT = 1, 1024, 256  # of a load that nobody described


@dataclass(frozen=True)
class Term:
    """One bound: a measure is to be at most or at least `value`."""

    name: str
    value: float

    @property
    def at_most(self) -> bool:
        return MEASURES[self.name][0]

    def misses(self, found: float) -> float:
        """How many times worse than the bound `found` is; at most 1: it is met."""
        if found <= 0 or self.value <= 0:
            return 1.0 if found == self.value else float("inf")
        return found / self.value if self.at_most else self.value / found

    def __str__(self) -> str:
        return f"{self.name}{'<=' if self.at_most else '>='}{self.value:g}"


@dataclass(frozen=True)
class Goal:
    """Bounds, the load they hold for, and what counts among what meets them."""

    load: Load
    terms: tuple[Term, ...] = ()
    best: str = "quality"

    @property
    def context(self) -> int:
        """Tokens of a sequence at its end."""
        return self.load.prompt + self.load.output


def parse(text: str, longest: int) -> Goal:
    """The goal that `text` states, for a model of `longest` tokens of context. Raises ConfigError with what is possible."""
    loads: dict[str, int] = {}
    terms: list[Term] = []
    best = "quality"
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*(<=|>=|<|>|=)\s*(\S+)", part)
        if match is None:
            raise ConfigError(f"{part!r} is no goal", hint="write itl_ms<=8, users=32", param="goal")
        name, sign, value = match.groups()
        if name == "best":
            best = _choice(value)
        elif name in LOADS:
            loads[name] = _whole(name, value)
        else:
            terms.append(_term(name, sign, value))
    return Goal(_load(loads, longest), tuple(terms), best)


def _term(name: str, sign: str, value: str) -> Term:
    if name not in MEASURES:
        names = (*MEASURES, *LOADS, "best")
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"no goal is called {name!r}", hint=hint, param="goal")
    if sign != "=" and (sign[0] == "<") != MEASURES[name][0]:
        raise ConfigError(
            f"{name}{sign}{value}: {'less' if MEASURES[name][0] else 'more'} of it is better", hint="turn the sign", param="goal"
        )
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{name} must be a number above 0, not {value!r}", param="goal")
    return Term(name, number)


def _choice(value: str) -> str:
    if value not in BEST:
        raise ConfigError(f"best={value} is not known", hint=f"one of {', '.join(BEST)}", param="goal")
    return value


def _whole(name: str, value: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", value):
        raise ConfigError(f"{name} must be a whole number above 0, not {value!r}", param="goal")
    if name == "users" and int(value) > MOST_USERS:
        raise ConfigError(f"users={value} is more than {MOST_USERS}", hint="plan one machine, and count them", param="goal")
    return int(value)


def _load(given: dict[str, int], longest: int) -> Load:
    """Context is prompt and output together: of what is not given the output is the smaller part."""
    context = given.get("context")
    output = given.get("output")
    prompt = given.get("prompt")
    if context is None:
        prompt = PROMPT if prompt is None else prompt
        output = OUTPUT if output is None else output
        if not given:
            prompt, output = min(prompt, max(1, longest // 2)), min(output, max(1, longest // 4))
    else:
        if output is None:
            output = context - prompt if prompt is not None else min(OUTPUT, max(1, context // 4))
        prompt = context - output if prompt is None else prompt
        if prompt + output != context or min(prompt, output) < 1:
            raise ConfigError(f"a context of {context} does not hold {prompt} tokens in and {output} out", param="goal")
    if prompt + output > longest:
        raise ConfigError(
            f"{prompt} tokens in and {output} out are more than the {longest} tokens the model was made for",
            hint="lower context, prompt or output",
            param="goal",
        )
    return Load(given.get("users", USERS), prompt, output)
