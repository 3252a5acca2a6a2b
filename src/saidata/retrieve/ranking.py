"""`search(query, index, limit)`: candidates, best first, each with its reasons.

A name that a tier of `index.names` finds beats any text. What text finds is ranked by BM25 times a power of the prior, which
matters more than the text's own rank: of two packages that both say "web server" the one that others need is meant. The
constants were set on the even half of bench/retrieval.py's queries and are reported on the odd half.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import msgspec

from saidata.errors import Misuse
from saidata.facts import Candidate
from saidata.index import Index, Package
from saidata.index.names import Named, clean, resolve

LONGEST_QUERY = 1000
TEXT_HITS = 400  # rows that text may bring in
MOST_WORDS_OF_A_NAME = 3

_STOP = frozenset(
    "a an and are as at be by for from has in into is it its of on or that the this to too use used using with without".split()
)


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How much each part counts; a part at 0 is left out."""

    tier: float = 20.0  # one tier of exactness
    text: float = 3.0  # the logarithm of BM25
    prior: float = 1.5
    summary: float = 2.0  # all words stand in the summary
    phrase: float = 0.5  # they stand together, anywhere


DEFAULT = Weights()


def search(query: str, index: Index, limit: int = 10, weights: Weights = DEFAULT) -> list[Candidate]:
    """The packages that `query` may mean, a name or a description. Raises Misuse for an empty or an endless one."""
    words = [word for word in re.findall(r"[\w.+'-]+", query.lower()) if word.strip("-.'")]
    if not words:
        raise Misuse("the query has no word to search for", "give a name, as in `saidata search nginx`, or a description")
    if len(query) > LONGEST_QUERY:
        raise Misuse(f"the query has {len(query)} characters; {LONGEST_QUERY} are enough", "give a name or a short description")
    scores: dict[int, float] = {}
    reasons: dict[int, list[str]] = {}
    packages: dict[int, Package] = {}
    if weights.tier and len(words) <= MOST_WORDS_OF_A_NAME:
        for hit in _named(index, query, words):
            packages[hit.package.id] = hit.package
            scores[hit.package.id] = weights.tier * (6 - hit.tier) + weights.prior * hit.package.prior
            reasons[hit.package.id] = [hit.reason]
    text = _text(index, words)
    for package in index.numbered([row for row in text if row not in packages]):
        packages[package.id] = package
    together = _together(index, words)
    for row, (rank, score) in text.items():
        found = weights.text * math.log1p(max(score, 0.0)) + weights.prior * packages[row].prior
        found += weights.summary * (row in together[0]) + weights.phrase * (row in together[1])
        scores[row] = max(scores.get(row, -math.inf), found) + (0.01 if row in scores else 0)
        reasons.setdefault(row, []).append(f"text rank {rank}")
    best = sorted(scores, key=lambda row: (-scores[row], packages[row].name))[:limit]
    return [_candidate(packages[row], scores[row], reasons[row]) for row in best]


def _named(index: Index, query: str, words: list[str]) -> list[Named]:
    """What the tiers find for the query as one name; each in its best tier."""
    found: dict[int, Named] = {}
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", query)  # NetworkManager
    for name in dict.fromkeys((clean(query), "-".join(words), "".join(words), clean(parted))):
        for hit in resolve(index, name):
            before = found.get(hit.package.id)
            if before is None or hit.tier < before.tier:
                found[hit.package.id] = hit
    return list(found.values())


def _text(index: Index, words: list[str]) -> dict[int, tuple[int, float]]:
    """Row: its rank and BM25 score (higher is better). All words first; where that finds few, any of them."""
    wanted = [word for word in words if word not in _STOP] or words
    quoted = [f'"{word.replace(chr(34), "")}"' for word in dict.fromkeys(wanted)][:16]
    rows = index.match(" AND ".join(quoted), TEXT_HITS)
    if len(quoted) > 1 and len(rows) < TEXT_HITS // 8:
        known = {row for row, _ in rows}
        any_word = index.match(" OR ".join(quoted), TEXT_HITS)
        rows += [(row, score * 0.5) for row, score in any_word if row not in known]
    return {row: (rank, -score) for rank, (row, score) in enumerate(rows, 1)}


def _together(index: Index, words: list[str]) -> tuple[set[int], set[int]]:
    """Rows whose summary has all the words, and rows where they stand within a few words of each other."""
    wanted = [f'"{word}"' for word in dict.fromkeys(words) if word not in _STOP][:8]
    if not wanted:
        return set(), set()
    summary = index.match("summary : (" + " AND ".join(wanted) + ")", TEXT_HITS)
    near = index.match(f"NEAR({' '.join(wanted)}, {len(wanted) + 1})", TEXT_HITS) if len(wanted) > 1 else []
    return {row for row, _ in summary}, {row for row, _ in near}


def _candidate(package: Package, score: float, reasons: Iterable[str]) -> Candidate:
    why = list(reasons)
    if package.reverse_depends:
        why.append(f"{package.reverse_depends} other packages need it")
    why.append(f"prior {package.prior:+.1f}")
    return Candidate(package=package.name, provider=package.provider, score=round(score, 3), reasons=tuple(why))
