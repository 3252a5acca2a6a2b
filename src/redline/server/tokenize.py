"""POST /tokenize and /detokenize (and both under /v1): what a text or a conversation is in tokens, and back.

The engine is not asked. A conversation goes the way that chat completions go, so its count is the one that counts.
Open `Tokenize.tokenize`.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.engine.message import EngineInfo
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_input import conversation_of
from redline.server.chat_schema import ChatBody
from redline.server.conversation import tokens_of
from redline.server.endpoint import Endpoint
from redline.server.prompt import INLINE_CHARS, encode
from redline.server.schema import body_of, decode
from redline.server.service import Service
from redline.server.tokenize_schema import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody

_OF_CHAT = ("messages", "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools")


class Tokenize:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        body = await body_of(request.receive, TokenizeBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        tokens = await self._tokens(body, info)
        strs = [service.tokenizer.piece(token) for token in tokens] if body.return_token_strs else None
        return _json(TokenizeAnswer(count=len(tokens), max_model_len=info.max_model_len, tokens=tokens, token_strs=strs))

    async def detokenize(self, request: Request) -> Response:
        body = await body_of(request.receive, DetokenizeBody)
        service = self._service
        info = service.ready()
        service.check_model(body.model)
        if body.tokens and not 0 <= min(body.tokens) <= max(body.tokens) < info.vocab_size:
            raise InvalidRequest(f"tokens has one outside the vocabulary of {info.vocab_size}", param="tokens")
        text = await asyncio.to_thread(service.tokenizer.decode, body.tokens, skip_special_tokens=False)
        return _json(DetokenizeAnswer(prompt=text))

    async def _tokens(self, body: TokenizeBody, info: EngineInfo) -> list[int]:
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequest("exactly one of prompt and messages is needed", param="prompt")
        if body.prompt is not None:
            return await self._of_prompt(body, body.prompt, info)
        if body.add_special_tokens:
            raise UnsupportedField(
                "add_special_tokens is not supported with messages: the template writes its own",
                hint="leave it out",
                param="add_special_tokens",
            )
        given = {name: value for name in _OF_CHAT if (value := getattr(body, name)) is not None}
        chat = decode(msgspec.json.encode(given), ChatBody)
        return await tokens_of(self._service, conversation_of(chat))

    async def _of_prompt(self, body: TokenizeBody, prompt: str, info: EngineInfo) -> list[int]:
        for name in _OF_CHAT[1:]:
            if getattr(body, name) is not None:
                raise InvalidRequest(f"{name} needs messages", param=name)

        def tokens() -> list[int]:
            special = body.add_special_tokens is not False
            return encode(self._service.tokenizer, prompt, info, "prompt", add_special_tokens=special)

        return await asyncio.to_thread(tokens) if len(prompt) > INLINE_CHARS else tokens()


def endpoints(service: Service) -> list[Endpoint]:
    both = Tokenize(service)
    return [
        endpoint
        for prefix in ("/v1", "")
        for endpoint in (
            Endpoint(
                method="POST",
                path=f"{prefix}/tokenize",
                handler=both.tokenize,
                scope="inference",
                summary="The tokens of a text or a conversation.",
                body=TokenizeBody,
                answer=TokenizeAnswer,
            ),
            Endpoint(
                method="POST",
                path=f"{prefix}/detokenize",
                handler=both.detokenize,
                scope="inference",
                summary="The text of tokens.",
                body=DetokenizeBody,
                answer=DetokenizeAnswer,
            ),
        )
    ]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
