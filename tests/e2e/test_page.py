"""The built-in page in a real browser: it chats, shows the engine, asks for a key, and its policy holds."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

import browser
from real_server import RealServer, real_server

EXECUTABLE = browser.find()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="there is no Chromium on this machine")

KEY = "a-key-for-the-page"
SEND = """(() => {{
  document.getElementById('max-tokens').value = '{tokens}';
  document.getElementById('prompt').value = {text!r};
  document.getElementById('send').click();
}})()"""


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server("--api-key", KEY) as running:
        yield running


@pytest.fixture
def page(server: RealServer) -> Iterator[browser.Page]:
    assert EXECUTABLE is not None
    with browser.page(EXECUTABLE) as tab:
        tab.open(server.url + "/")
        tab.until("!document.getElementById('key-form').hidden")
        tab.run(f"document.getElementById('key').value = '{KEY}'; document.querySelector('#key-form button').click()")
        tab.until("document.getElementById('state').textContent === 'ready'")
        tab.problems = [problem for problem in tab.problems if "401" not in problem]  # before the key was given
        yield tab


def test_a_conversation_streams_and_brings_its_receipt(page: browser.Page) -> None:
    page.run(SEND.format(tokens=24, text="Hello"))
    page.until("document.querySelectorAll('#receipts li').length === 1")
    page.run(SEND.format(tokens=24, text="And once more"))
    page.until("document.querySelectorAll('#receipts li').length === 2")
    assert page.run("[...document.querySelectorAll('#messages .user')].map(li => li.textContent)") == ["Hello", "And once more"]
    assert all(page.run("[...document.querySelectorAll('#messages .assistant')].map(li => li.textContent.length)"))
    assert page.run("document.querySelectorAll('#messages .failure').length") == 0
    assert page.problems == []


def test_the_engine_is_shown_while_it_works(page: browser.Page, server: RealServer) -> None:
    page.run(SEND.format(tokens=1500, text="Count"))
    page.until("document.getElementById('running').textContent === '1'")
    page.until("parseFloat(document.getElementById('rate').textContent) > 0")
    page.until("document.getElementById('pages-meter').value > 0")
    page.until("document.querySelector('#history polyline') !== null")
    shown = page.run("document.getElementById('model').textContent")
    assert shown.startswith("random:tiny-llama")
    page.run("document.getElementById('stop').click()")
    page.until("document.getElementById('running').textContent === '0'")
    status = httpx2.get(f"{server.url}/v1/status", headers={"authorization": f"Bearer {KEY}"}).json()
    assert status["running"] == 0 and status["phases"]["decode"]["tokens"] > 0
    if status["ceilings"]:
        page.until("document.querySelector('#roofline circle.decode') !== null")
    assert page.problems == []


def test_markup_in_an_answer_or_a_question_stays_text(page: browser.Page) -> None:
    page.run(SEND.format(tokens=4, text="<img src=x onerror=alert(1)><script>document.title=1</script>"))
    page.until("document.querySelectorAll('#receipts li').length === 1")
    assert page.run("document.querySelectorAll('#messages img, #messages script').length") == 0
    assert page.run("document.title") == "redline"


def test_the_policy_lets_no_foreign_or_inline_code_run(page: browser.Page) -> None:
    page.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.head.append(s); })()"
    )
    assert page.run("window.broken") is None
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'let through', () => 'blocked')") == "blocked"
    assert any("Content Security Policy" in problem for problem in page.problems)


def test_its_files_need_no_key_and_say_what_may_load(server: RealServer) -> None:
    for path in ("/", "/page.css", "/page.js"):
        response = httpx2.get(server.url + path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert httpx2.get(f"{server.url}/v1/status").status_code == 401
