"""The form reader: the same parts however the bytes are cut, what an independent parser says, and never another error."""

from __future__ import annotations

import email
import email.policy
import random
import tracemalloc
from collections.abc import Iterable

import pytest

from redline.errors import InvalidRequest
from redline.server.multipart import MAX_HEADER_BYTES, MAX_PARTS, Part, Reader, boundary_of

BOUNDARY = b"----x42"


def form(*parts: tuple[str, bytes], boundary: bytes = BOUNDARY) -> bytes:
    body = b"".join(
        b"--%b\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, disposition.encode(), content)
        for disposition, content in parts
    )
    return body + b"--%b--\r\n" % boundary


def read(chunks: Iterable[bytes], boundary: bytes = BOUNDARY) -> list[tuple[Part, bytes]]:
    reader, found = Reader(boundary), []
    for chunk in chunks:
        for item in reader.feed(chunk):
            if isinstance(item, Part):
                found.append((item, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + item)
    reader.finish()
    return found


# Contents that look like the end of a part, nearly.
NASTY = (b"", b"\r\n", b"\r\n--", b"\r\n------x4", b"--" + BOUNDARY, b"\r\r\n--\n\r\n---", b"a" * 300, bytes(range(256)) * 3)
BODY = form(
    ('name="purpose"', b"batch"),
    *((f'name="f{number}"; filename="a \\"b\\" {number}.jsonl"', content) for number, content in enumerate(NASTY)),
)
PARTS = [(Part("purpose", None), b"batch")] + [
    (Part(f"f{number}", f'a "b" {number}.jsonl'), content) for number, content in enumerate(NASTY)
]


@pytest.mark.soak
def test_parts_are_the_same_however_the_body_is_cut(effort: int) -> None:
    assert read([BODY]) == PARTS
    assert read(bytes([byte]) for byte in BODY) == PARTS
    for cut in range(1, len(BODY)):
        assert read([BODY[:cut], BODY[cut:]]) == PARTS
    rng = random.Random(3)
    for _ in range(50 * effort):
        cuts = sorted(rng.sample(range(len(BODY)), rng.randrange(1, 40)))
        assert read(BODY[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)) == PARTS


def test_an_independent_parser_reads_the_same() -> None:
    rng = random.Random(11)
    alphabet = [b"\r", b"\n", b"-", b"x", b"4", b"a", b"\r\n--", BOUNDARY[:-1]]
    for _ in range(200):
        contents = [b"".join(rng.choices(alphabet, k=rng.randrange(30))) + b"." for _ in range(rng.randrange(1, 5))]
        body = form(*((f'name="n{i}"', content) for i, content in enumerate(contents)))
        theirs = email.message_from_bytes(
            b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n%b" % (BOUNDARY, body), policy=email.policy.HTTP
        )
        assert [content for _, content in read([body])] == contents
        # That one may change line ends inside: it counts and names.
        assert [part.get_param("name", header="content-disposition") for part in theirs.iter_parts()] == [
            part.name for part, _ in read([body])
        ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"junk",
        b"\r\n" + form(('name="a"', b"b")),
        b"preamble\r\n" + form(('name="a"', b"b")),
        form(('name="a"', b"b"))[:-4],
        form(('name="a"', b"b")) + b"more",
        form(('name="a"', b"b")).replace(b"\r\n", b"\n"),
        form(('name="a"', b"b")).replace(b"--\r\n", b"-+\r\n"),
        form(("nothing", b"b")),
        form(('name=""', b"b")),
        form(('name="a"; name="b"', b"b")),
        form(('name="a', b"b")),
        form(('name="a"; filename="\udcff"'.encode("utf-8", "surrogateescape").decode("latin-1"), b"b")).replace(
            "ÿ".encode(), b"\xff"
        ),
        form(('name="a"\r\ncontent-disposition: form-data; name="b"', b"b")),
        form(('name="a"\r\ncontent-transfer-encoding: base64', b"b")),
        form(('name="a"\r\n folded: yes', b"b")),
        form(('name="a"\r\nno colon', b"b")),
        form(('name="a"\r\nx: a\0b', b"b")),
        form((f'name="a"\r\nx: {"y" * MAX_HEADER_BYTES}', b"b")),
        form(*[('name="a"', b"b")] * (MAX_PARTS + 1)),
        b"--%b\r\ncontent-disposition: attachment; name=a\r\n\r\nb\r\n--%b--" % (BOUNDARY, BOUNDARY),
        b"--%b\r\n" % BOUNDARY + b"x" * 100_000,
    ],
)
def test_what_is_not_a_form_is_refused(body: bytes) -> None:
    for chunks in ([body], [bytes([byte]) for byte in body[:20_000]]):
        with pytest.raises(InvalidRequest, match="the multipart body cannot be read"):
            read(chunks)


@pytest.mark.soak
def test_mutated_bodies_are_read_or_refused(effort: int) -> None:
    rng = random.Random(7)
    refused = 0
    for _ in range(2000 * effort):
        body = bytearray(BODY[: rng.randrange(200, 700)] + BODY[-400:])
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(body))
            body[at : at + rng.randrange(4)] = rng.choice(
                [b"", b"\r\n", b'"', b";", b"--", b"\0", b"\xff", b"\\", rng.randbytes(3)]
            )
        step = rng.randrange(1, 200)
        try:
            read(bytes(body[at : at + step]) for at in range(0, len(body), step))
        except InvalidRequest:
            refused += 1
    assert 0 < refused < 2000 * effort


def test_a_large_part_is_never_held() -> None:
    reader = Reader(BOUNDARY)
    head, chunk = form(('name="f"; filename="x"', b""))[:-13], b"\r\n--" * 16384
    tracemalloc.start()
    try:
        total = sum(len(item) for item in reader.feed(head) if isinstance(item, bytes))
        for _ in range(500):
            total += sum(len(item) for item in reader.feed(chunk) if isinstance(item, bytes))
        assert total > 500 * 65536 - 200
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;boundary="a b;c"', b"a b;c"),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", b"----WebKitFormBoundary7MA4YWxkTrZu0gW"),
    ],
)
def test_boundaries(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=a",
        "multipart/form-data; boundary=ü",
    ]
    + [f"multipart/form-data; boundary={'a' * 71}", 'multipart/form-data; boundary="a\r\nb"'],
)
def test_no_boundary_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(header)


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ("name=a; filename=b", "b"),
        ('name="a"; filename=""', ""),
        ('name="a"; filename="%22é\\\\x"', "%22é\\x"),
        ("name=a; filename*=UTF-8''na%C3%AFve%20x", "naïve x"),
        ("name=a", None),
    ],
)
def test_names_of_files(disposition: str, filename: str | None) -> None:
    assert read([form((disposition, b""))]) == [(Part("a", filename), b"")]
