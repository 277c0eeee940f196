"""Methods by presence: a file in this folder that defines `distill` is a method.

Nothing is registered. Files are listed by their syntax alone, without importing torch; a method's module is
imported when it is used. A file whose loop takes any criterion also defines `condense`, and one whose
distance fits such loops `distance_to`: "dm+bacon" is DM's loop with BACON's distance, a method without a file
of its own. A method file may besides define

    VARIANTS = {"paper": {...}}       named variants: `--methods bacon@paper`; values override the Config's
    PAPER = {("cifar10", 10): {...}}  published settings; ("*", ipc) stands for unpublished datasets,
    UNPUBLISHED = {"digits": {...}}   which may need changes of their own
    SCALED = {"cpu": {...}}           shortened settings of the scales other than "paper"
    IGNORES_IPC = True                one set, however many images a class is to have: run once, at ipc 1
    RESOURCES = {"paper": {"mem": "48G"}}   what its jobs on a cluster need at least, by scale: see
                                      `run --help` for partition, time, gpus, cpus, mem
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from harness.errors import UnknownNameError, UserError
from methods.settings import settings_of

JOIN = "+"  # between the loop and the distance of a composition


@dataclass(frozen=True)
class MethodInfo:
    """What a method file says of itself; `broken` is the reason why it cannot be used, if it cannot.

    loop: it has a `condense`, distance: it has a `distance_to`, from which compositions are made.
    parts: of a composition, the modules of its loop and its distance.
    """

    name: str
    module: str
    summary: str
    broken: str | None = None
    loop: bool = False
    distance: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """A method's configuration for one (dataset, ipc, scale) and a sentence on where it comes from."""

    config: Any
    source: str


def discover(folder: Path | None = None) -> dict[str, MethodInfo]:
    """All methods and variants, "bacon" and "bacon@paper", by name; imports nothing."""
    paths = sorted((folder or Path(__file__).parent).glob("[!_]*.py"))
    return {info.name: info for path in paths for info in _infos(path.stem, path.read_bytes())}


@cache
def _infos(stem: str, source: bytes) -> tuple[MethodInfo, ...]:
    """What one file brings: a method and its variants, something broken, or nothing."""
    module = f"{__name__}.{stem}"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        return (MethodInfo(stem, module, "", f"does not parse: {error}"),)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "distill" not in functions:
        return ()
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    loop, distance = "condense" in functions, "distance_to" in functions
    names = (stem, *(f"{stem}@{variant}" for variant in _variant_names(tree)))
    return tuple(MethodInfo(name, module, summary, loop=loop, distance=distance) for name in names)


def find(name: str) -> MethodInfo:
    """The method, variant or composition of that name, without importing it; raises UserError if unknown."""
    known = discover()
    if name in known:
        return known[name]
    loop, joined, distance = name.partition(JOIN)
    if not joined:
        raise UnknownNameError("method", name, known)
    loops, distances = composable(known.values())
    for kind, part, choices, others in (
        ("loop", loop, loops, f"distances: {', '.join(distances)}"),
        ("distance", distance, distances, f"loops: {', '.join(loops)}"),
    ):
        if part not in choices:
            unknown = UnknownNameError(kind, part, choices)
            raise UserError(f"{unknown}; {name!r} is to be LOOP{JOIN}DISTANCE, {others}")
    summary = f"the loop of {loop} with the distance of {distance}"
    parts = (known[loop].module, known[distance].module)
    return MethodInfo(name, f"{__name__}.composition", summary, parts=parts)


def composable(known: Iterable[MethodInfo]) -> tuple[list[str], list[str]]:
    """Names of the loops and of the distances (with their variants) from which "LOOP+DISTANCE" is made."""
    known = list(known)
    loops = [info.name for info in known if info.loop and "@" not in info.name]
    return loops, [info.name for info in known if info.distance]


def load(name: str) -> ModuleType:
    """Import a method or variant, or make a composition; raises UserError if it is unknown or broken."""
    return _module(name, importlib.import_module, "compose")


@cache
def settings(name: str) -> ModuleType:
    """What `load` returns, but with settings alone, for which nothing that is slow to import is imported."""
    return _module(name, settings_of, "compose_settings")


def _module(name: str, import_module: Callable[[str], ModuleType], compose: str) -> ModuleType:
    info = find(name)
    if info.broken is not None:
        raise UserError(f"method {name!r} cannot be used: its file {info.broken}")
    module = import_module(info.module)
    if not info.parts:
        return module
    parts = map(import_module, info.parts)
    composition: ModuleType = getattr(module, compose)(name.partition("@")[0], *parts)
    variant = name.partition("@")[2]
    if variant and variant not in composition.VARIANTS:
        raise UserError(f"{name}: the variant changes more than the distance; compose without @{variant}")
    return composition


def resolve(
    name: str,
    dataset: str,
    ipc: int,
    scale: str = "paper",
    overrides: Mapping[str, Any] | None = None,
    of: Callable[[str], ModuleType] = load,
) -> Resolved:
    """Configuration of a method for a dataset and ipc: published settings, variant, scale, own overrides.

    Each overrides the ones before. `overrides` may hold strings as typed on a command line. `of` may be
    `settings`: the values are the same, the Config is of a class of its own.
    """
    module = of(name)
    values, source = _published(getattr(module, "PAPER", {}), dataset, ipc)
    if JOIN in name:
        source = f"{name.partition(JOIN)[0]}'s ({source})"
    values |= getattr(module, "UNPUBLISHED", {}).get(dataset, {})
    variant = name.partition("@")[2]
    values |= module.VARIANTS[variant] if variant else {}
    if scale != "paper":
        scaled = getattr(module, "SCALED", {}).get(scale)
        values |= scaled or {}
        source += (
            f"; {scale} scale" if scaled is not None else f"; no shortened settings for the {scale} scale"
        )
    if overrides:
        values |= overrides
        source += f"; set by hand: {', '.join(sorted(overrides))}"
    return Resolved(config_from(name, values, of), source)


def config_from(name: str, values: Mapping[str, Any], of: Callable[[str], ModuleType] = load) -> Any:
    """The method's frozen Config with the given values, strings converted to each field's type."""
    config_type = of(name).Config
    fields = {field.name for field in dataclasses.fields(config_type)}
    hints = typing.get_type_hints(config_type)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UnknownNameError(f"setting of {name}", key, fields)
        try:
            checked[key] = msgspec.convert(value, hints[key], strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            raise UserError(f"setting {name}.{key}={value!r} does not fit: {error}") from None
    return config_type(**checked)


def _published(
    table: Mapping[tuple[str, int], Mapping[str, Any]], dataset: str, ipc: int
) -> tuple[dict[str, Any], str]:
    """Row of the nearest tabulated ipc not above the wanted one, of this dataset or else of "*"."""
    rows = {key_ipc: row for (name, key_ipc), row in table.items() if name == dataset}
    known = bool(rows)
    if not known:
        rows = {key_ipc: row for (name, key_ipc), row in table.items() if name == "*"}
    if not rows:
        return {}, "the method's own on every dataset"
    nearest = max((key_ipc for key_ipc in rows if key_ipc <= ipc), default=min(rows))
    if not known:
        return dict(rows[nearest]), f"default: nothing is published for {dataset}"
    if nearest != ipc:
        return dict(
            rows[nearest]
        ), f"default: nothing is published for ipc {ipc}, taken from {dataset} ipc {nearest}"
    return dict(rows[nearest]), f"published: {dataset} ipc {ipc}"


def _variant_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == "VARIANTS" for target in targets)
        if named and isinstance(getattr(node, "value", None), ast.Dict):
            keys = node.value.keys  # type: ignore[attr-defined]
            return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return []
