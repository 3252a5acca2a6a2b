"""`Local`: a model in this process, through redline's public door. It is loaded with the first question.

redline is imported with it, so that importing this file costs nothing. Open `Local.answers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import msgspec

from saidata.errors import Misuse, SaidataError
from saidata.models.ask import Answer, Ask, Piece, Score

if TYPE_CHECKING:
    from redline import LLM

Progress = Callable[[str, float], None]

TOP = 8  # alternatives of each token that are read with scores


class Local:
    """A model that redline runs. `options` are redline's (`device`, `dtype`, `max_num_seqs` ...), by name."""

    def __init__(self, model: str, *, progress: Progress = lambda stage, percent: None, **options: Any):
        self.name = model
        self._options = options
        self._progress = progress
        self._loaded: LLM | None = None
        self._warmed = False

    @property
    def loaded(self) -> bool:
        """Whether anything was asked yet."""
        return self._loaded is not None

    @property
    def llm(self) -> LLM:
        """The loaded model. Raises SaidataError with redline's own sentence where it cannot be loaded."""
        if self._loaded is None:
            import redline

            try:
                self._loaded = redline.LLM(self.name, progress=self._progress, **self._options)
            except redline.errors.RedlineError as error:
                raise _told(error) from error
        return self._loaded

    def answers(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Answer]]:
        """The answers as they end. Asks are taken as there is room for them."""
        import redline

        taken: dict[int, tuple[Ask, float]] = {}

        def prompts() -> Iterator[Any]:
            for number, ask in enumerate(asks):
                prompt = self._prompt(ask)
                if number == 0:
                    self._warm(ask)
                taken[number] = (ask, time.monotonic())
                yield prompt, _sampling(ask), _grammar(ask)

        try:
            for number, completion in self.llm.complete(prompts()):
                ask, began = taken.pop(number)
                yield number, self._answer(ask, completion, time.monotonic() - began)
        except redline.errors.RedlineError as error:
            raise _told(error) from error

    def _warm(self, ask: Ask) -> None:
        """Compute what all prompts share, once, so that it is there when they come together."""
        if not self._warmed:
            self._warmed = True
            self.llm.generate([self._prompt(ask)], _sampling(msgspec.structs.replace(ask, max_tokens=1, scores=False)))

    def _answer(self, ask: Ask, completion: Any, seconds: float) -> Answer:
        choice, usage = completion.choices[0], completion.usage
        return Answer(
            text=choice.text,
            finish=choice.finish,
            tokens=usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            steps=_steps(completion.receipt),
            scores=self._scores(choice.logprobs) if ask.scores and choice.logprobs else (),
            seconds=seconds,
            receipt=completion.receipt,
        )

    def stream(self, ask: Ask) -> Generator[Piece, None, None]:
        """One answer as it is written."""
        import redline

        text, scores = "", list[Score]()
        try:
            prompt = self._prompt(ask)  # which loads the model
            began = time.monotonic()
            for delta in self.llm.stream(prompt, _sampling(ask), grammar=_grammar(ask)):
                text += delta.text
                if ask.scores and delta.logprobs:
                    scores += self._scores(delta.logprobs)
                answer = None
                if delta.finish is not None:
                    usage = delta.usage
                    answer = Answer(
                        text=text,
                        finish=delta.finish,
                        tokens=usage.completion_tokens if usage else 0,
                        prompt_tokens=usage.prompt_tokens if usage else 0,
                        cached_tokens=usage.cached_tokens if usage else 0,
                        steps=_steps(delta.receipt),
                        scores=tuple(scores),
                        seconds=time.monotonic() - began,
                        receipt=delta.receipt,
                    )
                yield Piece(text=delta.text, answer=answer)
        except redline.errors.RedlineError as error:
            raise _told(error) from error

    def close(self) -> None:
        """Free the machine."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded, self._warmed = None, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, ask: Ask) -> list[int] | str:
        """The conversation as the model's template writes it; plain text where the model has none."""
        if self.llm.checkpoint.chat_template is None:
            return "\n\n".join(message.content for message in ask.messages) + "\n\n"
        return self.llm.render([{"role": message.role, "content": message.content} for message in ask.messages])

    def _scores(self, scored: Iterable[Any]) -> tuple[Score, ...]:
        return tuple(
            Score(
                self._text(each.token),
                each.logprob,
                tuple((self._text(token), logprob) for token, logprob in each.top if token != each.token),
            )
            for each in scored
        )

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace") if token < self._tokenizer.vocab_size else ""

    @cached_property
    def _tokenizer(self) -> Any:
        if "tokenizer" in self._options:
            raise Misuse(
                "token scores are read with the model's own tokenizer, and another one was given",
                hint="leave the scores out, or the tokenizer",
            )
        return self.llm.checkpoint.tokenizer()


def _sampling(ask: Ask) -> Any:
    import redline

    return redline.SamplingParams(
        temperature=ask.temperature,
        top_p=ask.top_p,
        seed=ask.seed,
        max_tokens=ask.max_tokens,
        logprobs=TOP if ask.scores else None,
    )


def _grammar(ask: Ask) -> str | None:
    from redline import grammar

    if ask.lark is not None:
        return grammar.of_lark(ask.lark)
    if ask.schema is None:
        return None
    return grammar.of_yaml(ask.schema) if ask.form == "yaml" else grammar.of_json_schema(ask.schema)


def _steps(receipt: dict[str, Any] | None) -> int | None:
    """Decode steps, by the receipt; None without one."""
    try:
        return int(receipt["step"]["steps"]) if receipt else None
    except (KeyError, TypeError):
        return None


def _told(error: Any) -> SaidataError:
    """redline's error as ours: its sentence is for users already."""
    kind = Misuse if error.exit_code == 2 else SaidataError
    return kind(f"the model cannot answer: {error.message}", error.hint)
