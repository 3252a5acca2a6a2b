"""What the three checks share: the modules of a source tree and the imports in them, read with `ast` and never executed.

Knows nothing of rooms, floors or ceilings. Read `modules` first, then `imports`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """One Python file. `name` is dotted (`redline.engine.pages`; a package is its `__init__`)."""

    name: str
    path: Path
    is_package: bool
    tree: ast.Module
    lines: int

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """See `imports`. Read once: whoever follows chains of imports asks for the same files again and again."""
        return tuple(_walk(self, self.tree, lazy=False, typing_only=False))


@dataclass(frozen=True)
class Import:
    """One imported name. `lazy`: inside a function; `typing_only`: under `if TYPE_CHECKING`."""

    target: str
    line: int
    lazy: bool
    typing_only: bool


def modules(root: Path) -> dict[str, Module]:
    """Every module under `root` (a `src` folder) by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        text = path.read_text()
        found[name] = Module(name, path, is_package, ast.parse(text, str(path)), len(text.splitlines()))
    return found


def imports(module: Module) -> tuple[Import, ...]:
    """All imports of a module: plain, `from`, relative, and `import_module("literal")`.

    `from a import b` yields `a.b`: the reader decides whether that is a module or a name in `a`.
    """
    return module.imports


def _walk(module: Module, node: ast.AST, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for target in _targets(module, node):
        yield Import(target, getattr(node, "lineno", 0), lazy, typing_only)
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for branch, hidden in ((node.body, True), (node.orelse, typing_only)):
            for statement in branch:
                yield from _walk(module, statement, lazy=lazy, typing_only=hidden)
        return
    inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(module, child, lazy=inside, typing_only=typing_only)


def _targets(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            yield node.args[0].value


def _is_type_checking(test: ast.expr) -> bool:
    return dotted(test).rpartition(".")[2] == "TYPE_CHECKING"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute expression; a call's function; otherwise empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return dotted(node.func)
    return ""
