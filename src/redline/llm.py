"""The offline door: a model in this process, without a server.

    with LLM("smollm2-135m") as llm:
        print(llm.generate("The capital of France is")[0].text)
        for delta in llm.stream([{"role": "user", "content": "Hello"}]):
            print(delta.text, end="")

It turns the same loop as the server's engine process, and reads answers through the same `Answer`; an answer that
is not streamed is the collected stream. Imports no web library. Open `LLM` first.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from redline import token_ids, vectors
from redline.chat.dialect import Dialect
from redline.chat.parser import CallArguments, CallBegin, Parser, PlainParser, Reasoning, Text
from redline.chat.template import ChatTemplate
from redline.chat.tools import Tool, ToolCall
from redline.checkpoint.opener import tokenizer_for
from redline.config import EngineConfig
from redline.engine.answer import Answer, Delta
from redline.engine.build import Progress, build, silent
from redline.engine.message import error_of
from redline.errors import InvalidRequest, UnsupportedField
from redline.types import Chunk, Finish, Pooling, Request, SamplingParams, TokenLogprob, Usage

if TYPE_CHECKING:
    from redline.checkpoint import Checkpoint
    from redline.engine.message import EngineInfo, Stats
    from redline.plan.receipt import Meter

Message = Mapping[str, Any]  # {"role": ..., "content": ...}
Prompt = str | Sequence[int]

Ask = tuple[Prompt, SamplingParams | None, str | None]
"""A prompt, how it is sampled, and the grammar of its answer."""

AHEAD = 2  # times what runs together is taken by `complete`, so that no place stands empty
COLLECTED_TOKENS = 64  # of an answer that is read whole, told together: few enough that little is left to read at the end
CHECK_EVERY_S = 5.0  # the law that pages are conserved, at most so often: who waits for a first token would wait for it too


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer. `tokens` includes the end token; `text` does not, nor a stop string.

    Of a chat, `text` is what is meant for the user; what the model thought before it and the functions it calls are apart.
    """

    index: int
    text: str
    tokens: list[int]
    finish: Finish
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The answers to one prompt. `text` and `tokens` are those of the first choice."""

    prompt_tokens: list[int]
    choices: list[Choice]
    usage: Usage
    prompt_logprobs: list[TokenLogprob | None] | None = None
    receipt: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def tokens(self) -> list[int]:
        return self.choices[0].tokens

    @property
    def reasoning(self) -> str:
        return self.choices[0].reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self.choices[0].tool_calls


class LLM:
    """A loaded model. Options are the fields of `redline.config`, by name; an unknown one is refused with the nearest.

    `progress` is called with a stage and the per cent of the start that is done. With `receipts` every answer carries one,
    and a machine that was never measured is measured first, which takes a second or two.
    Raises the errors of `redline.errors`: NotFound, CheckpointError, DoesNotFit, ConfigError, InvalidRequest ...
    """

    def __init__(self, model: str, *, receipts: bool = True, progress: Progress = silent, **options: Any):
        self._receipts = receipts
        config = EngineConfig.from_options(model=model, receipts=receipts, **options)
        if config.model.chat_template is not None:  # a mistake in it is told before anything is loaded
            ChatTemplate.of_model(None, {}, file=config.model.chat_template)
        self._engine = build(config, progress)
        if receipts and not self._engine.measured:
            progress("measuring this machine, once", 99)
            self._engine.measure()
        progress("reading the tokenizer", 99.5)
        self._tokenizer = tokenizer_for(self._engine.checkpoint, options.get("tokenizer"))
        self._ids = itertools.count()
        self._model = config.model
        self._most_waiting = config.scheduler.max_queued_requests
        # While something is answered the collector need not walk through torch and the model, which takes a tenth of a second in which the
        # device waits. Whoever has frozen what there is wants it to stay so.
        self._freezes = gc.get_freeze_count() == 0

    @property
    def info(self) -> EngineInfo:
        """What was resolved: type, device, context, pages, memory, predicted speed."""
        return self._engine.info

    @property
    def stats(self) -> Stats:
        """Counters since the start: steps, tokens, preemptions, prefix hits."""
        return self._engine.loop.stats

    @property
    def meter(self) -> Meter:
        """Its steps against the roofline, in all, by phase."""
        return self._engine.loop.meter

    @property
    def checkpoint(self) -> Checkpoint:
        return self._engine.checkpoint

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        grammar: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """Complete one prompt or several (text, or token ids), all together; results in the order of the prompts.

        Without `sampling` the model's own defaults hold, and an answer may be as long as the context allows. `grammar` is
        what every answer must match, or a list with one for each prompt, as `redline.grammar` makes it: of_json_schema,
        of_regex, of_choice ...
        """
        return self._collect(self._requests(_listed(prompts), sampling, grammar), continues=True)

    def complete(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Completion]]:
        """Complete prompts that come one by one, each with its own sampling and grammar: (its number, its completion) as they end.

        Prompts are taken as there is room for them, never all at once, so that making them may go on while others are answered.
        Leaving early cancels what is still open.
        """
        made = (self._requests([prompt], sampling, grammar) for prompt, sampling, grammar in asks)
        requests = itertools.chain.from_iterable(made)
        yield from self._completions(requests, continues=True, ahead=AHEAD * self.info.max_num_seqs)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        grammar: str | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        **template: Any,
    ) -> Completion:
        """Answer a conversation; what the model thought and which of `tools` it calls come apart from the text.

        `template` goes to the model's chat template (`enable_thinking=` ...); a `grammar` holds for all that the model writes.
        """
        offered = [Tool.of(tool) for tool in tools]
        prompt = self._dialect.prompt(messages, offered, **template)
        requests = self._requests([prompt.encode(salt="")], sampling, grammar)
        return self._collect(requests, continues=False, parser=self._dialect.parser(prompt.where, offered))[0]

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        grammar: str | None = None,
        **template: Any,
    ) -> Iterator[Delta]:
        """Deltas of one prompt, or of a conversation (a list of messages), as they come. Closing the iterator cancels."""
        messages = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
        rendered: Any = self.render(prompt, **template) if messages else prompt  # type: ignore[arg-type]
        for _, delta in self._run(self._requests([rendered], sampling, grammar), continues=not messages):
            yield delta

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, pooling: Pooling | None = None, normalize: bool = True
    ) -> NDArray[np.float32]:
        """A vector for each prompt, [number of prompts, hidden size]: the model's last hidden state, of length 1.

        `pooling` takes the last token's or the mean over the prompt; without it the model's own, else the last token's. A
        prompt may fill the whole context. Raises what `generate` raises.
        """
        chosen = pooling or self.info.pooling or "last"
        if chosen not in get_args(Pooling):
            raise UnsupportedField(f"pooling by {chosen} is not supported", hint="choose last or mean", param="pooling")
        requests = list(self._requests(_listed(prompts), SamplingParams(max_tokens=1)))
        if not requests:
            return np.empty((0, self.info.hidden_size), np.float32)
        pooled = [msgspec.structs.replace(request, pooling=chosen) for request in requests]
        found = {place: delta.embedding for place, delta in self._run(pooled, continues=False) if delta.embedding is not None}
        made = vectors.of_bytes([found[place] for place in range(len(pooled))])
        return vectors.normalized(made) if normalize else made

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Tool | Mapping[str, Any]] = (), **template: Any
    ) -> list[int]:
        """The tokens of a conversation, ready to be answered. Raises TemplateError."""
        return self._dialect.prompt(messages, [Tool.of(tool) for tool in tools], **template).encode(salt="")

    def prepare(self) -> None:
        """Capture now what is worth capturing: the decode steps of the common sizes, as CUDA graphs, in some seconds.

        Without it a size is captured when it has come up a few times. Call it while nothing is being answered. Nothing is
        captured on a CPU or under `enforce_eager`; what cannot be is logged and works as before.
        """
        while self._engine.prepare():
            pass

    def close(self) -> None:
        """Free the device. The object is of no use afterwards."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _requests(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None,
        grammar: str | Sequence[str | None] | None = None,
    ) -> Iterator[Request]:
        """Each is made when it is taken: the device need not wait for the last of them."""
        defaults: dict[str, Any] = self.info.defaults
        params = list(sampling) if isinstance(sampling, Sequence) else [sampling or SamplingParams(**defaults)] * len(prompts)
        if len(params) != len(prompts):
            raise InvalidRequest(f"{len(prompts)} prompts but {len(params)} sampling parameters", param="sampling")
        grammars = [grammar] * len(prompts) if grammar is None or isinstance(grammar, str) else list(grammar)
        if len(grammars) != len(prompts):
            raise InvalidRequest(f"{len(prompts)} prompts but {len(grammars)} grammars", param="grammar")
        encoded = iter(self._tokenizer.encode_all([prompt for prompt in prompts if isinstance(prompt, str)]))
        for prompt, wanted, held_to in zip(prompts, params, grammars, strict=True):
            wanted.check(self.info.vocab_size)
            tokens = next(encoded) if isinstance(prompt, str) else self._checked(prompt)
            yield Request(
                id=f"offline-{next(self._ids)}",
                prompt=tokens,
                sampling=wanted,
                arrival=time.monotonic(),
                want_receipt=self._receipts,
                grammar=held_to,
            )

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        """The prompt as a list. Raises InvalidRequest where a token is none of the model's."""
        vocab_size = self.info.vocab_size
        ids = token_ids.of_values(tokens)
        if len(tokens) and (ids is None or not token_ids.are_within(ids, vocab_size)):
            lowest, highest = min(tokens), max(tokens)
            token = lowest if lowest < 0 else highest
            raise InvalidRequest(f"token {token} of the prompt is not in the vocabulary of {vocab_size}", param="prompt")
        return ids or []

    def _run(
        self,
        requests: Iterable[Request],
        *,
        continues: bool,
        shown: frozenset[int] = frozenset(),
        gathered: bool = False,
        ahead: int | None = None,
    ) -> Iterator[tuple[int, Delta]]:
        """(position of the prompt, delta) until every choice has ended. Leaving early cancels what is still open.

        Requests are taken while fewer than `ahead` choices are open; without it, while as many may wait; and no more than a step has
        room for while the device waits for that step. `gathered`: nobody waits for single tokens, so deltas may come a little later.
        """
        loop = self._engine.loop
        most = self._most_waiting if ahead is None else ahead
        answers: dict[tuple[str, int], tuple[int, Answer]] = {}  # of choices that are submitted and have not ended
        unread: deque[Chunk] = deque()
        coming, more, waiting = enumerate(requests), True, 0  # tokens of prompts taken since the last step was started
        if self._freezes:
            gc.freeze()
        try:
            while True:
                while more and len(answers) < most and (waiting < loop.step_tokens or loop.device_works):
                    place, request = next(coming, (0, None))
                    if request is None:
                        more = False
                        break
                    loop.submit(request)
                    waiting += len(request.prompt)
                    for index in range(request.sampling.n):
                        answer = Answer(self._tokenizer, request, index, continues=continues, shown=shown)
                        answers[request.id, index] = place, answer
                if not answers:
                    return
                loop.step()
                waiting = 0
                unread.extend(loop.take())
                # Many long answers may end together: the device need not wait until all of them are read.
                while unread and not (gathered and len(unread) <= len(answers) and loop.device_waits):
                    chunk = unread.popleft()
                    if (found := answers.get((chunk.id, chunk.index))) is None:  # of a generator that was closed
                        continue
                    place, answer = found
                    delta = answer.push(chunk)
                    if answer.wants_cancel and delta.finish is None:
                        loop.cancel(chunk.id, chunk.index)
                    if delta.finish is not None:
                        del answers[chunk.id, chunk.index]
                    if delta.failure is not None:
                        raise error_of(delta.failure)
                    yield place, delta
        finally:
            if self._freezes:
                gc.unfreeze()
            for id, index in answers:
                loop.cancel(id, index)
            if not loop.has_work:
                loop.check(CHECK_EVERY_S)
                self._engine.keeper.idle()

    def _collect(
        self, requests: Iterable[Request], *, continues: bool, parser: Callable[[], Parser] = PlainParser
    ) -> list[Completion]:
        ended = dict(self._completions(requests, continues=continues, parser=parser))
        return [ended[place] for place in range(len(ended))]

    def _completions(
        self,
        requests: Iterable[Request],
        *,
        continues: bool,
        parser: Callable[[], Parser] = PlainParser,
        ahead: int | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """(its number, its completion) of each request as it ends, made while the device works at the others."""
        taken: dict[int, Request] = {}
        parts: dict[int, list[Delta]] = {}

        def noted() -> Iterator[Request]:
            for number, request in enumerate(requests):
                # Nobody reads these answers as they come, so the engine need not stop for each token of each.
                taken[number] = msgspec.structs.replace(request, tokens_per_chunk=COLLECTED_TOKENS)
                yield taken[number]

        markers = parser().markers
        shown = self._dialect.shown(markers) if markers else frozenset()
        for place, delta in self._run(noted(), continues=continues, shown=shown, gathered=True, ahead=ahead):
            parts.setdefault(place, []).append(delta)
            ended = sum(each.finish is not None for each in parts[place]) if delta.finish is not None else 0
            if ended == taken[place].sampling.n:
                yield place, _completion(taken.pop(place), parts.pop(place), parser)

    @cached_property
    def _dialect(self) -> Dialect:
        checkpoint, model = self._engine.checkpoint, self._model
        template = ChatTemplate.of_model(checkpoint.chat_template, checkpoint.template_tokens, file=model.chat_template)
        return Dialect(template, self._tokenizer, tool_parser=model.tool_parser, reasoning_parser=model.reasoning_parser)


def _completion(request: Request, deltas: Sequence[Delta], parser: Callable[[], Parser]) -> Completion:
    """The collected stream of one request."""
    choices, usages = [], []
    for index in range(request.sampling.n):
        own = [delta for delta in deltas if delta.index == index]
        last = own[-1]
        assert last.finish is not None and last.usage is not None, "a choice without an end"
        scored = [delta.logprobs for delta in own if delta.logprobs is not None]
        choices.append(
            Choice(
                index=index,
                **_read(parser(), own),
                tokens=[token for delta in own for token in delta.tokens],
                finish=last.finish,
                logprobs=[entry for part in scored for entry in part] if scored else None,
            )
        )
        usages.append(last.usage)
    return Completion(
        prompt_tokens=list(request.prompt),  # whose reader may do with it what they like
        choices=choices,
        usage=Usage(
            prompt_tokens=usages[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            cached_tokens=usages[0].cached_tokens,
        ),
        prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None),
        receipt=next((d.receipt for d in reversed(deltas) if d.receipt is not None), None),
    )


def _read(parser: Parser, deltas: Sequence[Delta]) -> dict[str, Any]:
    """The text of an answer, its reasoning and its calls."""
    text, reasoning, calls = "", "", list[ToolCall]()
    for event in [*(event for delta in deltas for event in parser.push(delta.text)), *parser.finish()]:
        match event:
            case Text(words):
                text += words
            case Reasoning(words):
                reasoning += words
            case CallBegin(_, id, name):
                calls.append(ToolCall(id=id, name=name, arguments=""))
            case CallArguments(number, words):
                calls[number] = replace(calls[number], arguments=calls[number].arguments + words)
    return {"text": text, "reasoning": reasoning, "tool_calls": calls}


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several as a list: a string is one prompt, and so is a flat list of token ids."""
    if isinstance(prompts, str):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
