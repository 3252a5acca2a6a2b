"""A model behind an address: what is sent, what is read, and what each way of failing says. Against a real HTTP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from saidata.errors import Misuse, SaidataError, Unreachable
from saidata.models import Ask, Message, Remote, open_model
from saidata.models.local import Local

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
ASK = Ask(messages=(Message("user", "which?"),), schema=SCHEMA)

Reply = tuple[int, Any]


def completion(text: str = '{"a":"x"}', **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop", **more}], "usage": usage}


class Server:
    """Answers with what `reply` says to (number of the request, its body), and remembers what it was asked."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]):
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        at_once = [0]
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({key.lower(): value for key, value in self.headers.items()} | {":path": self.path})
                    at_once[0] += 1
                    outer.most_at_once = max(outer.most_at_once, at_once[0])
                status, said = reply(number, body)
                with lock:
                    at_once[0] -= 1
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def serve():
    servers: list[Server] = []

    def start(reply: Callable[[int, dict[str, Any]], Reply]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def remote(server: Server, **options: Any) -> Remote:
    return Remote(server.url, "m", first_wait_s=0.001, **options)


def test_a_schema_goes_as_response_format_and_counts_come_back(serve):
    server = serve(lambda number, body: (200, completion()))
    with remote(server, key="k") as model:
        ((number, answer),) = model.answers([ASK])
    body = server.bodies[0]
    assert body["response_format"]["json_schema"] == {"name": "saidata", "schema": SCHEMA, "strict": True}
    assert server.headers[0][":path"] == "/v1/chat/completions" and server.headers[0]["authorization"] == "Bearer k"
    assert (body["model"], body["temperature"], body["seed"], "logprobs" in body) == ("m", 0.0, 0, False)
    assert (number, answer.text, answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (0, '{"a":"x"}', 4, 9, 8)


def test_grammars_and_yaml_go_as_structured_outputs_and_scores_come_back(serve):
    scored = {
        "content": [
            {"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -1}]}
        ]
    }
    server = serve(lambda number, body: (200, completion("x", logprobs=scored)))
    with remote(server) as model:
        ask = Ask(messages=ASK.messages, lark='start: "x"', scores=True)
        ((_, answer),) = model.answers([ask])
        list(model.answers([Ask(messages=ASK.messages, schema=SCHEMA, form="yaml")]))
    assert server.bodies[0]["structured_outputs"] == {"grammar": 'start: "x"'} and server.bodies[0]["top_logprobs"] == 8
    assert server.bodies[1]["structured_outputs"] == {"yaml": SCHEMA}
    assert (answer.scores[0].logprob, answer.scores[0].others) == (-0.5, (("y", -1),))


def test_asks_run_side_by_side_but_never_more_than_allowed_and_each_ends_once(serve):
    def slow(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.005)
        return 200, completion(body["messages"][0]["content"])

    server = serve(slow)
    taken: list[int] = []

    def asks():
        for number in range(30):
            taken.append(number)
            yield Ask(messages=(Message("user", str(number)),))

    with remote(server, side_by_side=4) as model:
        found = {}
        for number, answer in model.answers(asks()):
            assert len(taken) <= len(found) + 5, "asks are taken as there is room"
            found[number] = answer.text
    assert found == {number: str(number) for number in range(30)} and 1 < server.most_at_once <= 4


def test_a_busy_server_is_asked_again(serve):
    server = serve(lambda number, body: (503, {"error": {"message": "full"}}) if number < 2 else (200, completion()))
    with remote(server) as model:
        assert [answer.text for _, answer in model.answers([ASK])] == ['{"a":"x"}']
    assert len(server.bodies) == 3
    stays = serve(lambda number, body: (429, {"error": {"message": "slow down"}}))
    with remote(stays) as model, pytest.raises(Unreachable, match="status 429: slow down"):
        list(model.answers([ASK]))
    assert len(stays.bodies) == 5


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        ((401, {"error": {"message": "no key"}}), Misuse, "no key"),
        ((404, {"error": {"message": "no model m"}}), Misuse, "no model m"),
        ((400, b"<html>what?</html>"), Misuse, "what"),
        ((200, b"<html>hello</html>"), SaidataError, "no chat completion"),
        ((200, {"choices": []}), SaidataError, "no chat completion"),
        ((200, [1]), SaidataError, "no chat completion"),
    ],
)
def test_what_a_retry_cannot_help_is_said_at_once(serve, reply, kind, said):
    server = serve(lambda number, body: reply)
    with remote(server) as model, pytest.raises(kind, match=said) as caught:
        list(model.answers([ASK]))
    assert len(server.bodies) == 1 and server.url in str(caught.value)


def test_a_server_that_is_not_there_is_a_sentence():
    with Remote("http://127.0.0.1:9/v1", "m", first_wait_s=0.001) as model:
        with pytest.raises(Unreachable, match="does not answer") as caught:
            list(model.answers([ASK]))
        with pytest.raises(Unreachable, match="does not answer"):
            list(model.stream(ASK))
    assert "running" in caught.value.hint and caught.value.exit_code == 1


def events(*parts: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


def test_an_answer_comes_as_it_is_written(serve):
    def part(text, finish=None):
        return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}

    told = events(part('{"a"'), part(':"x"}'), part("", "stop"), {"choices": [], "usage": completion()["usage"]})
    server = serve(lambda number, body: (200, told))
    with remote(server) as model:
        pieces = list(model.stream(ASK))
    assert [piece.text for piece in pieces] == ['{"a"', ':"x"}', ""] and server.bodies[0]["stream"] is True
    assert pieces[-1].answer is not None and (pieces[-1].answer.text, pieces[-1].answer.tokens) == ('{"a":"x"}', 4)
    early = serve(lambda number, body: (200, events(part('{"a"'))))
    with remote(early) as model, pytest.raises(Unreachable, match="ended its answer early"):
        list(model.stream(ASK))
    broken = serve(lambda number, body: (200, events({"error": {"message": "out of memory"}})))
    with remote(broken) as model, pytest.raises(SaidataError, match="out of memory"):
        list(model.stream(ASK))
    refused = serve(lambda number, body: (401, {"error": {"message": "no key"}}))
    with remote(refused) as model, pytest.raises(Misuse, match="no key"):
        list(model.stream(ASK))


def test_a_model_is_opened_by_name_or_by_address():
    assert isinstance(open_model("m", base_url="http://127.0.0.1:1/v1"), Remote)
    assert isinstance(open_model("m", device="cpu"), Local), "and nothing is loaded before it is asked"
    for name, options, said in (
        ("", {}, "no model is named"),
        ("m", {"base_url": "127.0.0.1:8000"}, "no address"),
        ("m", {"base_url": "http://127.0.0.1:1/v1", "device": "cpu"}, "device cannot be set"),
        ("m", {"base_url": "http://127.0.0.1:1/v1", "side_by_side": 0}, "at least one request"),
    ):
        with pytest.raises(Misuse, match=said):
            open_model(name, **options)


def test_an_ask_has_a_key_of_all_that_decides_its_answer():
    asks = [
        ASK,
        Ask(messages=(Message("user", "what?"),), schema=SCHEMA),
        Ask(messages=ASK.messages),
        Ask(messages=ASK.messages, schema=SCHEMA, temperature=0.1),
        Ask(messages=ASK.messages, schema=SCHEMA, seed=1),
        Ask(messages=ASK.messages, schema=SCHEMA, form="yaml"),
        Ask(messages=ASK.messages, lark="start: /x/"),
    ]
    assert len({ask.key() for ask in asks}) == len(asks) and ASK.key() == Ask(messages=ASK.messages, schema=dict(SCHEMA)).key()
