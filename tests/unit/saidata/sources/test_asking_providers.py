"""A provider that cannot be asked is "not checked" with the reason; one that answers is asked once a week."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from saidata.errors import Misuse
from saidata.sources import provider
from saidata.sources.listing import PROVIDERS
from saidata.sources.provider import Provider, Said, ask


class _Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        bodies = {
            "/api/formula/lantern.json": (
                200,
                json.dumps({"name": "lantern", "versions": {"stable": "1"}, "license": "MIT"}).encode(),
            ),
            "/api/formula/odd.json": (200, b"<html>"),
            "/api/formula/broken.json": (500, b""),
        }
        status, body = bodies.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no client is installed
    return tmp_path


@pytest.fixture
def server(home: Path) -> Iterator[list[str]]:
    _Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as opened:
        threading.Thread(target=opened.serve_forever, args=(0.01,), daemon=True).start()
        (home / "settings.toml").write_text(f'[sources.brew]\naddress = "http://127.0.0.1:{opened.server_port}/api/"\n')
        yield _Handler.asked
        opened.shutdown()


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"pypi"}))
def test_without_client_and_address_it_says_so(home: Path, name: str) -> None:
    facts, reason = ask(PROVIDERS[name], "lantern")
    assert facts == [] and reason.startswith("not checked: this machine has no ")
    assert not (home / "evidence").exists()


def test_an_address_is_asked_once(server: list[str]) -> None:
    for _ in range(2):
        facts, reason = ask(PROVIDERS["brew"], "lantern")
        assert reason == "" and {(fact.kind, fact.value) for fact in facts} >= {("package", "lantern"), ("licence", "MIT")}
        assert all(fact.date and fact.provider == "brew" and fact.package == "lantern" for fact in facts)
    assert server == ["/api/formula/lantern.json"]


def test_what_is_not_there_differs_from_what_was_not_asked(server: list[str]) -> None:
    assert ask(PROVIDERS["brew"], "nothing") == ([], "brew has no package nothing")
    assert "could not be asked" in ask(PROVIDERS["brew"], "broken")[1]
    assert "not of the form that is known" in ask(PROVIDERS["brew"], "odd")[1]


def test_an_old_answer_is_asked_again(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask(PROVIDERS["brew"], "lantern")
    monkeypatch.setattr(provider, "KEPT_DAYS", 0)
    ask(PROVIDERS["brew"], "lantern")
    assert len(server) == 2


@pytest.mark.parametrize("name", ["", "--help", "../../etc/passwd", "a b", "a;b", "$(id)", "a\n", "x" * 1000, "a/../b"])
def test_a_name_that_is_none_is_never_passed_on(server: list[str], name: str) -> None:
    facts, reason = ask(PROVIDERS["brew"], name)
    assert facts == [] and "is no name of a package" in reason and server == []


def _client(home: Path, script: str) -> Provider:
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / "tool").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin" / "tool").chmod(0o755)
    return Provider(
        name="tool",
        command=("tool", "{name}"),
        read=lambda answer, name: [Said("package", answer.decode().strip())],
        absent="no such",
    )


def test_a_client_is_preferred_and_its_faults_are_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, _ = ask(_client(home, "echo $1"), "lantern")
    assert [(fact.value, fact.source) for fact in facts] == [("lantern", "tool by its client tool")]
    assert ask(_client(home, "echo no such thing >&2; exit 1"), "missing") == ([], "tool has no package missing")
    assert "ended with 4 and said: boom" in ask(_client(home, "echo boom >&2; exit 4"), "failing")[1]
    both = "echo 'connection broken: Temporary failure in name resolution' >&2; echo no such thing >&2; exit 1"
    assert "found no network" in ask(_client(home, both), "offline")[1], "which is never taken for: there is none"
    monkeypatch.setattr(provider, "TIMEOUT_S", 0.2)
    assert "did not answer" in ask(_client(home, "read x < /dev/tty; while :; do :; done"), "slow")[1]


def test_settings_that_are_wrong_are_the_users_to_mend(home: Path) -> None:
    for text, words in (
        ("[sources", "no TOML"),
        ("sources = 1", "no table"),
        ('[sources.brew]\naddress = "ftp://x"', "no http address"),
    ):
        (home / "settings.toml").write_text(text)
        with pytest.raises(Misuse, match=words):
            ask(PROVIDERS["brew"], "lantern")
