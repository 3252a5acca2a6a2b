"""API keys: how one is written, what it allows, and the file that keeps them as hashes.

A key reads `rl-ID-SECRET`, the last six characters a checksum, so that a mistyped one is told without a look at the file.
ID is public: it names the key in usage, logs and commands. Only the SHA-256 of the whole key is kept; 256 random bits need
no slower hash. Rows are never deleted, so a server whose keys are all revoked stays closed. The functions that take a
connection are work for `Database.run` and `Database.do`. Knows nothing of HTTP; budgets.py counts what keys use. Open
`Settings`, then `KeyRing`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from redline import log
from redline.errors import ExpiredKey, InvalidKey, InvalidRequest, MalformedKey, NotFound, RevokedKey
from redline.server.caller import Caller
from redline.server.database import Database
from redline.server.endpoint import SCOPES, Scope
from redline.server.schema import Record, quoted

T = TypeVar("T")

FILE = "keys.sqlite"
MIGRATIONS = (
    """CREATE TABLE keys (
        id TEXT PRIMARY KEY, hash BLOB NOT NULL, created INTEGER NOT NULL, revoked INTEGER, settings TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
)

PREFIX = "rl-"
KEY_SCOPES: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope != "open")
DEFAULT_SCOPES: tuple[Scope, ...] = ("inference", "files", "read")
TTL_S = 1.0  # how long a change by another process may go unnoticed

MAX_NAME = 100
MAX_MODELS = 100
MAX_LIMIT = 10**15
MAX_PRIORITY = 1 << 20
MAX_WEIGHT = 1000.0
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS, _SECRET_CHARS, _CHECK_CHARS = 8, 43, 6
_TOKEN = re.compile(rb"rl-([0-9A-Za-z]{%d})-[0-9A-Za-z]{%d}" % (_ID_CHARS, _SECRET_CHARS + _CHECK_CHARS))
_UNKNOWN = -1  # a version that no file has
_NO_HASH = bytes(hashlib.sha256().digest_size)


class Settings(Record, frozen=True, kw_only=True):
    """What a key allows, as its maker chose it. None is no limit."""

    name: str
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] | None = None  # None: every model that is served
    expires: int | None = None  # Unix time
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None  # API calls at the engine together
    priority: int = 0  # lower runs first; a request may only step back behind it
    weight: float = 1.0  # of the key's share of a full queue

    def check(self) -> None:
        """Raise InvalidRequest naming the first field that makes no sense."""
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise InvalidRequest(f"name must be 1 to {MAX_NAME} printable characters", param="name")
        if not self.scopes or not set(self.scopes) <= set(KEY_SCOPES):
            raise InvalidRequest(f"scopes must be some of {', '.join(KEY_SCOPES)}", param="scopes")
        if self.models is not None and (not 0 < len(self.models) <= MAX_MODELS or not all(self.models)):
            raise InvalidRequest(f"models must be 1 to {MAX_MODELS} names", hint="leave it out for every model", param="models")
        for field in ("expires", "requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrency"):
            value = getattr(self, field)
            if value is not None and not 0 < value <= MAX_LIMIT:
                raise InvalidRequest(f"{field} must be between 1 and {MAX_LIMIT}", hint="leave it out for none", param=field)
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidRequest(f"priority must be between {-MAX_PRIORITY} and {MAX_PRIORITY}", param="priority")
        if not (math.isfinite(self.weight) and 1 / MAX_WEIGHT <= self.weight <= MAX_WEIGHT):
            raise InvalidRequest(f"weight must be between {1 / MAX_WEIGHT:g} and {MAX_WEIGHT:g}", param="weight")


class Changes(Record, frozen=True, kw_only=True):
    """Fields of `Settings` to change; null takes a limit away."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    scopes: tuple[Scope, ...] | msgspec.UnsetType = msgspec.UNSET
    models: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET
    expires: int | msgspec.UnsetType | None = msgspec.UNSET
    requests_per_minute: int | msgspec.UnsetType | None = msgspec.UNSET
    tokens_per_minute: int | msgspec.UnsetType | None = msgspec.UNSET
    tokens_per_day: int | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET
    priority: int | msgspec.UnsetType = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET

    def of(self, settings: Settings) -> Settings:
        """`settings` with the changes, checked. Raises InvalidRequest."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not msgspec.UNSET}
        changed = msgspec.structs.replace(settings, **given)
        changed.check()
        return changed


@dataclass(frozen=True, kw_only=True)
class Key:
    """One row. `digest` is the hash of the whole token."""

    id: str
    digest: bytes
    created: int
    revoked: int | None
    settings: Settings

    @cached_property
    def caller(self) -> Caller:
        settings = self.settings
        return Caller(
            id=self.id,
            name=settings.name,
            scopes=frozenset(settings.scopes),
            models=None if settings.models is None else frozenset(settings.models),
            priority=settings.priority,
            weight=settings.weight,
        )

    def check(self) -> None:
        """Raise RevokedKey or ExpiredKey where the key is over: only for who has shown the whole key, or works for it."""
        if self.revoked is not None:
            raise RevokedKey("this API key was revoked", hint="ask for a new one")
        if self.settings.expires is not None and time.time() >= self.settings.expires:
            raise ExpiredKey("this API key has expired", hint="ask for a new one")

    def document(self) -> dict[str, Any]:
        """The key as lists tell it; nothing in it opens anything."""
        settings = msgspec.to_builtins(self.settings)
        return {"object": "key", "id": self.id, "created": self.created, "revoked": self.revoked, **settings}


def new_token(key_id: str) -> str:
    """A fresh token of that id."""
    body = f"{PREFIX}{key_id}-{_written(secrets.randbits(256), _SECRET_CHARS)}"
    return body + _checksum(body)


def id_of(token: bytes) -> str | None:
    """The id in a token, or None where it is not one or its checksum is wrong."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    text = token.decode()
    return match[1].decode() if _checksum(text[:-_CHECK_CHARS]) == text[-_CHECK_CHARS:] else None


def add(connection: sqlite3.Connection, settings: Settings) -> tuple[Key, str]:
    """Make a key; its token is never seen again. Raises InvalidRequest."""
    settings.check()
    if settings.expires is not None and settings.expires <= time.time():
        raise InvalidRequest("expires lies in the past", param="expires")
    token = new_token("".join(secrets.choice(_DIGITS) for _ in range(_ID_CHARS)))
    key_id = id_of(token.encode())
    assert key_id is not None
    row = (key_id, hashlib.sha256(token.encode()).digest(), int(time.time()), msgspec.json.encode(settings).decode())
    connection.execute("INSERT INTO keys (id, hash, created, settings) VALUES (?, ?, ?, ?)", row)
    return one(connection, key_id), token


def every(connection: sqlite3.Connection) -> list[Key]:
    """All keys, the revoked ones too, in the order they were made."""
    return [_key(row) for row in connection.execute("SELECT * FROM keys ORDER BY created, id")]


def one(connection: sqlite3.Connection, key_id: str) -> Key:
    """The key of that id. Raises NotFound."""
    row = connection.execute("SELECT * FROM keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no key {quoted(key_id)}", hint="redline keys list shows the ids")
    return _key(row)


def revoke(connection: sqlite3.Connection, key_id: str) -> Key:
    """Take a key back, for good. Safe to repeat. Raises NotFound."""
    one(connection, key_id)
    connection.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (int(time.time()), key_id))
    return one(connection, key_id)


def update(connection: sqlite3.Connection, key_id: str, changes: Changes) -> Key:
    """Change a key. Raises NotFound, InvalidRequest."""
    settings = changes.of(one(connection, key_id).settings)
    connection.execute("UPDATE keys SET settings = ? WHERE id = ?", (msgspec.json.encode(settings).decode(), key_id))
    return one(connection, key_id)


def state_of(key: Key) -> str:
    """Revoked, expired, active, or until which day."""
    expires = key.settings.expires
    if key.revoked is not None:
        return "revoked"
    if expires is None:
        return "active"
    return "expired" if expires <= time.time() else f"until {time.strftime('%Y-%m-%d', time.gmtime(expires))}"


def any_in(state_dir: str | Path) -> bool:
    """Whether a server with this state folder demands keys."""
    path = Path(state_dir) / FILE
    if not path.exists():
        return False
    database = Database(path, MIGRATIONS)
    try:
        return bool(database.run(every))
    finally:
        database.close()


class KeyRing:
    """The keys in memory: what a request costs is a hash and a look-up. Follows the file at most `TTL_S` behind."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version, self._keys = database.run(_all)
        self._checked = time.monotonic()
        self._checking: asyncio.Task[bool] | None = None
        self._changes = 0

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key_id: str) -> Key | None:
        return self._keys.get(key_id)

    def find(self, token: bytes) -> Key:
        """The key that `token` is. Takes as long for one that does not exist. Raises InvalidKey or a kind of it."""
        key_id = id_of(token)
        if key_id is None:
            raise MalformedKey("this is not an API key of redline", hint="it begins with rl-; was it copied whole?")
        key = self._keys.get(key_id)
        expected = _NO_HASH if key is None else key.digest
        if not hmac.compare_digest(hashlib.sha256(token).digest(), expected) or key is None:
            raise InvalidKey("this API key is not known here", hint="ask for a new one")
        key.check()
        return key

    async def follow(self) -> None:
        """Look whether another process changed the file, where the last look is `TTL_S` old."""
        believed = time.monotonic() - self._checked <= TTL_S
        while not believed:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.ensure_future(self._check())
            believed = await asyncio.shield(self._checking)

    async def make(self, settings: Settings) -> tuple[Key, str]:
        """A new key and its token. Raises InvalidRequest."""
        return await self._change(lambda connection: add(connection, settings))

    async def revoke(self, key_id: str) -> Key:
        """Take a key back. Raises NotFound."""
        return await self._change(lambda connection: revoke(connection, key_id))

    async def update(self, key_id: str, changes: Changes) -> Key:
        """Change a key. Raises NotFound, InvalidRequest."""
        return await self._change(lambda connection: update(connection, key_id, changes))

    async def every(self) -> list[Key]:
        return await self._database.read(every)

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Write, and read everything again. A look that began before is not believed; whoever asked may be gone by then."""
        self._changes += 1
        self._version, self._checked = _UNKNOWN, -math.inf
        result = await self._database.do(work)
        await self.follow()
        return result

    async def _check(self) -> bool:
        """Whether the look counts; one that a change of our own overtook does not."""
        known, changes = self._version, self._changes

        def look(connection: sqlite3.Connection) -> tuple[int, dict[str, Key]] | None:
            return None if _version(connection) == known else _all(connection)

        try:
            found = await self._database.read(look)
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            # The keys that are known go on working: a full disk must not take the service down with it.
            log.get("keys").error("the keys cannot be read again: %s", error)
            found = None
        if changes != self._changes:
            return False
        if found is not None:
            self._version, self._keys = found
        self._checked = time.monotonic()
        return True


def _all(connection: sqlite3.Connection) -> tuple[int, dict[str, Key]]:
    return _version(connection), {key.id: key for key in every(connection)}


def _version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection writes."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _key(row: sqlite3.Row) -> Key:
    settings = msgspec.json.decode(row["settings"], type=Settings)
    return Key(id=row["id"], digest=row["hash"], created=row["created"], revoked=row["revoked"], settings=settings)


def _checksum(text: str) -> str:
    return _written(zlib.crc32(text.encode()), _CHECK_CHARS)


def _written(number: int, chars: int) -> str:
    """`number` in base 62, padded to `chars` digits."""
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    assert number == 0
    return "".join(reversed(digits))
