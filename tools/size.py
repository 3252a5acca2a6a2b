"""Check the ceilings of the house: `python tools/size.py`. Prints a size table by room and exits 3 where one is broken.

Knows the ceilings and nothing of imports (see layers.py). Files are parsed, never imported. Read `CEILINGS`, then
`violations`.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tree import Import, Module, dotted, imports, modules


@dataclass(frozen=True)
class Ceilings:
    """Most lines or entries of each kind."""

    file: int = 500
    kernel_file: int = 600
    class_: int = 300
    function: int = 60
    kernel: int = 150
    parameters: int = 8
    environment: int = 12


CEILINGS = Ceilings()

# The one file that reads the environment; each name is a `Variable(...)` entry of its table.
ENVIRONMENT_FILE = "redline.env"
ENVIRONMENT_ENTRY = "Variable"

# saidata sees redline's public door only; what it reads of the environment is read here.
APPLICATION_ENVIRONMENT_FILE = "saidata.places"

ENVIRONMENT_READERS = {"os.environ", "os.getenv", "os.environb", "os.putenv"}

# Decorators that make a function a GPU kernel.
KERNEL_DECORATORS = {"jit", "autotune", "heuristics"}

CONFIG_FILE = "redline.config"


def violations(top: Path) -> list[str]:
    """Every broken ceiling under the repository `top`, as sentences."""
    found = []
    for folder in ("src", "tools", "tests", "bench"):
        for module in modules(top / folder).values():
            place = module.path.relative_to(top)
            found += [f"{place}{text}" for text in _file(module, top)]
            if folder == "src":
                found += [f"{place}{text}" for text in _environment(module)]
                found += [f"{place}{text}" for text in _undocumented(module)]
    for path in sorted((top / "src").rglob("*.cu*")):
        lines = len(path.read_text().splitlines())
        if lines > CEILINGS.kernel_file:
            found.append(f"{path.relative_to(top)}: {lines} lines, at most {CEILINGS.kernel_file}")
    return found


def _file(module: Module, top: Path) -> Iterator[str]:
    is_kernel = "kernels" in module.path.relative_to(top).parts
    most = CEILINGS.kernel_file if is_kernel else CEILINGS.file
    if module.lines > most:
        yield f": {module.lines} lines, at most {most}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and _lines(node) > CEILINGS.class_:
            yield f":{node.lineno}: class {node.name} has {_lines(node)} lines, at most {CEILINGS.class_}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(node)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    kernel = is_kernel(node)
    lines = _lines(node) - sum(_lines(inner) for inner in ast.walk(node) if inner is not node and is_kernel(inner))
    most = CEILINGS.kernel if kernel else CEILINGS.function
    if lines > most:
        yield f":{node.lineno}: {node.name} has {lines} lines, at most {most}"
    count = len(parameters(node))
    if count > CEILINGS.parameters and not kernel:
        yield f":{node.lineno}: {node.name} takes {count} parameters, at most {CEILINGS.parameters}"


def is_kernel(node: ast.AST) -> bool:
    """Whether `node` is a function under a Triton decorator."""
    if not isinstance(node, ast.FunctionDef):
        return False
    return any(dotted(decorator).rpartition(".")[2] in KERNEL_DECORATORS for decorator in node.decorator_list)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names a caller may pass; `self` and `cls` are not among them."""
    spec = node.args
    named = [arg.arg for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    starred = [arg.arg for arg in (spec.vararg, spec.kwarg) if arg is not None]
    return [name for name in named + starred if name not in ("self", "cls")]


def _lines(node: ast.AST) -> int:
    """Lines from `def` or `class` to the end, decorators left out."""
    return int(node.end_lineno) - int(node.lineno) + 1  # type: ignore[attr-defined]


def _environment(module: Module) -> Iterator[str]:
    if module.name == APPLICATION_ENVIRONMENT_FILE:
        return
    if module.name == ENVIRONMENT_FILE:
        calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
        count = sum(dotted(call.func) == ENVIRONMENT_ENTRY for call in calls)
        if count > CEILINGS.environment:
            yield f": {count} environment names, at most {CEILINGS.environment}"
        return
    for item in imports(module):
        if item.target in ENVIRONMENT_READERS:
            yield _reads(item)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in ENVIRONMENT_READERS:
            yield f":{node.lineno}: reads the environment ({dotted(node)}): only env.py does"


def _reads(item: Import) -> str:
    return f":{item.line}: imports {item.target}: only env.py reads the environment"


def _undocumented(module: Module) -> Iterator[str]:
    """Config fields that are not `option(default, "help")`; a field that holds another section needs no help."""
    if module.name != CONFIG_FILE:
        return
    classes = [node for node in module.tree.body if isinstance(node, ast.ClassDef)]
    sections = {node.name for node in classes}
    for cls in classes:
        for field in cls.body:
            if isinstance(field, ast.AnnAssign) and dotted(field.annotation) not in sections and not _help(field.value):
                yield f":{field.lineno}: {cls.name}.{dotted(field.target)} has no help text"


def _help(value: ast.expr | None) -> str:
    if not isinstance(value, ast.Call) or dotted(value.func) != "option":
        return ""
    texts = [*value.args[1:2], *(keyword.value for keyword in value.keywords if keyword.arg == "help")]
    return next((str(text.value).strip() for text in texts if isinstance(text, ast.Constant)), "")


def table(top: Path) -> str:
    """Files, lines and the longest file by room, and what tests and tools add."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for folder in ("src", "tools", "tests", "bench"):
        for module in modules(top / folder).values():
            parts = module.path.relative_to(top / folder).parts
            rooms["/".join(parts[:2]) if folder == "src" and len(parts) > 2 else folder].append(module)
    rows = [f"{'room':<20}{'files':>6}{'lines':>8}  longest"]
    for room, members in sorted(rooms.items()):
        longest = max(members, key=lambda module: module.lines)
        rows.append(f"{room:<20}{len(members):>6}{sum(m.lines for m in members):>8}  {longest.path.name} {longest.lines}")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check the ceilings on files, classes, functions and environment names.")
    parser.add_argument("top", nargs="?", type=Path, default=Path(__file__).parent.parent)
    top = parser.parse_args(argv).top
    print(table(top))
    found = violations(top)
    for line in found:
        print(line)
    print(f"size: {len(found)} violations")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
