"""Several models' files of one software as one: a vote on each value that models gave, and who said otherwise. Open `consensus`.

What evidence decided is the same in all of them. A choice goes to the majority; at a tie none of the candidates wins over one of
them, since half of the models would not have it written, and else the greater share of probability. Of sentences, the one that
has most words in common with the others is taken; a tag needs half of the models, and there are no more than one model gave. A
model whose answer broke off before a value has no vote on it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from saidata.facts import Path
from saidata.format.emit import emit
from saidata.generate.made import Feature, Made
from saidata.generate.skeleton import drop, get, key_of, put

_WORD = re.compile(r"[a-z0-9]+")


def consensus(made: Sequence[Made]) -> Made:
    """One file of several, the best models first. Raises ValueError without any."""
    if not made:
        raise ValueError("nothing to agree on")
    if len(made) == 1:
        return made[0]
    best = max(range(len(made)), key=lambda place: (made[place].valid, made[place].complete, -place))
    data = copy.deepcopy(made[best].data)
    agreements: dict[Path, float] = {}
    disagreements: dict[str, dict[str, list[str]]] = {}
    for path in _open_places(made):
        voters = [each for each in made if get(each.data, path) is not None or key_of(path) in each.abstained]
        given = [(each.model, get(each.data, path)) for each in voters]
        value, agreement = _vote(path, voters, [value for _, value in given], len(made))
        if value is None:
            drop(data, path)
        else:
            put(data, path, value)
        agreements[path] = agreement
        if agreement < 1:
            said: dict[str, list[str]] = {}
            for model, each in given:
                said.setdefault(_shown(each), []).append(model)
            disagreements[key_of(path)] = said
    data["saidata"] = {**data.get("saidata", {}), "model": ", ".join(each.model for each in made)}
    return msgspec.structs.replace(
        made[best],
        data=data,
        yaml=emit(data),
        model=data["saidata"]["model"],
        complete=all(each.complete for each in made),
        features=_features(made, data, agreements),
        effort=sum((each.effort for each in made[1:]), made[0].effort),
        asked=tuple(name for each in made for name in each.asked),
        disagreements=disagreements,
        route=f"agreed on by {len(made)} models",
    )


def _open_places(made: Sequence[Made]) -> list[Path]:
    """The places whose value a model gave in any of the files."""
    found = (feature.path for each in made for feature in each.features if feature.by == "model")
    return list(dict.fromkeys(path[:-1] if path[-1] == 0 and len(path) > 1 else path for path in found))


def _vote(path: Path, made: Sequence[Made], values: Sequence[Any], models: int) -> tuple[Any, float]:
    """The value, and the share of the voters that agree with it; `models` are those without a vote too."""
    named = [value for value in values if value is not None]
    if not named:
        return None, 1.0
    if path[-1] == "tags":
        counts = {tag: sum(tag in value for value in named) for value in named for tag in value}
        wanted = sorted((tag for tag, count in counts.items() if 2 * count >= models), key=lambda tag: -counts[tag])
        kept = wanted[: max(len(value) for value in named)] or named[0]
        return kept, sum(counts[tag] for tag in kept) / (len(kept) * len(values))
    if path[-1] == "description":
        closest = max(named, key=lambda text: sum(_alike(text, other) for other in named))
        return closest, sum(_alike(closest, value) if value else 0.0 for value in values) / len(values)
    shown = [_shown(value) for value in values]
    shares = [_share(each, path) for each in made]

    def weight(place: int) -> tuple[int, bool, float, int]:
        return shown.count(shown[place]), values[place] is None, shares[place], -place

    won = max((place for place, value in enumerate(values)), key=weight)
    return values[won], shown.count(shown[won]) / len(values)


def _share(made: Made, path: Path) -> float:
    return next((f.share for f in made.features if f.path[: len(path)] == path and f.share is not None), 0.0)


def _features(made: Sequence[Made], data: Any, agreements: dict[Path, float]) -> tuple[Feature, ...]:
    """The features of the values that stand, each from the first model that gave it."""
    found: dict[Path, Feature] = {}
    for each in made:
        for feature in each.features:
            place = feature.path[:-1] if feature.path[-1] == 0 and feature.path[:-1] in agreements else feature.path
            stands = get(data, feature.path)
            if feature.path not in found and (place not in agreements or _shown(stands) == feature.value):
                found[feature.path] = msgspec.structs.replace(feature, agreement=agreements.get(place))
    return tuple(found.values())


def _alike(one: str, other: str) -> float:
    """Words in common over all words."""
    a, b = set(_WORD.findall(one.lower())), set(_WORD.findall(other.lower()))
    return len(a & b) / len(a | b) if a | b else 1.0


def _shown(value: Any) -> str:
    return (
        value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode().replace('","', '", "')
    )
