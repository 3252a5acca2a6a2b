"""Responses and messages as their streams tell them: a client that adds up the events has the collected answer."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from openai.types.responses import Response

from redline.chat.parser import CallArguments, CallBegin, Event, Reasoning, Text
from redline.engine.answer import Delta
from redline.errors import EngineDead
from redline.server.generation import Piece, merged
from redline.server.messages_writer import MessageWriter
from redline.server.response_writer import ResponseWriter
from redline.types import TokenLogprob, Usage

Json = dict[str, Any]
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3)


class Spelling:
    def token_text(self, id_: int) -> str:
        return chr(id_)

    def token_bytes(self, id_: int) -> bytes:
        return chr(id_).encode()


def answers(rng: random.Random) -> list[Event]:
    """What a model may write: reasoning, texts and calls in any order."""
    events: list[Event] = []
    for number in range(rng.randint(0, 5)):
        kind = rng.choice("rtc")
        words = "".join(rng.choice('ab{}"é👋\n ') for _ in range(rng.randint(0, 9)))
        if kind == "c":
            events += [CallBegin(number, f"call_{number}", "look"), CallArguments(number, json.dumps({"q": words}))]
        else:
            events.append(Reasoning(words) if kind == "r" else Text(words))
    return events


def cut(rng: random.Random, events: list[Event], *, one: bool = False) -> list[Piece]:
    """The same events in pieces as small as they may come; `one`: no more than one in a piece."""
    small: list[Event] = []
    for event in events:
        text = "" if isinstance(event, CallBegin) else event.text
        while len(text) > 1 and rng.random() < 0.8:
            at = rng.randrange(1, len(text))
            small.append(CallArguments(event.call, text[:at]) if isinstance(event, CallArguments) else type(event)(text[:at]))  # type: ignore[call-arg]
            text = text[at:]
        small.append(event if isinstance(event, CallBegin) else _with(event, text))
    pieces, i = [], 0
    while i < len(small):
        step = 1 if one else rng.randint(0, 3)
        pieces.append(piece(small[i : i + step]))
        i += step
    return [*pieces, piece([], finish="length" if len(events) % 2 else "stop")]


def _with(event: Event, text: str) -> Event:
    return CallArguments(event.call, text) if isinstance(event, CallArguments) else type(event)(text)  # type: ignore[call-arg]


def piece(events: list[Event], finish: Any = None, stop: str | None = None) -> Piece:
    tokens = [ord(letter) for event in events if isinstance(event, Text) for letter in event.text]
    scores = [TokenLogprob(token, -0.25, [(token, -0.25)]) for token in tokens]
    return Piece(0, Delta(index=0, text="", tokens=tokens, logprobs=scores, finish=finish, stop=stop), events)


def sent(events: list[Json]) -> list[Json]:
    """The events as they were when they left: what changes a body afterwards shows."""
    return [json.loads(json.dumps(event)) for event in events]


def response(pieces: list[Piece], **fields: Any) -> tuple[list[Json], Json]:
    writer = ResponseWriter({"id": "resp_1", "model": "m", **fields}, Spelling())
    events = sent(writer.begin())
    for each in pieces:
        events += sent(writer.push(each))
    return events + sent(writer.finish(USAGE, 2)), writer.document


def added_up(events: list[Json]) -> list[Json]:
    """The output as a client makes it of the events alone."""
    items: list[Json] = []
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(items)
                items.append(event["item"])
            case "response.content_part.added":
                items[event["output_index"]]["content"].append(event["part"])
            case "response.output_text.delta" | "response.reasoning_text.delta":
                part = items[event["output_index"]]["content"][event["content_index"]]
                part["text"] += event["delta"]
                part.setdefault("logprobs", []).extend(event.get("logprobs", []))
            case "response.function_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_text.done" | "response.reasoning_text.done":
                part = items[event["output_index"]]["content"][event["content_index"]]
                assert (event["item_id"], event["text"]) == (items[event["output_index"]]["id"], part["text"])
            case "response.function_call_arguments.done":
                assert event["arguments"] == items[event["output_index"]]["arguments"]
            case "response.output_item.done":
                items[event["output_index"]]["status"] = event["item"]["status"]
    return items


def texts(item: Json) -> list[str]:
    return [part["text"] for part in item.get("content", ())]


def without_ids(items: list[Json]) -> list[Json]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


@pytest.mark.parametrize("seed", range(40))
def test_the_events_of_a_response_add_up_to_its_document(seed: int) -> None:
    rng = random.Random(seed)
    whole = answers(rng)
    pieces = cut(rng, whole)
    events, document = response(pieces)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    last = "incomplete" if pieces[-1].delta.finish == "length" else "completed"
    assert events[-1] == {"type": f"response.{last}", "sequence_number": len(events) - 1, "response": document}
    told = added_up(events)
    for item in told:
        for part in item.get("content", ()):
            if part["type"] == "reasoning_text":
                del part["logprobs"]
    assert told == document["output"]
    for kind in ("output_item", "content_part"):
        counts = [sum(event["type"] == f"response.{kind}.{what}" for event in events) for what in ("added", "done")]
        assert counts[0] == counts[1]
    # one item after the other: each is done before the next begins
    order = [(event["type"].rsplit(".")[-1], event["output_index"]) for event in events if "output_item" in event["type"]]
    assert order == [(what, i) for i in range(len(told)) for what in ("added", "done")]


@pytest.mark.parametrize("seed", range(40))
def test_a_collected_response_is_the_streamed_one(seed: int) -> None:
    rng = random.Random(seed)
    events = answers(rng)
    several = [response(cut(rng, events, one=True))[1] for _ in range(3)]  # log-probabilities come token by token
    assert all(without_ids(each["output"]) == without_ids(several[0]["output"]) for each in several)
    several += [response([merged(cut(rng, events))])[1]]
    plain = [[{**item, "content": texts(item)} for item in without_ids(each["output"])] for each in several]
    assert plain[0] == plain[-1] and several[0]["usage"] == several[-1]["usage"]
    assert several[0]["status"] == several[-1]["status"]


def test_a_response_is_one_that_the_sdk_knows() -> None:
    pieces = [piece([Reasoning("hm"), Text("hi"), CallBegin(0, "call_1", "f"), CallArguments(0, "{}")], finish="length")]
    _, document = response(pieces, object="response", created_at=1, parallel_tool_calls=True, tool_choice="auto", tools=[])
    told = Response.model_validate(document)
    assert [item.type for item in told.output] == ["reasoning", "message", "function_call"]
    assert told.incomplete_details is not None and told.incomplete_details.reason == "max_output_tokens"
    assert told.usage is not None and told.usage.total_tokens == 12 and told.usage.input_tokens_details.cached_tokens == 3
    # what was cut is the last item alone
    assert [getattr(item, "status", None) for item in told.output] == ["completed", "completed", "incomplete"]


def test_an_error_keeps_what_was_written_and_ends_once() -> None:
    writer = ResponseWriter({"id": "resp_1"}, None)
    events = sent([*writer.begin(), *writer.push(piece([Text("half an ans")])), *writer.fail(EngineDead("it died"))])
    assert events[-1]["type"] == "response.failed" and writer.document["status"] == "failed"
    assert writer.document["error"] == {"code": "server_error", "message": "it died", "param": None, "type": "engine_dead"}
    (item,) = added_up(events)
    assert item["content"][0]["text"] == "half an ans" and item["status"] == "incomplete"
    assert writer.fail(EngineDead("again")) == []


def message(pieces: list[Piece]) -> tuple[list[Json], Json]:
    writer = MessageWriter("msg_1", "m")
    events = sent(writer.begin(7))
    for each in pieces:
        events += sent(writer.push(each))
    return events + sent(writer.finish(USAGE, 2)), writer.message


def added_up_message(events: list[Json]) -> Json:
    """The message as Anthropic's clients make it of the events."""
    whole: Json = {}
    arguments: dict[int, str] = {}
    open_block: int | None = None
    for event in events:
        match event["type"]:
            case "message_start":
                whole = event["message"]
            case "content_block_start":
                assert open_block is None and event["index"] == len(whole["content"])
                open_block = event["index"]
                whole["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_block
                block, delta = whole["content"][open_block], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "input_json_delta":
                        arguments[open_block] = arguments.get(open_block, "") + delta["partial_json"]
            case "content_block_stop":
                assert event["index"] == open_block
                if open_block in arguments:
                    whole["content"][open_block]["input"] = json.loads(arguments[open_block])
                open_block = None
            case "message_delta":
                assert open_block is None
                whole |= event["delta"] | {"usage": event["usage"]}
    return whole


@pytest.mark.parametrize("seed", range(40))
def test_the_events_of_a_message_add_up_to_it(seed: int) -> None:
    rng = random.Random(seed)
    pieces = cut(rng, answers(rng))
    events, told = message(pieces)
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    assert added_up_message(events) == told
    assert message([merged(pieces)])[1] == told


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (piece([Text("a")], finish="stop"), "end_turn", None),
        (piece([Text("a")], finish="length"), "max_tokens", None),
        (piece([Text("a")], finish="stop", stop="END"), "stop_sequence", "END"),
        (piece([CallBegin(0, "c", "f"), CallArguments(0, "{}")], finish="stop"), "tool_use", None),
        (piece([CallBegin(0, "c", "f"), CallArguments(0, '{"a')], finish="length"), "max_tokens", None),
    ],
)
def test_a_message_says_why_it_ended(last: Piece, reason: str, sequence: str | None) -> None:
    _, told = message([last])
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)
    assert told["usage"]["input_tokens"] + told["usage"]["cache_read_input_tokens"] == 7
