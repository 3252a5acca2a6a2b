"""What every endpoint needs, in one record: the engine's client, the tokenizer, the template, the metrics, the names.

Built once by app.py and handed down; nothing in this room is global. Open `Service` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline.chat.dialect import Dialect
from redline.config import ServerConfig
from redline.engine.message import EngineInfo
from redline.engine.supervisor import Supervisor
from redline.errors import NotFound, UnsupportedField
from redline.server import jobs, keys, usage
from redline.server.accounts import Accounts, Metered
from redline.server.audit import AuditLog
from redline.server.database import Database
from redline.server.exchange import Exchange
from redline.server.grammars import Grammars
from redline.server.jobs import Jobs
from redline.server.keys import KeyRing
from redline.server.metrics import Metrics
from redline.server.receipt_store import Receipts
from redline.server.schema import quoted
from redline.server.usage import Ledger
from redline.types import Request

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Service:
    client: Supervisor
    tokenizer: Tokenizer
    template: ChatTemplate
    metrics: Metrics
    served_name: str
    config: ServerConfig = ServerConfig()
    traced: Callable[[Exchange], None] | None = None  # hears of every HTTP request that has ended
    state_dir: Path | None = None  # None: what is kept is kept in memory
    receipts: Receipts = field(default_factory=Receipts)
    started: int = field(default_factory=lambda: int(time.time()))
    _closing: list[Callable[[], None]] = field(default_factory=list, init=False, repr=False)

    @cached_property
    def dialect(self) -> Dialect:
        model = self.client.config.model
        return Dialect(self.template, self.tokenizer, tool_parser=model.tool_parser, reasoning_parser=model.reasoning_parser)

    @cached_property
    def keys(self) -> KeyRing:
        return KeyRing(self.database(keys.FILE, keys.MIGRATIONS))

    @cached_property
    def jobs(self) -> Jobs:
        kept = Jobs(self.database(jobs.FILE, jobs.MIGRATIONS), self.state_dir)
        self.at_close(kept.close)
        return kept

    @cached_property
    def grammars(self) -> Grammars:
        kept = Grammars(self._vocabulary, self.metrics.grammar_compiled)
        self.at_close(kept.close)
        return kept

    def _vocabulary(self) -> dict[str, Any]:
        """Of the model, for the processes that try grammars."""
        info, tokenizer = self.ready(), self.tokenizer
        ends = [*info.eos_ids, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,))]
        if not ends:
            raise UnsupportedField("structured output needs a model with an end token, and this one has none")
        special = {str(id_): tokenizer.piece(id_) for id_ in sorted(tokenizer.special_ids) if id_ < info.vocab_size}
        return {"size": info.vocab_size, "special": special, "eos": [id_ for id_ in ends if id_ < info.vocab_size]}

    @cached_property
    def accounts(self) -> Accounts:
        ledger = Ledger(self.database(usage.FILE, usage.MIGRATIONS), after_write=self.keys.follow)
        self.at_close(ledger.close)
        return Accounts(self.keys, ledger, self.served_name)

    @cached_property
    def audit(self) -> AuditLog | None:
        if self.config.audit_log is None:
            return None
        audit = AuditLog(self.config.audit_log)
        self.at_close(audit.close)
        self.metrics.watch("redline_audit_lines_lost", "Lines of the audit log that could not be written.", lambda: audit.lost)
        return audit

    def submit(self, *requests: Request) -> Metered:
        """Send the requests of one call to the engine, on the account of its tenant. Close the stream: that settles.

        Raises what the accounts refuse (RateLimited, OverLimit, Forbidden, RevokedKey, ExpiredKey) and what the client does.
        """
        bill = self.accounts.open(requests)
        try:
            return Metered(self.client.submit(*requests), bill)
        except BaseException:
            bill.drop()
            raise

    def database(self, name: str, migrations: Sequence[str]) -> Database:
        """The SQLite file `name` of the state folder, in memory where there is none; closed with the service."""
        database = Database(":memory:" if self.state_dir is None else self.state_dir / name, migrations)
        self.at_close(database.close)
        return database

    def at_close(self, work: Callable[[], None]) -> None:
        """Do `work`, which may wait for a disk, when the server ends; what was asked for last is done first."""
        self._closing.append(work)

    def close(self) -> None:
        """Write out and close what is kept. Safe to repeat."""
        while self._closing:
            self._closing.pop()()

    def ready(self) -> EngineInfo:
        """The engine's facts. Raises NotReady, Draining or EngineDead, with the time to wait, where none takes requests."""
        return self.client.ready()

    def check_model(self, name: str | None) -> None:
        """Raise NotFound unless `name` is a served model; a request without a name means the one there is."""
        if name is not None and name not in (self.served_name, self.ready().model):
            raise NotFound(f"there is no model {quoted(name)} here", hint=f"this server has {self.served_name!r}", param="model")
