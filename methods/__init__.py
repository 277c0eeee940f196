"""Methods by presence: a file in this folder that defines `distill` is a method.

Nothing is registered. Files are listed by their syntax alone, without importing torch; a method's module is
imported when it is used. A method file may also define

    VARIANTS = {"paper": {...}}       named variants: `--methods bacon@paper`; values override the Config's
    PAPER = {("cifar10", 10): {...}}  published settings; ("*", ipc) stands for unpublished datasets,
    UNPUBLISHED = {"digits": {...}}   which may need changes of their own
    SCALED = {"cpu": {...}}           shortened settings of the scales other than "paper"
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from harness.errors import UnknownNameError, UserError


@dataclass(frozen=True)
class MethodInfo:
    """What a method file says of itself; `broken` is the reason why it cannot be used, if it cannot."""

    name: str
    module: str
    summary: str
    broken: str | None = None


@dataclass(frozen=True)
class Resolved:
    """A method's configuration for one (dataset, ipc, scale) and a sentence on where it comes from."""

    config: Any
    source: str


def discover(folder: Path | None = None) -> dict[str, MethodInfo]:
    """All methods and variants, "bacon" and "bacon@paper", by name; imports nothing."""
    found: dict[str, MethodInfo] = {}
    for path in sorted((folder or Path(__file__).parent).glob("[!_]*.py")):
        module = f"{__name__}.{path.stem}"
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except (SyntaxError, UnicodeDecodeError) as error:
            found[path.stem] = MethodInfo(path.stem, module, "", f"does not parse: {error}")
            continue
        if not any(isinstance(node, ast.FunctionDef) and node.name == "distill" for node in tree.body):
            continue
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        for name in (path.stem, *(f"{path.stem}@{variant}" for variant in _variant_names(tree))):
            found[name] = MethodInfo(name, module, summary)
    return found


def load(name: str) -> ModuleType:
    """Import the file of a method or variant; raises UserError if it is unknown or broken."""
    known = discover()
    if name not in known:
        raise UnknownNameError("method", name, known)
    info = known[name]
    if info.broken is not None:
        raise UserError(f"method {name!r} cannot be used: its file {info.broken}")
    return importlib.import_module(info.module)


def resolve(
    name: str, dataset: str, ipc: int, scale: str = "paper", overrides: Mapping[str, Any] | None = None
) -> Resolved:
    """Configuration of a method for a dataset and ipc: published settings, variant, scale, own overrides.

    Each overrides the ones before. `overrides` may hold strings as typed on a command line.
    """
    module = load(name)
    values, source = _published(getattr(module, "PAPER", {}), dataset, ipc)
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
    return Resolved(config_from(name, values), source)


def config_from(name: str, values: Mapping[str, Any]) -> Any:
    """The method's frozen Config with the given values, strings converted to each field's type."""
    config_type = load(name).Config
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
