"""Clients that ask much and read nothing: their pages come back when the engine is done, and the server does not grow with them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from real_server import RealServer, real_server, until

CLIENTS, TOKENS = 2, 800
GROWTH_BYTES = 32 << 20
BODY = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,  # some kilobytes a token: more than the sockets hold
}


@pytest.fixture
def server() -> Iterator[RealServer]:
    with real_server("--max-model-len", "2048", "--num-pages", "1024", "--page-size", "16") as running:
        yield running


def unread(url: str) -> socket.socket:
    """A connection that has asked, and takes as little of the answer as the system allows."""
    address = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.hostname, address.port))
    body = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def read_all(client: socket.socket) -> bytes:
    client.settimeout(30)
    parts = []
    while data := client.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def test_pages_come_back_though_nobody_reads_and_the_answer_is_whole_when_somebody_does(server: RealServer) -> None:
    before = server.rss_bytes()[0]
    clients = [unread(server.url) for _ in range(CLIENTS)]
    until(lambda: server.metric("redline_generation_tokens_total") >= CLIENTS * TOKENS, 90)
    until(lambda: server.metric("redline_kv_usage_ratio") == 0 and server.metric("redline_requests_running") == 0)
    assert server.rss_bytes()[0] - before < GROWTH_BYTES
    answer = read_all(clients[0])
    assert b"data: [DONE]" in answer and answer.count(b'"top_logprobs"') >= TOKENS
    for client in clients:
        client.close()
