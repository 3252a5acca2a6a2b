"""A registry's package of the same name is the same software only where an address says so."""

from __future__ import annotations

import pytest

from saidata.errors import Misuse
from saidata.evidence import others as module
from saidata.evidence.others import others, same_project
from saidata.facts import Fact, FactKind
from saidata.sources.provider import Provider


def fact(kind: FactKind, value: str, provider: str = "apt", detail: str = "") -> Fact:
    return Fact(kind=kind, value=value, provider=provider, source="s", date="", package="lantern", detail=detail)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://lantern.example.org", "http://www.lantern.example.org/", True),
        ("https://code.example.org/a/lantern", "https://code.example.org/a/lantern.git#readme", True),
        ("https://code.example.org/a/lantern", "https://code.example.org/a/lantern-py", False),
        ("https://lantern.example.org", "https://example.org", False),
    ],
)
def test_same_project(one: str, other: str, same: bool) -> None:
    assert same_project([fact("homepage", one)], [fact("url", other, "npm", "source")]) is same


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def ask(provider: Provider, name: str) -> tuple[list[Fact], str]:
        asked.append(f"{provider.name} {name}")
        return [fact("package", name, provider.name), fact("homepage", "https://client.example.org", provider.name)], ""

    monkeypatch.setattr(module, "ask", ask)
    return asked


def test_a_client_library_is_not_the_server(answers: list[str]) -> None:
    known = [fact("homepage", "https://lantern.example.org")]
    facts, reasons = others("lantern", ["npm", "brew"], known)
    assert {one.provider for one in facts} == {"brew"}  # its names are given out by people, npm's are taken by anybody
    assert reasons["npm"] == "not taken for the same software: npm's lantern leads to https://client.example.org"


def test_without_an_archive_the_registry_alone_decides(answers: list[str]) -> None:
    facts, reasons = others("lantern", ["npm"], [])
    assert facts and not reasons


def test_an_archives_prefix_is_left_out(answers: list[str]) -> None:
    others("python3-lantern", ["pypi", "dnf"], [])
    assert answers == ["pypi lantern", "dnf python3-lantern"]


def test_an_unknown_provider_is_the_users_mistake(answers: list[str]) -> None:
    with pytest.raises(Misuse):
        others("lantern", ["yum"], [])
