"""Do addresses answer? `Addresses.fetch`, for the rules SD703 and SD704; `Addresses.digest` downloads for SD803.

Manners: HEAD first and GET only where that is refused, one request at a time and a pause for each host, a name that says who asks,
redirects followed by hand, answers kept for a week with their date. An address inside the machine's own network is not opened,
for a file from elsewhere may name any. What could not be reached was not checked; it is never taken for dead.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import msgspec

from saidata import __version__, places
from saidata.check.addresses import split, wrong_with
from saidata.check.rule import Fetched

KEPT_DAYS = 7
TIMEOUT_S = 10.0
PAUSE_S = 0.5  # between two requests to one host
HOSTS_AT_ONCE = 8
MOST_REDIRECTS = 5
MOST_READ = 65_536  # of a page that may say that it is not there
MOST_DOWNLOADED = 500_000_000

AGENT = f"saidata/{__version__} (link check)"

_MISSING = re.compile(
    rb"<title[^>]*>[^<]*(\b404\b|not found|page (does not|doesn't) exist|no longer (available|exists)|domain (is )?for sale|parked)",
    re.IGNORECASE,
)
_HEAD_REFUSED = {400, 403, 405, 406, 429, 500, 501, 503}


class Addresses:
    """Opens addresses, and remembers. `transport` and `public` are replaced in tests."""

    def __init__(
        self,
        kept: Path | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
        public: Callable[[str], str] | None = None,
        pause_s: float = PAUSE_S,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ):
        self.kept = kept
        self.public = public or reason_not_public
        self.pause_s = pause_s
        self.now = now
        self.client = httpx2.Client(transport=transport, timeout=TIMEOUT_S, headers={"User-Agent": AGENT}, follow_redirects=False)
        self.seen: dict[str, Fetched] = self._load()

    def fetch(self, addresses: Sequence[str]) -> Mapping[str, Fetched]:
        """What each address answers, from memory where it was asked within a week."""
        wanted: dict[str, list[str]] = {}
        for address in dict.fromkeys(addresses):
            if not self._fresh(address):
                parts = split(address)
                wanted.setdefault((parts.hostname or "") if parts else "", []).append(address)
        if wanted:
            with ThreadPoolExecutor(min(HOSTS_AT_ONCE, len(wanted))) as pool:
                for answers in pool.map(self._host, wanted.values()):
                    self.seen |= answers
            self._save()
        return {address: self.seen[address] for address in addresses}

    def digest(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """ "sha256:..." of each address's content, by the kind of checksum asked for. What cannot be downloaded is left out."""
        found = {}
        for address, kind in wanted.items():
            if kind in ("sha256", "sha512", "md5") and not wrong_with(address):
                with contextlib.suppress(httpx2.HTTPError, _NotOpened):
                    found[address] = f"{kind}:{self._downloaded(address, kind)}"
        return found

    def close(self) -> None:
        """End the connections."""
        self.client.close()

    def _host(self, addresses: Sequence[str]) -> dict[str, Fetched]:
        """Addresses of one host, one after the other."""
        answers = {}
        for place, address in enumerate(addresses):
            if place:
                time.sleep(self.pause_s)
            answers[address] = self._one(address)
        return answers

    def _one(self, address: str) -> Fetched:
        date = self.now().isoformat(timespec="seconds")
        if wrong := wrong_with(address):
            return Fetched(status=0, reason=wrong, date=date)
        try:
            status, final, missing = self._followed(address)
        except _NotOpened as error:
            return Fetched(status=0, reason=str(error), date=date)
        except httpx2.HTTPError as error:
            host = getattr(split(address), "hostname", "")
            return Fetched(status=0, reason=f"{host} could not be reached ({type(error).__name__})", date=date)
        return Fetched(status=status, final=final if final != address else "", date=date, missing=missing)

    def _followed(self, address: str) -> tuple[int, str, bool]:
        for _ in range(MOST_REDIRECTS + 1):
            self._open(address)
            answer = self.client.head(address)
            body = b""
            if answer.status_code in _HEAD_REFUSED or 200 <= answer.status_code < 300:
                answer, body = self._page(address)
            if not answer.is_redirect:
                return answer.status_code, address, bool(_MISSING.search(body)) and answer.is_success
            address = urljoin(address, answer.headers.get("location", ""))
        raise _NotOpened(f"it redirects more than {MOST_REDIRECTS} times")

    def _page(self, address: str) -> tuple[httpx2.Response, bytes]:
        """The first part of a page, to see whether it says that it is not there; of other content only the head."""
        with self.client.stream("GET", address) as answer:
            body = b""
            if "html" in answer.headers.get("content-type", ""):
                for piece in answer.iter_bytes(MOST_READ):
                    body += piece
                    if len(body) >= MOST_READ:
                        break
            return answer, body[:MOST_READ]

    def _downloaded(self, address: str, kind: str) -> str:
        found, size = hashlib.new(kind, usedforsecurity=False), 0
        for _ in range(MOST_REDIRECTS + 1):
            self._open(address)
            with self.client.stream("GET", address) as answer:
                if answer.is_redirect:
                    address = urljoin(address, answer.headers.get("location", ""))
                    continue
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    found.update(piece)
                    size += len(piece)
                    if size > MOST_DOWNLOADED:
                        raise _NotOpened(f"it is larger than {MOST_DOWNLOADED // 1_000_000} MB")
                return found.hexdigest()
        raise _NotOpened(f"it redirects more than {MOST_REDIRECTS} times")

    def _open(self, address: str) -> None:
        """Whether this address may be opened at all; asked again after each redirect."""
        parts = split(address)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise _NotOpened("it leads to something that is no web page")
        if reason := self.public(parts.hostname):
            raise _NotOpened(reason)

    def _fresh(self, address: str) -> bool:
        seen = self.seen.get(address)
        if seen is None or not seen.status:
            return False
        age = self.now() - datetime.datetime.fromisoformat(seen.date)
        return age < datetime.timedelta(days=KEPT_DAYS)

    def _load(self) -> dict[str, Fetched]:
        """What is remembered. A file that cannot be read is as good as none: all of it can be asked again."""
        if self.kept is None:
            return {}
        try:
            return msgspec.json.decode(self.kept.read_bytes(), type=dict[str, Fetched])
        except (OSError, msgspec.DecodeError):
            return {}

    def _save(self) -> None:
        if self.kept is None:
            return
        places.put(self.kept, msgspec.json.encode({address: seen for address, seen in self.seen.items() if seen.status}))


class _NotOpened(Exception):
    """An address that is not opened, and why."""


def reason_not_public(host: str) -> str:
    """Why a host is not asked: "" where all its addresses are public."""
    with _RESOLVING:
        try:
            found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
        except OSError:
            return f"{host} could not be found; without a network nothing is checked"
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            return f"{host} is an address inside a network, which is not opened"
    return ""


_RESOLVING = threading.Lock()  # some resolvers are not safe to ask from several threads
