"""How files are made today, to compare with: a free answer without evidence, and a free answer with it. Open `ask`.

Both get one worked example of an invented program, as a careful user would write the prompt, and nothing binds the answer. They
share no line with generation: no schema, no constraint, no verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from saidata.errors import SaidataError
from saidata.facts import Evidence, FactKind
from saidata.format.document import Text
from saidata.models import Ask, Message

MAX_TOKENS = 700
MOST = 12  # values of one kind that the prompt shows
MOST_TEXT = 400

SYSTEM = """You write saidata 0.3 files: YAML that describes one piece of software and how Debian packages it.
Use these keys. Leave a key out where you do not know it.
version: always "0.3"
metadata: name, display_name, description, category, tags (list), license (SPDX), urls (website)
packages: list of name, package_name
services: list of name, service_name, type (systemd)
files: list of name, path, type (config)
commands: list of name, path
ports: list of port, protocol
Answer with the YAML file and nothing else."""

EXAMPLE = """version: "0.3"
metadata:
  name: quillbox
  display_name: Quillbox
  description: A queueing print server for small offices.
  category: hardware
  tags: [print-server, ipp]
  license: MIT
  urls:
    website: https://quillbox.example.org
packages:
  - name: quillbox
    package_name: quillbox-server
services:
  - name: quillbox
    service_name: quillboxd
    type: systemd
files:
  - name: config
    path: /etc/quillbox/quillbox.conf
    type: config
commands:
  - name: quillctl
    path: /usr/bin/quillctl
ports:
  - port: 6310
    protocol: tcp"""

_SHOWN: tuple[tuple[str, tuple[FactKind, ...], int], ...] = (
    ("summary", ("summary",), 1),
    ("about", ("description",), 1),
    ("packages", ("package",), MOST),
    ("systemd units", ("unit",), MOST),
    ("configuration files", ("config", "conffile"), MOST),
    ("commands", ("command",), MOST),
    ("ports", ("port",), MOST),
    ("licence", ("licence",), 1),
    ("website", ("homepage",), 1),
)


def ask(name: str, evidence: Evidence | None, seed: int = 0) -> Ask:
    """The question for a whole file, with what is known of it or without."""
    example = Message("user", f"Software: quillbox{_facts(None) if evidence is None else EXAMPLE_FACTS}")
    asked = Message("user", f"Software: {name}{_facts(evidence)}")
    messages = (Message("system", SYSTEM), example, Message("assistant", EXAMPLE), asked)
    return Ask(messages=messages, max_tokens=MAX_TOKENS, seed=seed)


EXAMPLE_FACTS = """
Known about it:
summary: queueing print server for small offices
packages: quillbox-server
systemd units: quillboxd.service
configuration files: /etc/quillbox/quillbox.conf
commands: /usr/bin/quillctl
ports: 6310/tcp
licence: MIT
website: https://quillbox.example.org"""


def _facts(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    lines = []
    for title, kinds, most in _SHOWN:
        values: Sequence[str] = evidence.values(*kinds)[:most]
        if values:
            lines.append(f"{title}: {', '.join(' '.join(value.split())[:MOST_TEXT] for value in values)}")
    return "\nKnown about it:\n" + "\n".join(lines or ["nothing"])


def parsed(answer: str) -> Any:
    """The document in an answer, without a Markdown fence around it; None where it is no YAML mapping."""
    fenced = re.search(r"```(?:ya?ml)?\s*\n(.*?)(?:\n```|$)", answer, re.DOTALL)
    try:
        return Text.parse((fenced[1] if fenced else answer).strip() + "\n", "answer").value
    except SaidataError:
        return None
