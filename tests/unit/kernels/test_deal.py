"""How a step's keys are dealt (cuda/deal.cu), run as it is by a C++ compiler: a thread of the CPU for each of its block's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from random import Random

import pytest
import torch

from redline.kernels import decode_attention, trust

batch_attention_cuda = pytest.importorskip("redline.kernels.batch_attention_cuda")
ROWS, TILE, LEAST = batch_attention_cuda.ROWS, batch_attention_cuda.TILE, batch_attention_cuda.LEAST_COMMON
MAIN = """
int main() {
    std::vector<int> read;
    for (int number; scanf("%d", &number) == 1;) read.push_back(number);
    const int rows = read[0], room = read[1], stride = read[2], blocks = read[3], page = read[4], size = read[5];
    int *context = &read[6], *table = context + rows;
    std::vector<int> entries(4 * (room + rows), -9), members(2 * 16 * max(1, room), -9), first(room + rows + 1, -9), starts(8 * blocks, -9);
    const Arguments a = {context, table, (Entry*)&entries[0], (Member*)&members[0], &first[0], (Start*)&starts[0], rows, room, stride, blocks, page, size};
    run_block([=] { deal(a); });
    for (const std::vector<int>& each : {entries, members, first, starts}) {
        for (int number : each) printf("%d ", number);
        puts("");
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("deal")
    cuda = resources.files("redline.kernels.cuda")
    kernel = cuda.joinpath("deal.cu").read_text()
    for header in ("line.cuh", "scan.cuh"):
        kernel = kernel.replace(f'#include "{header}"', cuda.joinpath(header).read_text())
    kernel = kernel.replace('extern "C" ', "").replace("#pragma unroll", "")
    defined = [f"-D{name}={value}" for name, value in batch_attention_cuda.deal_definitions().items()]
    host = (Path(__file__).parents[2] / "host_block.hpp").read_text()
    source = f"#include <cstdio>\nstatic const unsigned threads_of_block = DEALERS;\n{host}\n{kernel}\n{MAIN}"
    (folder / "deal.cpp").write_text(source)
    command = [compiler, "-std=c++20", "-O1", "-pthread", "-w", *defined]
    if subprocess.run([*command, "-fsyntax-only", "-x", "c++", "-"], input=b"#include <barrier>", capture_output=True).returncode:
        pytest.skip("needs a compiler of C++20")
    done = subprocess.run([*command, "deal.cpp", "-o", "deal"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder / "deal"


class Dealt:
    """What the kernel made of a step."""

    def __init__(self, program: Path, contexts: list[int], table: list[list[int]], *, page: int, size: int, blocks: int):
        rows, stride = len(contexts), len(table[0])
        self.room = batch_attention_cuda.room_for_bundles(rows, ROWS // size)  # of heads so many of which fill the rows
        asked = [rows, self.room, stride, blocks, page, size, *contexts, *(number for row in table for number in row)]
        done = subprocess.run([program], input=" ".join(map(str, asked)), capture_output=True, text=True, check=True, timeout=60)
        entries, members, self.first, starts = ([int(number) for number in line.split()] for line in done.stdout.splitlines())
        self.entries = list(zip(*[iter(entries)] * 4, strict=True))  # sequence, context, skipped, bundle
        self.members = list(zip(*[iter(members)] * 2, strict=True))  # sequence, context
        self.starts = list(zip(*[iter(starts)] * 8, strict=True))  # an entry, its place, first and next tile

    def bundled(self) -> dict[int, tuple[int, int]]:
        """Of each row that has a bundle, its place and the row's own in it."""
        return {row: divmod(entry[3], ROWS) for row, entry in enumerate(self.entries[self.room :]) if entry[3] >= 0}


def steps(seed: int) -> Iterator[tuple[list[int], list[list[int]], int]]:
    """Contexts, page tables and tokens of a page: sequences that begin alike in several groups, mixed or one after the other, some of which leave
    theirs early, are short, or have hardly more than the group has."""
    rng = Random(seed)
    for number in range(6):
        page, groups = rng.choice([16, 64, 128]), [rng.randrange(30) * 128 for _ in range(rng.randint(1, 4))]
        pages = iter(range(1 << 30))
        prefixes = [*([next(pages) for _ in range(shared // page)] for shared in groups), []]
        contexts, table, rows = [], [], rng.randint(1, 300) if number % 2 else rng.randint(400, 700)
        for row in range(rows):
            prefix = rng.choice(prefixes) if number % 2 else prefixes[row * len(prefixes) // rows]
            context = rng.choice(
                [rng.randrange(3), *(rng.randint(1, 5000) for _ in range(8)), len(prefix) * page + rng.randint(1, 3)]
            )
            kept = rng.randint(0, len(prefix)) if rng.random() < 0.1 else len(prefix)
            kept = min(kept, max(0, context - 1) // page)  # the newest key is in a page of its own
            contexts.append(context)
            table.append([*prefix[:kept], *(next(pages) for _ in range(-(-context // page) - kept))])
        most = max(map(len, table)) + 1
        yield contexts, [row + [1 << 30] * (most - len(row)) for row in table], page


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_key_is_somebodys(size: int, program: Path) -> None:
    """Each sequence's tiles are its own or its bundle's, which reads the same pages; whoever could be in a bundle is; blocks begin where they must."""
    happened = 0
    for number, (contexts, table, page) in enumerate(steps(size)):
        blocks = (132, 66)[number % 2]
        dealt = Dealt(program, contexts, table, page=page, size=size, blocks=blocks)
        bundled, first = dealt.bundled(), dealt.first
        happened += len(bundled)
        for row, (context, entry) in enumerate(zip(contexts, dealt.entries[dealt.room :], strict=True)):
            tiles = -(-(context - 1) // TILE) if context > 1 else context
            assert entry[:2] == (row, context) and (entry[2] > 0) == (row in bundled)
            assert first[dealt.room + row + 1] - first[dealt.room + row] == tiles - entry[2] >= min(1, context)
            if row not in bundled:
                continue
            place, member = bundled[row]
            leader, common, skipped, _ = dealt.entries[place]
            assert (dealt.members[place * ROWS + member], skipped) == ((row, context), 0)
            assert common == entry[2] * TILE + 1 < context and first[place + 1] - first[place] == entry[2] >= LEAST
            last = (entry[2] * TILE - 1) // page
            assert table[row][: last + 1] == table[leader][: last + 1]
        for place in {place for place, _ in bundled.values()}:
            for member, (row, _) in enumerate(dealt.members[place * ROWS : place * ROWS + size]):
                assert row == -1 or bundled[row] == (place, member)
        alike: dict[int, list[int]] = {}
        for row, context in enumerate(contexts):
            if context - 2 >= LEAST * TILE:
                alike.setdefault(table[row][(LEAST * TILE - 1) // page], []).append(row)
        assert set(bundled) == {row for rows in alike.values() if len(rows) >= size > 1 for row in rows}
        total = first[-1]
        for block, (*entry, place, begin, end, _) in enumerate(dealt.starts[: min(blocks, total)]):
            tile = block * total // min(blocks, total)
            assert tuple(entry) == dealt.entries[place] and first[place : place + 2] == [begin, end] and begin <= tile < end
    assert (happened > 50) == (size > 1)


def test_what_is_tried_at_the_start_has_bundles(program: Path) -> None:
    """Else the check of them would pass without one."""
    rows, context = trust.CONTEXTS["bundled"]
    axes = {"B": rows, "C": context, "N": 8, "K": 2, "H": 64, "S": trust.PAGE_SIZE, "W": 0}
    inputs = decode_attention.make_inputs(axes, torch.float32, torch.device("cpu"), 1)
    ragged = trust._with_common_pages(inputs, rows, context)["ragged"]
    contexts, table = ragged.context_B.tolist(), ragged.page_table_BP.tolist()
    for size in (2, 4, 8):
        dealt = Dealt(program, contexts, table, page=trust.PAGE_SIZE, size=size, blocks=132)
        assert len(dealt.bundled()) == rows
