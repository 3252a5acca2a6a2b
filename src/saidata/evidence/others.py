"""Facts of providers beside apt: `others`, and whether a package there is the same software.

Names are shared: `redis` is a server in apt and a client library on PyPI. Where an archive has told what the software is, a
registry's package of that name counts only if an address of it leads to the same project; else that is said instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from saidata.facts import Fact
from saidata.sources.listing import find
from saidata.sources.provider import ask

# Registries where anybody may take any name.
OPEN = frozenset({"pypi", "npm", "container"})


def others(name: str, providers: Sequence[str], known: Sequence[Fact]) -> tuple[list[Fact], dict[str, str]]:
    """The facts of `providers`, and by provider why there are none. `known` is what apt told of the software."""
    facts: list[Fact] = []
    reasons: dict[str, str] = {}
    for provider in providers:
        found, reason = ask(find(provider), _called(name, provider))
        if provider in OPEN and found and known and not same_project(known, found):
            there = next((fact.value for fact in found if fact.kind in ("homepage", "url")), "no address")
            found, reason = [], f"not taken for the same software: {provider}'s {found[0].package} leads to {there}"
        facts += found
        if reason:
            reasons[provider] = reason
    return facts, reasons


def same_project(one: Iterable[Fact], other: Iterable[Fact]) -> bool:
    """Do both name an address of the same project?"""
    return bool(_addresses(one) & _addresses(other))


def _called(name: str, provider: str) -> str:
    """apt's prefix for bindings is no part of a registry's name."""
    prefix = {"pypi": "python3-", "npm": "node-"}.get(provider, "")
    return name.removeprefix(prefix) if prefix else name


def _addresses(facts: Iterable[Fact]) -> set[str]:
    found = set()
    for fact in facts:
        if fact.kind in ("homepage", "url") and fact.detail in ("", "source", "homepage"):
            bare = (
                re.sub(r"^https?://(www\.)?", "", fact.value.lower()).split("#")[0].split("?")[0].rstrip("/").removesuffix(".git")
            )
            if bare:
                found.add(bare)
    return found
