"""How often search finds what was meant: `python bench/retrieval.py`. Needs an index (`saidata index build`), no network.

Three kinds of queries. `elsewhere` and `words` are written by hand in retrieval_queries.tsv. `command` is drawn by a rule: of the
source packages whose most needed program ships one to three commands, none of which is called like a package, 80 by a hash of the
name, evenly from the upper and lower half by reverse dependencies; the query is the first command, the answer any package that
ships it. Constants are set on queries with an even hash; the odd ones are the report. One JSON line: MRR, hit@1 and hit@5 with
95 % bootstrap intervals, by kind and half. `--without PART` leaves a part of the ranking out (aliases, prior, tier).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from saidata.index import Index, aliases, snapshots
from saidata.retrieve import Weights, search

DRAWN = 80
LIMIT = 20
QUERIES = Path(__file__).with_name("retrieval_queries.tsv")
Query = tuple[str, str, tuple[str, ...]]  # kind, text, right answers


def written() -> Iterator[Query]:
    """The queries of the file."""
    for line in QUERIES.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, text, names = line.split("\t")
            yield kind, text, tuple(names.split(","))


def drawn(index: Index) -> Iterator[Query]:
    """Commands that no package is called like, by the rule above."""
    names = [name for _, name, _ in index.every()]
    packages = index.packages(names)
    taken = set(names)
    likely = [p for p in packages if p.prior > 0 and not p.section.endswith(("libs", "libdevel", "oldlibs", "metapackages"))]
    candidates: list[tuple[int, str, tuple[str, ...]]] = []
    for package in sorted(likely, key=lambda p: mixed(p.name)):
        commands = [file.path.rpartition("/")[2] for file in index.files([package.name], ["command"])]
        if 1 <= len(commands) <= 3 and not taken & set(commands):
            paths = [f"/{folder}/{commands[0]}" for folder in ("usr/bin", "usr/sbin", "bin", "sbin", "usr/games")]
            owners = tuple(dict.fromkeys(file.package for file in index.owners(paths)))
            candidates.append((package.reverse_depends, commands[0], owners))
            if len(candidates) == DRAWN * 3:
                break
    middle = statistics.median(need for need, _, _ in candidates)
    upper = [row for row in candidates if row[0] > middle][: DRAWN // 2]
    lower = [row for row in candidates if row[0] <= middle][: DRAWN - len(upper)]
    yield from (("command", text, owners) for _, text, owners in (*upper, *lower))


def mixed(text: str) -> int:
    """A number that has nothing to do with the text's meaning."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def measure(index: Index, queries: Sequence[Query], weights: Weights) -> list[tuple[str, str, int, float]]:
    """(kind, query, rank of the first right answer or 0, seconds) of each query."""
    rows = []
    for kind, text, right in queries:
        start = time.perf_counter()
        found = [candidate.package for candidate in search(text, index, LIMIT, weights)]
        seconds = time.perf_counter() - start
        rows.append((kind, text, next((rank for rank, name in enumerate(found, 1) if name in right), 0), seconds))
    return rows


def summary(ranks: Sequence[int]) -> dict[str, object]:
    """MRR and hits, each with a bootstrap interval."""
    measures = {
        "mrr": lambda sample: statistics.fmean(1 / rank if rank else 0.0 for rank in sample),
        "hit_1": lambda sample: statistics.fmean(rank == 1 for rank in sample),
        "hit_5": lambda sample: statistics.fmean(0 < rank <= 5 for rank in sample),
    }
    draw = random.Random(0)
    out: dict[str, object] = {"queries": len(ranks)}
    for name, of in measures.items():
        again = sorted(of(draw.choices(ranks, k=len(ranks))) for _ in range(1000))
        out[name] = [round(value, 3) for value in (of(ranks), again[24], again[974])]
    return out


def main() -> int:
    """Print the table to standard error, the JSON line to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without", choices=["aliases", "prior", "tier"], action="append", default=[])
    parser.add_argument("--misses", action="store_true", help="list the queries whose answer is not first")
    options = parser.parse_args()
    index = snapshots.current()
    queries = [*written(), *drawn(index)]
    if "aliases" in options.without:
        aliases.ALIASES.clear()
    left_out = {part: 0.0 for part in options.without if part != "aliases"}
    rows = measure(index, queries, Weights(**left_out))
    report: dict[str, object] = {"bench": "retrieval", "snapshot": index.version, "without": options.without}
    for half, odd in (("odd", 1), ("even", 0)):
        chosen = [row for row in rows if mixed(row[1]) % 2 == odd]
        for kind in ("elsewhere", "words", "command"):
            report[f"{half}_{kind}"] = summary([row[2] for row in chosen if row[0] == kind])
        report[half] = summary([row[2] for row in chosen])
    report["all"] = summary([row[2] for row in rows])
    times = sorted(row[3] * 1e3 for row in rows)
    report["ms"] = {"median": round(statistics.median(times), 1), "p99": round(times[int(len(times) * 0.99)], 1)}
    if options.misses:
        for kind, text, rank, _ in rows:
            if rank != 1:
                print(f"{'odd ' if mixed(text) % 2 else 'even'} {kind:<10} {rank:>3}  {text}", file=sys.stderr)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
