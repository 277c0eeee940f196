"""The floor plan: a module imports from its own floor or from below, never from above."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.engine.provenance import ROOT

FLOORS = (
    ("harness.core",),
    ("methods",),
    ("harness.engine",),
    ("harness.launch", "harness.report", "harness.submit", "harness.perf"),
    ("harness.commands",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ABOVE_ALL = {"harness", "harness.__main__"}  # the door


def imports() -> Iterator[tuple[str, str]]:
    """Every import of this code's own: the module that has it, and what it imports."""
    for path in (*(ROOT / "harness").rglob("*.py"), *(ROOT / "methods").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)


def floor(module: str) -> int | None:
    """The floor that a module lies on; None for one of another project and for names of the door."""
    rooms = [room for room in FLOOR_OF if f"{module}.".startswith(f"{room}.")]
    return FLOOR_OF[rooms[0]] if rooms else None


def test_every_module_lies_in_a_room() -> None:
    assert {module for module, _ in imports() if floor(module) is None} <= ABOVE_ALL


def test_no_import_goes_up() -> None:
    upward = [
        f"{module} imports {imported}"
        for module, imported in imports()
        if None not in (here := floor(module), there := floor(imported)) and there > here  # type: ignore[operator]
    ]
    assert upward == []
