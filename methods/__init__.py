"""Methods by presence: a file in this folder that defines `distill` is a method.

Nothing is registered. Files are listed by their syntax alone, without importing torch; a method's module is
imported when it is used. A file whose loop takes any criterion also defines `condense`, and one whose
distance fits such loops `distance_to`: "dm+bacon" is DM's loop with BACON's distance, a method without a file
of its own. So is "random@soft", which is any method's set with the soft labels of `shared.soft_labels`.

`contract.Method` says what else a file may define. One that breaks the contract is listed as broken and
refused, and costs no other method anything.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, cast

import msgspec

from harness.core.errors import UnknownNameError, UserError
from harness.core.regime import Regime
from harness.core.settings import Steps, hints_of
from methods import contract
from methods.contract import Method, Row
from methods.source import Kind, SettingsSource

FOLDER = Path(__file__).parent
JOIN = "+"  # between the loop and the distance of a composition
_LABELLED = "random"  # whose sets were published with such labels
SOFT = "soft"  # after a method's name, as a variant's: its set with soft labels
NOTHING = ("None", "none", "null")  # as they are typed for a setting that may be None


class ContractError(UserError):
    """A method's file breaks the contract; `breaches` has a line for each way."""

    def __init__(self, name: str, breaches: tuple[str, ...]) -> None:
        first, *rest = breaches
        more = f" ({len(rest)} more: python -m harness check {name})" if rest else ""
        super().__init__(f"method {name!r} cannot be used: its file {first}{more}")
        self.breaches = breaches


@dataclass(frozen=True)
class MethodInfo:
    """What a method's file says of itself by its syntax; with `breaches` it cannot be used.

    loop: it has a `condense`, distance: it has a `distance_to`, from which compositions are made.
    parts: of a composition, the modules of its loop and its distance; of a set with soft labels, that of the
    method whose it is. regime, protocol, uncounted: its REGIME, PROTOCOL and UNCOUNTED.
    """

    name: str
    module: str
    summary: str
    breaches: tuple[str, ...] = ()
    loop: bool = False
    distance: bool = False
    parts: tuple[str, ...] = ()
    regime: Regime = "hard"
    protocol: str = ""
    uncounted: str = ""


@dataclass(frozen=True)
class Resolved:
    """A method's configuration for one (dataset, ipc, scale), and where it comes from."""

    config: Any
    source: SettingsSource


def discover(folder: Path | None = None) -> dict[str, MethodInfo]:
    """All methods and variants, "bacon" and "bacon@paper", by name; imports nothing."""
    paths = sorted((folder or FOLDER).glob("[!_]*.py"))
    return {info.name: info for path in paths for info in _infos(path, _version(path))}


def _version(path: Path) -> tuple[int, int]:
    """What tells a file from what it was before, without reading it."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


@cache
def _infos(path: Path, version: tuple[int, int]) -> tuple[MethodInfo, ...]:
    """What one file brings, in one version: a method and its variants, something broken, or nothing."""
    stem = path.stem
    module = f"{__name__}.{stem}"
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        return (MethodInfo(stem, module, "", (f"does not parse: {error}",)),)
    wrong = tuple(contract.syntax_breaches(tree))
    if wrong:
        return (MethodInfo(stem, module, "", wrong),)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "distill" not in functions:
        return ()
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    loop, distance = "condense" in functions, "distance_to" in functions
    variants = {
        f"{stem}@{name}": f"{stem} with {changes or 'nothing changed'}"
        for name, changes in contract.variants(tree).items()
    }
    regime = cast(Regime, contract.text_of(tree, "REGIME") or contract.DEFAULTS["REGIME"])
    info = MethodInfo(
        stem,
        module,
        summary,
        loop=loop,
        distance=distance,
        regime=regime,
        protocol=contract.text_of(tree, "PROTOCOL"),
        uncounted=contract.text_of(tree, "UNCOUNTED"),
    )
    return tuple(
        dataclasses.replace(info, name=name, summary=about)
        for name, about in ({stem: summary} | variants).items()
    )


def _in_file(stem: str) -> dict[str, MethodInfo]:
    """What the file of that name brings, like `discover`, which looks at every file."""
    path = FOLDER / f"{stem}.py"
    if stem.startswith("_") or not stem.isidentifier() or not path.is_file():
        return {}
    return {info.name: info for info in _infos(path, _version(path))}


def find(name: str) -> MethodInfo:
    """The method, variant or composition of that name, without importing it; raises UserError if unknown."""
    base, _, variant = name.partition("@")
    known = _in_file(base)
    if name not in known:
        known = discover()
    if name in known:
        return known[name]
    if variant == SOFT and base in known:
        return _softened(known[base])
    loop, joined, distance = name.partition(JOIN)
    if not joined:
        soft = [f"{base}@{SOFT}"] if variant and base in known else []
        raise UnknownNameError("method", name, [*known, *soft])
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
    return MethodInfo(name, f"{__name__}.shared.composition", summary, parts=parts)


def _softened(base: MethodInfo) -> MethodInfo:
    """The set of a method with soft labels."""
    summary = f"the images of {base.name} with soft labels by a network stopped early"
    return MethodInfo(
        f"{base.name}@{SOFT}",
        f"{__name__}.shared.soft_labels",
        summary,
        breaches=base.breaches,
        parts=(base.module,),
        regime="stored",
        uncounted=base.uncounted,
    )


def composable(known: Iterable[MethodInfo]) -> tuple[list[str], list[str]]:
    """Names of the loops and of the distances (with their variants) from which "LOOP+DISTANCE" is made."""
    known = list(known)
    loops = [info.name for info in known if info.loop and "@" not in info.name]
    return loops, [info.name for info in known if info.distance]


def load(name: str) -> Method:
    """A method or variant, imported, or a composition, made; UserError if it is unknown or broken."""
    info = find(name)
    if info.breaches:
        raise ContractError(name, info.breaches)
    if not info.parts:
        return contract.complete(_checked(name, info.module))
    parts = [_checked(name, part) for part in info.parts]
    if len(parts) == 1:
        from methods.shared.soft_labels import soften

        return contract.complete(soften(name, *parts))
    from methods.shared.composition import compose

    composition = contract.complete(compose(name.partition("@")[0], *parts))
    variant = name.partition("@")[2]
    if variant and variant not in composition.VARIANTS:
        raise UserError(f"{name}: the variant changes more than the distance; compose without @{variant}")
    return composition


def _checked(name: str, module: str) -> ModuleType:
    """A method's module, which keeps the contract."""
    try:
        found = importlib.import_module(module)
        wrong = _breaches(found)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ContractError(name, (f"does not run: {text}",)) from error
    if wrong:
        raise ContractError(name, wrong)
    return found


@cache
def _breaches(module: ModuleType) -> tuple[str, ...]:
    return tuple(contract.breaches(module))


def resolve(
    name: str,
    dataset: str,
    ipc: int,
    scale: str = "paper",
    overrides: Mapping[str, Any] | None = None,
) -> Resolved:
    """Configuration of a method for a dataset and ipc: published settings, variant, scale, own overrides.

    Each overrides the ones before. `overrides` may hold strings as typed on a command line.
    """
    method = load(name)
    row, source = _published(name, method, dataset, ipc)
    values = {**row, **method.UNPUBLISHED.get(dataset, {})}
    variant = name.partition("@")[2]
    values |= method.VARIANTS[variant] if variant else {}
    scaled = {} if scale == "paper" else method.SCALED.get(scale)
    values |= scaled or {}
    values |= overrides or {}
    source = msgspec.structs.replace(
        source, scale=scale, shortened=scaled is not None, overrides=tuple(sorted(overrides or ()))
    )
    return Resolved(config_from(name, values), source)


def config_from(name: str, values: Mapping[str, Any]) -> Any:
    """The method's frozen Config with the given values, strings converted to each field's type.

    A tuple is a string with commas.

    UserError for a setting that there is none of or whose value does not fit, alone or beside the others.
    """
    return load(name).Config(**checked(name, values))


def checked(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """These settings of a method, each checked by itself, strings converted to each field's type."""
    config_type = load(name).Config
    fields = {field.name for field in dataclasses.fields(config_type)}
    hints = hints_of(config_type)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UnknownNameError(f"setting of {name}", key, fields)
        if isinstance(value, str) and value in NOTHING and NoneType in typing.get_args(hints[key]):
            value = None
        if isinstance(value, str) and typing.get_origin(hints[key]) is tuple:
            value = tuple(part for part in value.split(",") if part)
        try:
            found[key] = msgspec.convert(value, hints[key], strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            raise UserError(f"setting {name}.{key}={value!r} does not fit: {error}") from None
    return found


def _published(name: str, method: Method, dataset: str, ipc: int) -> tuple[Row, SettingsSource]:
    """Row of the nearest tabulated ipc not above the wanted one, of this dataset or else of "*"."""
    table = method.PAPER
    known = [key_ipc for key_dataset, key_ipc in table if key_dataset == dataset]
    tabulated = known or [key_ipc for key_dataset, key_ipc in table if key_dataset == "*"]
    if not tabulated:
        return {}, SettingsSource(kind="own")
    nearest = max((key_ipc for key_ipc in tabulated if key_ipc <= ipc), default=min(tabulated))
    if not known:
        return table["*", nearest], SettingsSource(kind="unpublished", dataset=dataset)
    owner = method.BORROWED.get((dataset, nearest), lender(name))
    kind: Kind = "borrowed_ipc" if nearest != ipc else "borrowed" if owner else "published"
    wanted = ipc if nearest != ipc else None
    source = SettingsSource(kind=kind, dataset=dataset, ipc=nearest, wanted_ipc=wanted, owner=owner)
    return table[dataset, nearest], source


def steps_of(name: str, values: Mapping[str, Any]) -> Steps:
    """What the loop of a method does by such settings; UserError if the method has no such settings."""
    return load(name).steps_of(config_from(name, values))


def lender(name: str) -> str:
    """The method whose table a composition or a variant has, "" for a method with a table of its own."""
    loop, joined, _ = name.partition(JOIN)
    base, _, variant = name.partition("@")
    if variant == SOFT:
        return "" if base == _LABELLED else f"{_LABELLED}@{SOFT}"
    return loop if joined else base if variant else ""
