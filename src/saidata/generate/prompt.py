"""The prompt: what is the same for every software first, so that a server computes it once; the evidence last, and short.

The model sees only what helps with what it is asked: what the software is, and the candidates of each choice. Names, paths
and licences that evidence decides are not its business. Open `messages`; change `VERSION` with anything the model sees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from saidata.facts import Evidence
from saidata.generate.category import CATEGORIES
from saidata.generate.skeleton import Question, Skeleton
from saidata.models import Message

VERSION = "1"

MAX_ABOUT = 480  # characters of the long description
MAX_TAGS = 12

SYSTEM = f"""You describe software for a catalogue. Use only the facts given. Answer with one JSON object:
display_name: the name as its makers write it
description: one plain sentence of at most 25 words on what it does, ending with a full stop
category: {", ".join(CATEGORIES)}
subcategory: one word, narrower than the category
tags: two to five lower-case words
A key with candidates takes one of them, or null if none fits."""

EXAMPLE_FACTS = """name: quillbox
summary: queueing print server for small offices
about: Quillbox accepts documents over IPP, keeps them in a queue on disk and hands them to the printers of an office. It has a page for administration.
section: net
tags: works-with::print"""

EXAMPLE_ANSWER = (
    '{"display_name":"Quillbox","description":"A print server that accepts documents over IPP, queues them on disk and sends them '
    'to office printers.","category":"hardware","subcategory":"printing","tags":["print-server","ipp","queue"]}'
)

# What says something of the package and nothing of the software.
_ASIDE = re.compile(r"\s*\((meta-?package|transitional[^)]*|dummy[^)]*|common files)\)", re.IGNORECASE)
_KEPT_TAGS = (
    "role::",
    "use::",
    "works-with::",
    "network::",
    "protocol::",
    "interface::",
    "scope::",
    "field::",
    "game::",
    "web::",
)
_NOT_TOLD = ("role::program", "role::TODO", "scope::utility", "scope::application")


def messages(evidence: Evidence, skeleton: Skeleton, *, remark: str = "") -> tuple[Message, ...]:
    """The conversation whose answer fills the skeleton. `remark` says what was wrong with an earlier answer."""
    asked = facts(evidence, skeleton.questions)
    if remark:
        asked += f"\n\n{remark}"
    return (*STATIC, Message("user", asked))


STATIC = (Message("system", SYSTEM), Message("user", EXAMPLE_FACTS), Message("assistant", EXAMPLE_ANSWER))


def facts(evidence: Evidence, questions: Sequence[Question]) -> str:
    """What the model is told of the software, one fact a line."""
    lines = [f"name: {evidence.name}"]
    summary = evidence.values("summary")
    if summary:
        lines.append(f"summary: {_line(_ASIDE.sub('', summary[0]), 160)}")
    about = evidence.values("description")
    if about:
        lines.append(f"about: {shortened(about[0], MAX_ABOUT)}")
    if not summary and not about:
        lines.append("nothing is known about it")
    section = evidence.values("section")
    if section:
        lines.append(f"section: {_line(section[0], 40)}")
    tags = [tag for tag in evidence.values("tag") if tag.startswith(_KEPT_TAGS) and tag not in _NOT_TOLD]
    if tags:
        lines.append(f"tags: {', '.join(tags[:MAX_TAGS])}")
    lines += [
        f"{question.key}: {' | '.join(question.allowed)}"
        for question in questions
        if question.kind == "choice" and question.allowed != CATEGORIES
    ]
    return "\n".join(lines)


def shortened(text: str, most: int) -> str:
    """The beginning of a text in whole sentences, or whole words where the first sentence is too long."""
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    ends = [found.end() for found in re.finditer(r"[.!?](?= )", flat[:most])]
    if ends and ends[-1] > most // 3:
        return flat[: ends[-1]]
    return flat[:most].rpartition(" ")[0] + " ..."


def _line(text: str, most: int) -> str:
    return shortened(text, most)
