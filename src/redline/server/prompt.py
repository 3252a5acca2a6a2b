"""A text as the tokens of a prompt: refused before it is read whole where its length alone proves that it cannot fit.

Knows the tokenizer and the context, nothing of messages or HTTP. `answer` is the least number of tokens that the context must
have room for behind the prompt. Open `encoded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redline import token_ids
from redline.engine.message import EngineInfo
from redline.errors import ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer

INLINE_CHARS = 20_000  # what is longer is encoded in a thread, beside the event loop

Prompt = str | list[int]


def listed(given: str | list[str | int | list[int]], param: str) -> list[Prompt]:
    """One prompt or several, as text or as tokens, as a list of them. Raises InvalidRequest where kinds are mixed."""
    if isinstance(given, str):
        return [given]
    if (ids := token_ids.of_values(given)) is not None:  # quicker than to look at the kind of each
        return [ids]
    kinds = set(map(type, given))
    if len(kinds) > 1:
        raise InvalidRequest(f"{param} mixes texts, tokens and lists of tokens", hint="send one kind", param=param)
    return [given] if kinds == {int} else given  # type: ignore[list-item,return-value]


def check(tokens: list[int], info: EngineInfo, param: str, *, answer: int = 1) -> None:
    """Raise InvalidRequest for an empty prompt or a token that does not exist, ContextTooLong with the numbers."""
    if not tokens:
        raise InvalidRequest(f"{param} is empty", param=param)
    if not token_ids.are_within(tokens, info.vocab_size):
        raise InvalidRequest(f"{param} has a token outside the vocabulary of {info.vocab_size}", param=param)
    over = len(tokens) + answer - info.max_model_len
    if over > 0:
        raise ContextTooLong(
            f"the prompt has {len(tokens)} tokens, and {_whole(answer)} may have {info.max_model_len}",
            hint=f"shorten it by at least {over} tokens",
            param=param,
        )


def encode(
    tokenizer: Tokenizer, text: str, info: EngineInfo, param: str, *, add_special_tokens: bool = True, answer: int = 1
) -> list[int]:
    """The tokens of `text`. Raises what `encoded` raises."""
    return encoded(tokenizer, [(param, text)], info, add_special_tokens=add_special_tokens, answer=answer)[0]


def encoded(
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, Prompt]],
    info: EngineInfo,
    *,
    add_special_tokens: bool = True,
    answer: int = 1,
    salt: str | None = None,
) -> list[list[int]]:
    """The tokens of prompts, each with the name of its field; those that are tokens already are not looked at.

    With a `salt` parts of long texts are kept (`Tokenizer.encode`). Raises ContextTooLong for a text that certainly exceeds the
    context, InvalidRequest for one that is no Unicode.
    """
    texts = [(param, prompt) for param, prompt in prompts if isinstance(prompt, str)]
    for param, text in texts:
        check_length(tokenizer, text, info, param, answer=answer)
    tokens = iter(tokenizer.encode_all([text for _, text in texts], add_special_tokens, salt=salt))
    return [token_ids.TokenIds(next(tokens)) if isinstance(prompt, str) else prompt for _, prompt in prompts]


def check_length(tokenizer: Tokenizer, text: str, info: EngineInfo, param: str, *, answer: int = 1) -> None:
    """Raise ContextTooLong for a text that certainly exceeds the context."""
    if len(text) > info.max_model_len:
        least = tokenizer.least_tokens(text)
        if least + answer > info.max_model_len:
            raise ContextTooLong(
                f"the prompt has {len(text)} characters, which are at least {least} tokens, and {_whole(answer)} "
                f"may have {info.max_model_len}",
                hint="shorten it",
                param=param,
            )


def _whole(answer: int) -> str:
    return "prompt and answer together" if answer else "it"
