"""POST /v1/completions: one prompt or several, as text or tokens, and the answer in the completions shape.

Knows nothing of how an answer is made or sent (generation.py, reply.py). Open `Completions.__call__` first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from starlette.types import Receive, Scope, Send

from redline.engine.answer import Delta
from redline.engine.message import EngineInfo
from redline.errors import InvalidRequest
from redline.server import logprobs
from redline.server.answers import Completion
from redline.server.caller import caller_of
from redline.server.chat import finish_of
from redline.server.completion_schema import CompletionBody
from redline.server.endpoint import Endpoint
from redline.server.generation import Piece
from redline.server.output_format import grammar_of, wanted_of
from redline.server.parameters import fit, parameters_of
from redline.server.prompt import INLINE_CHARS, Prompt, encoded, listed
from redline.server.reply import Call, Json, reply
from redline.server.schema import body_of
from redline.server.service import Service
from redline.tokenizer import Tokenizer
from redline.types import Request, TokenLogprob

MAX_CHOICES = 1024  # prompts times n


class Completions:
    """The endpoint, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, CompletionBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        asked = parameters_of(body, info)
        prompts = prompts_of(body)
        grammar = await grammar_of(service, wanted_of(body))
        if sum(len(prompt) for prompt in prompts) > INLINE_CHARS:
            tokens = await asyncio.to_thread(self._tokens, prompts, info, asked.cache_salt)
        else:
            tokens = self._tokens(prompts, info, asked.cache_salt)
        call = Call(
            prefix="cmpl",
            model=service.served_name,
            asked=asked,
            stream=bool(body.stream),
            arrival=arrival,
            continues=True,
            caller=caller_of(scope),
        )
        requests = [call.request(i, of, fit(of, asked, info, "prompt"), grammar=grammar) for i, of in enumerate(tokens)]
        style = CompletionStyle(
            service.tokenizer, requests, echo=prompts if body.echo else None, score_prompt=body.prompt_logprobs is not None
        )
        await reply(service, call, requests, style, receive, send)

    def _tokens(self, prompts: list[Prompt], info: EngineInfo, salt: str) -> list[list[int]]:
        return encoded(self._service.tokenizer, [("prompt", of) for of in prompts], info, salt=salt)


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path="/v1/completions",
            handler=Completions(service),
            scope="inference",
            summary="Continue a text.",
            body=CompletionBody,
            answer=Completion,
            event=Completion,
        )
    ]


def prompts_of(body: CompletionBody) -> list[Prompt]:
    """The prompts of a body, whichever of its four forms it takes. Raises InvalidRequest for a mixed list."""
    prompts = listed(body.prompt, "prompt")
    n = 1 if body.n is None else body.n
    if not 0 < len(prompts) * n <= MAX_CHOICES:
        raise InvalidRequest(f"1 to {MAX_CHOICES} answers can be asked for at a time, not {len(prompts) * n}", param="prompt")
    return prompts


class CompletionStyle:
    """Writes completion choices; keeps, per choice, how much text its log-probabilities have covered."""

    chunk_kind = "text_completion"
    document_kind = "text_completion"

    def __init__(self, tokenizer: Tokenizer, requests: list[Request], *, echo: list[Prompt] | None, score_prompt: bool) -> None:
        """`echo`: the prompts, where answers begin with them; `score_prompt`: tell the prompts' log-probabilities."""
        self._tokenizer = tokenizer
        self._requests = requests
        self._echo = echo
        self._score_prompt = score_prompt
        self._n = requests[0].sampling.n
        self._covered: dict[int, int] = {}

    def events(self, piece: Piece) -> Iterator[Json]:
        entry, delta = self.choice(piece), piece.delta
        if entry["text"] or delta.logprobs or delta.prompt_logprobs or delta.finish:
            yield entry

    def choice(self, piece: Piece) -> Json:
        choice, whole = piece.choice, piece.delta
        request = self._requests[choice // self._n]
        echoes = self._echo is not None and choice not in self._covered
        self._covered.setdefault(choice, 0)
        entry: Json = {
            "index": choice,
            "text": self._prompt_text(choice) + whole.text if echoes else whole.text,
            "logprobs": None,
        }
        if request.sampling.logprobs is not None:
            entry["logprobs"] = self._scores(choice, whole, request.prompt if echoes else [])
        if self._score_prompt and whole.prompt_logprobs is not None:
            entry["prompt_logprobs"] = logprobs.prompt_logprobs(whole.prompt_logprobs, self._tokenizer)
        return {**entry, **finish_of(whole, request.sampling.stop_token_ids)}

    def _scores(self, choice: int, delta: Delta, prompt: list[int]) -> Json:
        entries: list[TokenLogprob | None] = [*(delta.logprobs or ())]
        if prompt:
            entries = [*(delta.prompt_logprobs or ()), *entries]
        scores = logprobs.completion_logprobs(entries, [*prompt, *delta.tokens], self._covered[choice], self._tokenizer)
        self._covered[choice] += sum(len(text) for text in scores["tokens"])
        return scores

    def _prompt_text(self, choice: int) -> str:
        assert self._echo is not None
        prompt = self._echo[choice // self._n]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt, skip_special_tokens=False)
