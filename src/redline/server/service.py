"""What every endpoint needs, in one record: the engine's client, the tokenizer, the template, the metrics, the names.

Built once by app.py and handed down; nothing in this room is global. Open `Service` first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redline.engine.client import EngineClient
from redline.engine.message import EngineInfo, error_of
from redline.errors import NotFound, NotReady
from redline.server.metrics import Metrics
from redline.server.schema import quoted

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Service:
    client: EngineClient
    tokenizer: Tokenizer
    template: ChatTemplate
    metrics: Metrics
    served_name: str
    started: int = field(default_factory=lambda: int(time.time()))

    def ready(self) -> EngineInfo:
        """The engine's facts. Raises NotReady while it loads, its own failure once it is dead."""
        client = self.client
        if client.alive and client.info is not None:
            return client.info
        if client.failure is not None:
            raise error_of(client.failure)
        progress = client.progress
        raise NotReady(f"the model is not ready: {progress.stage}, {progress.percent:.0f} %", hint="retry in a few seconds")

    def check_model(self, name: str | None) -> None:
        """Raise NotFound unless `name` is a served model; a request without a name means the one there is."""
        if name is not None and name not in (self.served_name, self.ready().model):
            raise NotFound(f"there is no model {quoted(name)} here", hint=f"this server has {self.served_name!r}", param="model")
