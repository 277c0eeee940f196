"""The settings of a method's file without the rest of it, so that planning need not import torch.

`Config`, `PAPER`, `VARIANTS` and so on are what a few statements of a file make of constants. Only these run,
and those that they need, in a stand-in for the module; what imports torch does not, unless it is needed too.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parent
PACKAGE = __name__.rpartition(".")[0]
LIGHT = (f"{PACKAGE}.contract",)  # need no stand-in


@cache
def parsed(source: bytes) -> ast.Module:
    """The syntax of a file, which nobody changes."""
    return ast.parse(source)


@cache
def settings_of(module: str) -> ModuleType:
    """A stand-in for a module of this package, by its dotted name, that runs only what it is asked for."""
    return _StandIn(module.rpartition(".")[2])


class _StandIn(ModuleType):
    def __init__(self, stem: str) -> None:
        super().__init__(f"{__name__}.{stem}")
        tree = parsed((FOLDER / f"{stem}.py").read_bytes())
        self._imports = dict(_imports(tree))
        self._waiting = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        sys.modules[self.__name__] = self  # where typing looks for the names in annotations of a class

    def __getattr__(self, name: str) -> Any:
        """What the file defines under that name, by the first run of the statements that it takes."""
        needed, kept = {name}, []
        for node in reversed(self._waiting):
            if not needed.isdisjoint(_defined(node)):
                kept.append(node)
                needed.update(_used(node))
        for imported in needed & self._imports.keys() - self.__dict__.keys():
            self.__dict__[imported] = _imported(*self._imports[imported])
        program = ast.Module(kept[::-1], [])
        try:
            # The code inherits this file's `from __future__ import annotations`.
            exec(compile(program, self.__name__, "exec"), self.__dict__)
        except AttributeError as error:
            # As it is, it would say that the file does not define the name.
            raise ImportError(f"{name}: {error}") from error
        self._waiting = [node for node in self._waiting if node not in kept]
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each imported name with its module and its name there, "" for the module itself."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, (node.module, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, (alias.name if alias.asname else top, "")


def _imported(module: str, name: str) -> Any:
    """The value of an imported name; modules of this package are stood in for."""
    if module == PACKAGE and (FOLDER / f"{name}.py").is_file():
        return settings_of(f"{PACKAGE}.{name}")
    stood_in = module.startswith(f"{PACKAGE}.") and module not in LIGHT
    found = settings_of(module) if stood_in else importlib.import_module(module)
    return getattr(found, name) if name else found


def _defined(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds, or whose values it may change."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
        return
    changed: list[ast.AST] = [node]
    if isinstance(node, ast.Assign):
        changed = list(node.targets)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        changed = [node.target]
    for part in changed:
        yield from (name.id for name in ast.walk(part) if isinstance(name, ast.Name))


def _used(node: ast.AST) -> Iterator[str]:
    """Names in a statement, but for the annotations of functions, which nothing looks at."""
    if isinstance(node, ast.Name):
        yield node.id
    unread = ("annotation", "returns") if isinstance(node, (ast.FunctionDef, ast.arg)) else ()
    for field, value in ast.iter_fields(node):
        parts = value if isinstance(value, list) else [value]
        if field not in unread:
            for part in parts:
                if isinstance(part, ast.AST):
                    yield from _used(part)
