"""Stand-ins small enough to read: a model whose next token is known, a device that remembers what it wrote, the loop.

`FakeDevice` runs planned steps as the real runner does (copies, uploads, KV writes, attention, sampling, in that order)
and asserts what the real one cannot: that every slot a sequence attends to holds exactly the KV of that sequence's own
history. A slot's content is `chain(previous content, token)`, beginning with the tenant's salt, so a page that is wrong,
stale, half copied or shared across tenants is found at the first read. Open `FakeLoop.step` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from redline.engine.request import Follow, Sampled, Sequence
from redline.engine.scheduler import Plan, Scheduler
from redline.types import Finish, Request

VOCABULARY = 50
EOS = 0


def chain(before: int, token: int) -> int:
    """Identity of a token with everything before it."""
    return hash((before, token))


def history_of(salt: str, tokens: list[int]) -> int:
    state = crc32(salt.encode())
    for token in tokens:
        state = chain(state, token)
    return state


def next_token(tokens: list[int], choice: int) -> int:
    """The fake model: a function of the whole history and of the choice, as sampling depends on seed and position."""
    return hash((history_of("", tokens), choice)) % VOCABULARY


def follow(tokens: list[int]) -> Follow:
    """The fake grammar: what must come after `tokens`, a function of the whole history. Stop ids may be among it."""
    state = chain(history_of("", tokens), 1 << 20)
    forced = [(state >> 8 * i) % VOCABULARY for i in range(1 + state % 4)] if state % 3 == 0 else []
    return Follow(forced, state % 41 == 0)


def expected_answer(request: Request, choice: int, limit: int) -> tuple[list[int], Finish]:
    """What a choice must answer, computed without any engine; `limit` is the longest prompt and answer together."""
    if request.pooling is not None:
        return [], "stop"
    if request.grammar is not None:
        return _constrained_answer(request, choice, limit)
    sampling = request.sampling
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS,))}
    tokens = list(request.prompt)
    while True:
        token = next_token(tokens, choice)
        tokens.append(token)
        answer = tokens[len(request.prompt) :]
        if token in stops and len(answer) > sampling.min_tokens:
            return answer, "stop"
        if len(tokens) == limit or len(answer) == sampling.max_tokens:
            return answer, "length"


def _constrained_answer(request: Request, choice: int, limit: int) -> tuple[list[int], Finish]:
    """Token by token: after each sampled one, and at the beginning, the grammar may dictate some, or the end."""
    sampling = request.sampling
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS,))}
    most = min(limit - len(request.prompt), sampling.max_tokens or limit)
    answer: list[int] = []
    told = follow(request.prompt)
    while True:
        for number, token in enumerate(told.forced):
            if len(answer) == most:
                return answer, "length"
            answer.append(token)
            if token in stops and len(answer) > sampling.min_tokens:
                return answer, "stop"
            assert number < 4
        if told.complete:
            return answer, "stop"
        if len(answer) == most:
            return answer, "length"
        answer.append(next_token(request.prompt + answer, choice))
        if answer[-1] in stops and len(answer) > sampling.min_tokens:
            return answer, "stop"
        told = follow(request.prompt + answer)


@dataclass
class _Row:
    """One line of the device tables: token table, page table, and the KV that its history should have."""

    tokens: list[int]
    salt: str
    contents: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    pooled: list[int] = field(default_factory=list)  # contents that went into a mean since one began

    def content(self, position: int) -> int:
        while len(self.contents) <= position:
            before = self.contents[-1] if self.contents else history_of(self.salt, [])
            self.contents.append(chain(before, self.tokens[len(self.contents)]))
        return self.contents[position]


class FakeDevice:
    """Executes plans in the order they are launched. `steps` counts them, `computed` their tokens."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self._page_size = page_size
        self._pages: list[list[int | None]] = [[None] * page_size for _ in range(num_pages)]
        self._rows: dict[int, _Row] = {}
        self.steps = 0
        self.computed = 0

    def launch(self, plan: Plan) -> list[int]:
        """The tokens that the plan's sampling entries produce."""
        assert plan.step == self.steps, "a plan was skipped or launched twice"
        self.steps += 1
        self.computed += plan.num_tokens
        self._check_form(plan)
        self._copy(plan)
        self._upload(plan)
        self._write(plan)
        self._pool(plan)
        return self._attend_and_sample(plan)

    def fail(self, plan: Plan) -> None:
        """Let `plan` be lost: nothing of it is written."""
        self.steps += 1

    def _check_form(self, plan: Plan) -> None:
        counts = [entry.count for entry in plan.entries]
        assert min(counts) >= 1 and sum(counts) == plan.num_tokens
        assert [c == 1 for c in counts] == sorted((c == 1 for c in counts), reverse=True), "a chunk before a single token"
        assert len({entry.sequence for entry in plan.entries}) == len({entry.row for entry in plan.entries}) == len(counts)
        for entry in plan.entries:
            assert entry.start + entry.count < entry.sequence.limit, "a token is computed past the end by length"

    def _copy(self, plan: Plan) -> None:
        sources, targets = {s for s, _ in plan.copies}, [t for _, t in plan.copies]
        assert len(set(targets)) == len(targets) and not sources & set(targets), "copies depend on their order"
        for source, target in plan.copies:
            self._pages[target] = list(self._pages[source])

    def _upload(self, plan: Plan) -> None:
        for entry in plan.entries:
            if entry.fresh:
                self._rows[entry.row] = _Row(list(entry.sequence.tokens), entry.sequence.request.cache_salt)
            row = self._rows[entry.row]
            if entry.upload_from is not None:
                row.tokens[entry.upload_from :] = entry.sequence.tokens[entry.upload_from :]
                del row.contents[entry.upload_from :]
            row.pages[entry.first_new :] = entry.pages[entry.first_new :]
            assert row.pages == entry.pages, "the row's page table is stale"

    def _write(self, plan: Plan) -> None:
        written: set[tuple[int, int]] = set()
        for entry in plan.entries:
            row = self._rows[entry.row]
            assert entry.start + entry.count <= len(row.tokens), "a token is computed before it exists"
            for position in range(entry.start, entry.start + entry.count):
                page, offset = entry.pages[position // self._page_size], position % self._page_size
                assert (page, offset) not in written, "two sequences write to one slot"
                written.add((page, offset))
                self._pages[page][offset] = row.content(position)

    def _pool(self, plan: Plan) -> None:
        for entry in plan.entries:
            if entry.sequence.request.pooling == "mean":
                row = self._rows[entry.row]
                if entry.start == 0:
                    row.pooled = []
                row.pooled += [row.content(position) for position in range(entry.start, entry.start + entry.count)]
                assert not entry.pools or row.pooled == row.contents, "a mean is not that of the whole prompt"

    def _attend_and_sample(self, plan: Plan) -> list[int]:
        sampled: list[int] = []
        for entry in plan.entries:
            row, end = self._rows[entry.row], entry.start + entry.count
            row.content(end - 1)
            seen = [content for page in entry.pages for content in self._pages[page]]
            assert seen[:end] == row.contents[:end], f"{entry.sequence} reads KV that is not its own"
            if entry.samples:
                assert end == len(row.tokens)
                sampled.append(next_token(row.tokens, entry.sequence.index))
                row.tokens.append(sampled[-1])
        return sampled


class FakeLoop:
    """The engine's loop on a fake device: launch step n, apply step n-1, plan step n+1. Collects every choice's answer.

    `lag` 0 applies at once. Two hooks sit between planning and launching: `meanwhile` may cancel, as messages do that arrive
    there, and a plan for which `fails` is true is lost.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        device: FakeDevice,
        *,
        lag: int = 1,
        meanwhile: Callable[[], None] = lambda: None,
        fails: Callable[[Plan], bool] = lambda plan: False,
    ):
        self.scheduler = scheduler
        self.device = device
        self.now = 0.0
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], Finish] = {}
        self.forced = 0  # tokens that a grammar dictated
        self._lag = lag
        self._meanwhile = meanwhile
        self._fails = fails
        self._held: dict[str, tuple[float, Request]] = {}  # requests whose grammar is compiled at a time to come
        self._launched: deque[tuple[Plan, list[int]]] = deque()

    @property
    def idle(self) -> bool:
        return not self.scheduler.has_work and not self._launched

    def step(self) -> Plan | None:
        self.now += 1.0
        for ended in self.scheduler.expire(self.now):
            self._end(ended.sequence, ended.finish)
        for request_id in [request_id for request_id, (due, _) in self._held.items() if due <= self.now]:
            _, request = self._held.pop(request_id)
            for known in self.scheduler.release(request_id, follow(request.prompt)):
                self._tell(known)
        plan = self.scheduler.plan()
        self._meanwhile()
        if plan is not None and self._fails(plan):
            self.device.fail(plan)
            self._abandon(plan)
        elif plan is not None:
            self._launched.append((plan, self.device.launch(plan)))
        waits = plan is not None or self._launched or self._held
        assert waits or not self.scheduler.has_work, "the scheduler is stuck"
        while len(self._launched) > (self._lag if plan is not None else 0):
            self._apply(*self._launched.popleft())
        return plan

    def hold(self, request: Request, steps: int) -> None:
        """The grammar of `request`, which was added, is compiled so many steps later."""
        self._held[request.id] = self.now + steps, request

    def run(self, most_steps: int = 100_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(most_steps):
            if self.idle:
                return
            self.step()
        raise AssertionError(f"not idle after {most_steps} steps")

    def cancel(self, request_id: str, finish: Finish = "abort", index: int | None = None) -> None:
        for ended in self.scheduler.cancel(request_id, finish, index):
            self._end(ended.sequence, ended.finish)

    def _apply(self, plan: Plan, tokens: list[int]) -> None:
        for pooled in self.scheduler.apply_pooled(plan):
            assert plan.entries[pooled.entry].sequence is pooled.sequence
            self._end(pooled.sequence, "stop")
        for known in self.scheduler.apply(plan, tokens, lambda sequence, token: follow(sequence.tokens)):
            assert known.sample is not None and tokens[known.sample] in known.tokens
            self._tell(known)

    def _tell(self, known: Sampled) -> None:
        key = known.sequence.request.id, known.sequence.index
        assert key not in self.ends, f"{key} goes on after its end"
        assert known.first == (key not in self.answers)
        self.forced += len(known.tokens) - (known.sample is not None)
        self.answers.setdefault(key, []).extend(known.tokens)
        if known.finish is not None:
            self._end(known.sequence, known.finish)

    def _abandon(self, plan: Plan) -> None:
        for ended in self.scheduler.abandon(plan):
            self._end(ended.sequence, ended.finish)

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        key = sequence.request.id, sequence.index
        assert key not in self.ends, f"{key} ended twice"
        assert sequence.finish == finish
        self.ends[key] = finish
