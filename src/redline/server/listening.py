"""The sockets that a server listens on: `bind` makes one, `url_of` says where it is reached."""

from __future__ import annotations

import errno
import socket

from redline.errors import ConfigError

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError with the next step."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port must be between 0 and 65535, not {port}", param="port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(f"the host {host!r} is unknown", hint="try --host 127.0.0.1", param="host") from error
    # With its protocol named, or asyncio leaves Nagle's algorithm on and a second small write waits 40 ms for its turn.
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _bind_error(host, port, error) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _bind_error(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} is in use", hint="try another --port, or --port 0 for a free one", param="port")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} may not be used by this user", hint="try a --port above 1023", param="port")
    return ConfigError(f"cannot listen on {host} port {port}: {error.strerror}", hint="try --host 127.0.0.1", param="host")
