"""`Remote`: a model behind an OpenAI-compatible address. Constrained JSON goes as `response_format`, which most servers know;
YAML and grammars as `structured_outputs`, which redline's server does.

Asks run side by side, a bounded number of them; what a busy server refuses is asked again a few times. Open `Remote.answers`.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

from saidata.errors import Misuse, SaidataError, Unreachable
from saidata.models.ask import Answer, Ask, Piece, Score

if TYPE_CHECKING:
    import httpx2

TOP = 8
TRIES = 5
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 20.0
_BUSY = {408, 429, 500, 502, 503, 504}


class Remote:
    """Model `model` of the server at `base_url` (such as http://127.0.0.1:8000/v1); `side_by_side` asks at a time."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        side_by_side: int = 32,
        timeout_s: float = 300.0,
        first_wait_s: float = FIRST_WAIT_S,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise Misuse(f"{base_url[:80]!r} is no address of a server", hint="write it like http://127.0.0.1:8000/v1")
        if side_by_side < 1:
            raise Misuse("at least one request must run at a time", hint="give 1 or more")
        self.name = model
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._side_by_side = side_by_side
        self._timeout_s = timeout_s
        self._first_wait_s = first_wait_s
        self._made: httpx2.Client | None = None
        self._making = threading.Lock()

    def answers(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Answer]]:
        """The answers as they end. Raises Unreachable where the server stays silent; what had ended was handed out before."""
        coming = enumerate(asks)
        running: dict[Future[Answer], int] = {}
        with ThreadPoolExecutor(self._side_by_side, thread_name_prefix="ask") as pool:
            try:
                while True:
                    while len(running) < self._side_by_side and (following := next(coming, None)) is not None:
                        number, ask = following
                        running[pool.submit(self._answer, ask)] = number
                    if not running:
                        return
                    for ended in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(ended)
                        yield number, ended.result()
            finally:
                for future in running:
                    future.cancel()

    def stream(self, ask: Ask) -> Generator[Piece, None, None]:
        """One answer as it is written; not asked again once it has begun."""
        import httpx2

        began = time.monotonic()
        body = self._body(ask) | {"stream": True, "stream_options": {"include_usage": True}}
        text, finish, usage, scores, heard = "", "", dict[str, Any](), list[Score](), False
        try:
            with self._client.stream("POST", "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                        continue
                    event, heard = json.loads(line[5:]), True
                    if "error" in event:
                        raise SaidataError(f"the server ended the answer: {_message(event)}")
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        part = (choice.get("delta") or {}).get("content") or ""
                        finish = choice.get("finish_reason") or finish
                        scores += _scores(choice)
                        text += part
                        if part:
                            yield Piece(text=part)
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            raise self._silent(error) from error
        except (AttributeError, TypeError) as error:
            raise self._no_completion() from error
        if not heard:
            raise self._no_completion()
        if not finish:
            raise Unreachable(f"the server at {self.base_url} ended its answer early", hint="ask again")
        yield Piece(text="", answer=_answer(text, finish, usage, tuple(scores), time.monotonic() - began))

    def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _client(self) -> httpx2.Client:
        import httpx2

        with self._making:  # several threads may be the first
            if self._made is None:
                headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
                limits = httpx2.Limits(max_connections=self._side_by_side + 1, max_keepalive_connections=self._side_by_side)
                self._made = httpx2.Client(
                    base_url=self.base_url, headers=headers, timeout=self._timeout_s, limits=limits, trust_env=False
                )
            return self._made

    def _answer(self, ask: Ask) -> Answer:
        import httpx2

        body = self._body(ask)
        failure: SaidataError | None = None
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(MAX_WAIT_S, self._first_wait_s * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2))
            began = time.monotonic()
            try:
                response = self._client.post("/chat/completions", json=body)
            except httpx2.ConnectError as error:
                failure = self._silent(error)
                if attempt >= 1:  # a server that is not there stays away: one more look is enough
                    break
                continue
            except httpx2.HTTPError as error:
                failure = self._silent(error)
                continue
            if response.status_code == 200:
                return self._read(response, time.monotonic() - began)
            failure = self._refused(response)
            if response.status_code not in _BUSY:
                break
        assert failure is not None
        raise failure

    def _read(self, response: httpx2.Response, seconds: float) -> Answer:
        try:
            told = response.json()
            choice = told["choices"][0]
            text = choice["message"].get("content") or ""
            return _answer(text, choice.get("finish_reason") or "stop", told.get("usage") or {}, tuple(_scores(choice)), seconds)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._no_completion() from error

    def _body(self, ask: Ask) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": message.role, "content": message.content} for message in ask.messages],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
        }
        if ask.scores:
            body |= {"logprobs": True, "top_logprobs": TOP}
        if ask.lark is not None:
            body["structured_outputs"] = {"grammar": ask.lark}
        elif ask.schema is not None and ask.form == "yaml":
            body["structured_outputs"] = {"yaml": ask.schema}
        elif ask.schema is not None:
            named = {"name": "saidata", "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def _refused(self, response: httpx2.Response) -> SaidataError:
        try:
            said = _message(response.json())
        except ValueError:
            said = response.text[:200]
        status = response.status_code
        sentence = f"the server at {self.base_url} refused with status {status}: {said}"
        if status in _BUSY:
            return Unreachable(sentence, hint="try again when it is less busy, or ask for fewer at a time")
        hints = {
            401: "give its key with --api-key",
            403: "the key may not use this model",
            404: f"does it have the model {self.name}?",
        }
        return Misuse(sentence, hint=hints.get(status, ""))

    def _silent(self, error: Exception) -> Unreachable:
        import httpx2

        why = (str(error) or type(error).__name__)[:200]
        if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError | json.JSONDecodeError):
            return Unreachable(
                f"the server at {self.base_url} broke off its answer: {why}", hint="look at its log, and ask again"
            )
        return Unreachable(
            f"the server at {self.base_url} does not answer: {why}", hint="is it running, and is the address right?"
        )

    def _no_completion(self) -> SaidataError:
        return SaidataError(
            f"the server at {self.base_url} answered with something that is no chat completion",
            hint="does the address end in /v1?",
        )


def _message(told: Any) -> str:
    error = told.get("error") if isinstance(told, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or told)[:300]


def _answer(text: str, finish: str, usage: dict[str, Any], scores: tuple[Score, ...], seconds: float) -> Answer:
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        text=text,
        finish=finish,
        tokens=usage.get("completion_tokens") or 0,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        scores=scores,
        seconds=seconds,
    )


def _scores(choice: dict[str, Any]) -> list[Score]:
    found = []
    for each in (choice.get("logprobs") or {}).get("content") or ():
        others = tuple((other["token"], other["logprob"]) for other in each.get("top_logprobs") or ())
        found.append(Score(each["token"], each["logprob"], tuple(pair for pair in others if pair[0] != each["token"])))
    return found
