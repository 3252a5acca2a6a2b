"""Web addresses as text: `wrong_with` and `alike`. Nothing is opened here; liveness.py does that."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("https", "http")
PLACEHOLDERS = ("version", "platform", "architecture")

_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")


def wrong_with(address: str) -> str:
    """Why this is no address of a page or a file; "" if it is one. {{version}}, {{platform}} and {{architecture}} may stand in it."""
    for name in _PLACEHOLDER.findall(address):
        if name not in PLACEHOLDERS:
            return f"{{{{{name}}}}} is no placeholder; {', '.join(PLACEHOLDERS)} are"
    bare = _PLACEHOLDER.sub("1", address)
    if any(letter.isspace() or not letter.isprintable() for letter in bare):
        return "it holds a space or a character that cannot be seen"
    if "{{" in bare or "}}" in bare:
        return "its braces do not match"
    parts = split(bare)
    if parts is None or not parts.scheme:
        return "it is no address: it begins with https://"
    if parts.scheme not in SCHEMES:
        return f"{parts.scheme}: is not opened; use https://"
    if not parts.hostname or not _is_host(parts.hostname):
        return "it names no host"
    return "it holds a password or a user name" if parts.username or parts.password else ""


def alike(one: str, other: str) -> bool:
    """Whether two addresses are the same page to a reader: http or https, with or without www and the last slash."""
    return _reduced(one) == _reduced(other)


def host(address: str) -> str:
    """The host without www; "" where there is none."""
    parts = split(address)
    return (parts.hostname or "").removeprefix("www.") if parts else ""


def split(address: str) -> SplitResult | None:
    """The parts, or None where they cannot be told."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is no number
        return parts
    except ValueError:
        return None


def _reduced(address: str) -> str:
    parts = split(address)
    if parts is None:
        return address
    path = re.sub(r"(/index\.html?)?/*$", "", parts.path).removesuffix(".git")
    return f"{(parts.hostname or '').removeprefix('www.')}{path}{'?' + parts.query if parts.query else ''}"


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        pass
    try:
        plain = name.encode("idna").decode()
    except UnicodeError:
        return False
    return bool(_HOST.fullmatch(plain)) and "." in plain
