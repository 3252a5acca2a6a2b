"""Check who imports whom: `python tools/layers.py`. Exit code 0, or 3 and one line per violation.

The house rule is "imports go downhill only", function-level and type-only imports included, and "torch-free rooms never
import torch". Both are tables here; the code below them knows nothing of a particular room. Files are parsed, never
imported. Read the tables first, then `violations`.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tree import Import, Module, imports, modules

# A room may import its own files and every room on a lower floor.
FLOORS = {
    "ground": 0,  # the files that lie directly in src/redline
    "chat": 1,
    "hardware": 1,
    "checkpoint": 1,
    "plan": 2,
    "kernels": 2,
    "parallel": 3,
    "quant": 3,
    "layers": 4,
    "models": 5,
    "engine": 6,
    "audio": 6,
    "train": 6,
    "llm": 7,
    "audio.pipeline": 7,
    "server": 8,
    "fleet": 9,
    "bench": 9,
    "door": 10,  # src/redline/__init__.py
    "cli": 11,
}

# Files that are a room of their own.
OWN_ROOM = {"redline": "door", "redline.llm": "llm", "redline.audio.pipeline": "audio.pipeline"}

# Torch-free files of a room that is not torch-free as a whole.
TORCH_FREE_ENGINE = {
    "admission",
    "answer",
    "appointments",
    "client",
    "constraints",
    "deadlines",
    "detok",
    "draft",
    "early",
    "ecma",
    "fair",
    "forecast",
    "gate",
    "growth",
    "grammar",
    "json_schema",
    "lark",
    "launch",
    "ledger",
    "message",
    "pace",
    "pages",
    "prefix",
    "request",
    "results",
    "roster",
    "scheduler",
    "stages",
    "step_time",
    "supervisor",
    "yaml_grammar",
}

# Rooms that may see only a part of what lies below them: room names, or single modules.
ONLY = {
    "server": {"ground", "chat", "hardware", "plan", "checkpoint"} | {f"redline.engine.{name}" for name in TORCH_FREE_ENGINE},
    "fleet": {"ground", "plan"} | {f"redline.server.{name}" for name in ("schema", "sse", "failures", "auth", "metrics")},
}

TORCH_FREE_ROOMS = {"ground", "chat", "hardware", "plan", "checkpoint", "server", "fleet", "cli", "door"}
TORCH_FREE_MODULES = {"redline.engine"} | {f"redline.engine.{name}" for name in TORCH_FREE_ENGINE}

# What torch-free code must not import at any level.
HEAVY = {"torch", "triton", "transformers"}

# Rooms whose functions may import code that needs torch: a command that has begun its work.
MAY_REACH_TORCH_LATE = {"cli", "door"}

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "core", "misc", "manager"}
THREE_LEVELS = {"redline.kernels.cuda"}

# Trees beside redline that use only its public door.
OUTSIDE = {"saidata"}

# The rooms of saidata, torch-free but for `import redline` inside a function.
SAIDATA_FLOORS = {
    "ground": 0,  # the files that lie directly in src/saidata
    "format": 1,
    "index": 1,
    "sources": 1,
    "evidence": 2,
    "retrieve": 2,
    "check": 3,
    "models": 3,
    "generate": 4,
    "batch": 5,
    "evaluate": 5,
    "cli": 6,
}


def room_of(name: str) -> str:
    """The room of module `name` in the package redline."""
    if name in OWN_ROOM:
        return OWN_ROOM[name]
    parts = name.split(".")
    return parts[1] if len(parts) > 2 or parts[1] in FLOORS else "ground"


def resolve(target: str, tree: dict[str, Module]) -> str | None:
    """The module of `tree` that an import of `target` loads; None for a foreign one.

    `redline.types.Request` is the module redline.types; `redline.LLM` is the door, redline.
    """
    while target:
        if target in tree:
            return target
        target = target.rpartition(".")[0]
    return None


def violations(root: Path) -> list[str]:
    """Every breach under `root` (the `src` folder), as sentences sorted by file."""
    tree = modules(root)
    found = []
    for module in tree.values():
        place = module.path.relative_to(root)
        found += [f"{place}: {text}" for text in _shape(module)]
        if module.name.split(".")[0] != "redline":
            found += [f"{place}:{item.line}: {text}" for item in imports(module) for text in _outside(module, item, tree)]
        elif room_of(module.name) in FLOORS:
            found += [f"{place}:{item.line}: {text}" for item in imports(module) for text in _uphill(module, item, tree)]
            found += [f"{place}: {text}" for text in _heavy(module, tree)]
            found += [f"{place}: {text}" for text in _wraps_one_library(module)]
    return sorted(set(found))


def _shape(module: Module) -> Iterator[str]:
    """Two levels of rooms, known rooms, no names that say nothing."""
    parts = module.name.split(".")
    for part in parts:
        if part in FORBIDDEN_NAMES:
            yield f"a file or room is called {part}: name what it is about"
    if parts[0] == "redline":
        if len(parts) > 3 - module.is_package and ".".join(parts[:3]) not in THREE_LEVELS:
            yield "rooms have two levels, never three"
        if room_of(module.name) not in FLOORS:
            yield f"room {room_of(module.name)} has no floor in tools/layers.py"
    if parts[0] in OUTSIDE:
        if len(parts) > 3 - module.is_package:
            yield "rooms have two levels, never three"
        if saidata_room(module) not in SAIDATA_FLOORS:
            yield f"room {saidata_room(module)} of saidata has no floor in tools/layers.py"


def saidata_room(module: Module) -> str:
    """The room of a module of saidata."""
    parts = module.name.split(".")
    return parts[1] if len(parts) > 2 or len(parts) == 2 and module.is_package else "ground"


def _outside(module: Module, item: Import, tree: dict[str, Module]) -> Iterator[str]:
    """What an application may not import: redline's inside, rooms of its own that are not below, torch."""
    library = item.target.split(".")[0]
    if library in HEAVY:
        yield f"imports {library}: what needs it lies behind redline's public door"
    target = resolve(item.target, tree)
    if target is None:
        return
    if library == "redline":
        if target != "redline":
            yield f"imports {target}: only the public door (`import redline`) is open to it"
        elif not item.lazy and not item.typing_only:
            yield "imports redline at once: do it in the function that asks a model"
        return
    here, there = saidata_room(module), saidata_room(tree[target])
    if here != there and SAIDATA_FLOORS.get(there, 99) >= SAIDATA_FLOORS.get(here, 99):
        floors = (
            f"{here} (floor {SAIDATA_FLOORS.get(here, '?')}) imports {target} ({there}, floor {SAIDATA_FLOORS.get(there, '?')})"
        )
        yield f"{floors}: imports go downhill only"


def _uphill(module: Module, item: Import, tree: dict[str, Module]) -> Iterator[str]:
    target = resolve(item.target, tree)
    if target is None:
        return
    if target.split(".")[0] in OUTSIDE:
        yield f"imports {target}: redline knows nothing of it"
        return
    if target == "redline" and item.target.count(".") > 1:
        yield f"imports {item.target}, which does not exist"
        return
    here, there = room_of(module.name), room_of(target)
    if here == there:
        return
    if there not in FLOORS or FLOORS[there] >= FLOORS[here]:
        yield f"{here} (floor {FLOORS[here]}) imports {target} ({there}, floor {FLOORS.get(there, '?')}): imports go downhill only"
    elif here in ONLY and there not in ONLY[here] and target not in ONLY[here]:
        yield f"{here} imports {target}: it may see only {', '.join(sorted(ONLY[here]))}"


def _wraps_one_library(module: Module) -> Iterator[str]:
    """A ground file imports the standard library and at most the one library it wraps."""
    roots = {item.target.split(".")[0] for item in imports(module)}
    foreign = sorted(roots - sys.stdlib_module_names - {"redline"})
    if room_of(module.name) == "ground" and len(foreign) > 1:
        yield f"a ground file wraps one library, not {len(foreign)}: {', '.join(foreign)}"


def is_torch_free(name: str) -> bool:
    return name in TORCH_FREE_MODULES or room_of(name) in TORCH_FREE_ROOMS


def _heavy(module: Module, tree: dict[str, Module]) -> Iterator[str]:
    """Torch reached from torch-free code: written in the file, or behind the modules that importing it loads."""
    if not is_torch_free(module.name):
        return
    for item in imports(module):
        library = item.target.split(".")[0]
        if library in HEAVY:
            yield f"torch-free, and imports {library} in line {item.line}"
        reached = resolve(item.target, tree)
        late = item.lazy and room_of(module.name) in MAY_REACH_TORCH_LATE
        if reached and not item.typing_only and not late and (chain := _way_to_torch(reached, tree)):
            yield f"torch-free, and importing it loads torch: {' -> '.join([module.name, *chain])}"


def _way_to_torch(start: str, tree: dict[str, Module]) -> list[str]:
    """The shortest chain of import-time imports from `start` to a heavy library; empty if there is none."""
    ways, queue = {start: [start]}, deque([start])
    while queue:
        name = queue.popleft()
        for target in _loaded_by(tree[name]):
            if target.split(".")[0] in HEAVY:
                return [*ways[name], target.split(".")[0]]
            reached = resolve(target, tree)
            if reached is not None and reached not in ways:
                ways[reached] = [*ways[name], reached]
                queue.append(reached)
    return []


def _loaded_by(module: Module) -> Iterator[str]:
    """What importing `module` imports at once; its parent packages are loaded first."""
    parent = module.name.rpartition(".")[0]
    if parent:
        yield parent
    yield from (item.target for item in imports(module) if not item.lazy and not item.typing_only)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that imports go downhill and torch-free rooms stay free of torch.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parent.parent / "src")
    root = parser.parse_args(argv).root
    found = violations(root)
    for line in found:
        print(line)
    print(f"layers: {sum(1 for _ in root.rglob('*.py'))} modules, {len(found)} violations")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
