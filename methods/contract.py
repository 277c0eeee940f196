"""The contract of a method's file, as a program reads it: its settings, its constants, and each breach.

`syntax_breaches` looks at a file without running it, `breaches` at what its statements make of themselves.
Each breach is one line for the author of the file. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from harness.core.settings import About, about_of, hints_of, lengths

# Scales at which no method can run as published; methods with loops say in SCALED how they are shortened.
SHORT_SCALES = ("cpu", "smoke")
ALL_SCALES = ("paper", *SHORT_SCALES)
OF_A_JOB = ("partition", "time", "gpus", "cpus", "mem")  # what RESOURCES may ask for

CONSTANTS = ("VARIANTS", "PAPER", "BORROWED", "UNPUBLISHED", "SCALED", "IGNORES_IPC", "RESOURCES")
NEAR = 0.8  # likeness at which a name is a known one misspelt
# Positional arguments of a file's functions; `distill` takes two more by name.
CALLS = {
    "distill": ("dataset", "ipc"),
    "condense": ("data", "ipc", "config", "context", "criterion", "method"),
    "distance_to": ("weights",),
}
BY_NAME = ("config", "context")


def syntax_breaches(tree: ast.Module) -> Iterator[str]:
    """What is wrong with a method's file by its syntax alone; nothing for a file that is no method."""
    bound = dict(_bound(tree))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "distill" not in functions:
        yield from _no_method(bound)
        return
    if "Config" not in bound:
        yield "has no Config, a frozen dataclass of its settings (an empty one if there are none)"
    for name in CALLS.keys() & functions.keys():
        yield from _wrong_call(functions[name])
    yield from _misspelt(tree)
    yield from _hidden_variants(tree)


def _bound(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Names that the statements of a module bind, but for those within compound statements."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        else:
            yield from ((name, node) for name, _ in _assigned(node))


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, getattr(node, "value", None)


def _no_method(bound: Mapping[str, ast.stmt]) -> Iterator[str]:
    if "distill" in bound:
        yield "binds distill otherwise than by `def distill(...)` in this file"
    elif "Config" in bound:
        functions = [name for name, node in bound.items() if isinstance(node, ast.FunctionDef)]
        for name in difflib.get_close_matches("distill", functions, 1, 0.85):
            yield f"defines {name}; a method is what defines distill"


def _wrong_call(function: ast.FunctionDef) -> Iterator[str]:
    arguments = function.args
    positional = tuple(part.arg for part in (*arguments.posonlyargs, *arguments.args))
    by_name = tuple(part.arg for part in arguments.kwonlyargs)
    wanted = CALLS[function.name]
    if function.name == "distill":
        optional = by_name == BY_NAME and None not in arguments.kw_defaults and not arguments.defaults
        fits = positional == wanted and optional and not (arguments.vararg or arguments.kwarg)
        expected = "dataset, ipc, *, config=None, context=None"
    else:
        # Arguments of one's own are welcome where they have defaults.
        needed = positional[: len(positional) - len(arguments.defaults)]
        fits = len(needed) <= len(wanted) <= len(positional) and None not in arguments.kw_defaults
        expected = ", ".join(wanted)
    if not fits:
        yield f"defines {function.name}({ast.unparse(arguments)}); expected {function.name}({expected})"


def _misspelt(tree: ast.Module) -> Iterator[str]:
    """Names near a known constant that hold what it would hold."""
    for node in tree.body:
        for name, value in _assigned(node):
            if name in CONSTANTS or name.startswith("_") or value is None:
                continue
            for known in difflib.get_close_matches(name.upper(), CONSTANTS, 1, NEAR):
                if isinstance(value, ast.Constant) == (known == "IGNORES_IPC"):
                    yield f"sets {name}, which nothing reads; did you mean {known}?"


def _hidden_variants(tree: ast.Module) -> Iterator[str]:
    """Variants are listed by syntax: their names must be there to be read."""
    found = [(node, value) for node in tree.body for name, value in _assigned(node) if name == "VARIANTS"]
    literal = 'expected one literal, VARIANTS = {"name": {...}}, whose names can be read without running it'
    if len(found) > 1 or any(isinstance(node, ast.AugAssign) for node, _ in found):
        yield f"sets VARIANTS more than once; {literal}"
    for _, value in found[:1]:
        if not isinstance(value, ast.Dict) or not all(
            isinstance(key, ast.Constant) and isinstance(key.value, str) for key in value.keys
        ):
            yield f"has VARIANTS that are computed; {literal}"


def variants(tree: ast.Module) -> dict[str, str]:
    """Names of a file's variants, with what each changes as it is written there: `clip_weight = 0.2`."""
    found: dict[str, str] = {}
    for node in tree.body:
        for name, value in _assigned(node):
            if name == "VARIANTS" and isinstance(value, ast.Dict):
                found |= {
                    str(key.value): _as_written(row)
                    for key, row in zip(value.keys, value.values, strict=True)
                    if isinstance(key, ast.Constant)
                }
    return found


def _as_written(row: ast.expr) -> str:
    if not isinstance(row, ast.Dict):
        return ast.unparse(row)
    parts = zip(row.keys, row.values, strict=True)
    return ", ".join(f"{_key(key)} = {ast.unparse(value)}" for key, value in parts)


def _key(key: ast.expr | None) -> str:
    return str(key.value) if isinstance(key, ast.Constant) else ast.unparse(key) if key else "**"


def breaches(module: Any) -> list[str]:
    """What is wrong with the settings and constants of a method's module or of a stand-in for it."""
    config_type = getattr(module, "Config", None)
    wrong = list(_config_breaches(config_type))
    if wrong:  # rows cannot be held against it
        return wrong
    return [
        *_setting_breaches(cast(type, config_type)),
        *_table_breaches(module),
        *_scale_breaches(module),
        *_resource_breaches(module),
    ]


def _config_breaches(config_type: Any) -> Iterator[str]:
    if not isinstance(config_type, type) or not dataclasses.is_dataclass(config_type):
        yield "has a Config that is no dataclass; expected @dataclass(frozen=True) class Config"
        return
    if not cast(Any, config_type).__dataclass_params__.frozen:
        yield "has a Config that can be changed; expected @dataclass(frozen=True)"
    for field in dataclasses.fields(config_type):
        if field.default is dataclasses.MISSING:
            yield f"has a setting without a default, {field.name}"
    try:
        hints_of(config_type)
    except Exception as error:  # noqa: BLE001 - annotations are any code
        yield f"has a Config whose types cannot be read ({error})"


def _setting_breaches(config_type: type) -> Iterator[str]:
    hints = hints_of(config_type)
    for field in dataclasses.fields(config_type):
        about, name = about_of(field), field.name
        if not about.meaning.strip():
            yield f"does not say what the setting {name} means; expected {name}: ... = setting(default, ...)"
        yield from _misfit(name, field.default, hints[name], "the default of")
        for inherited in _inherited(config_type, name):
            if (inherited.length, inherited.added) != (about.length, about.added):
                yield f"overrides the setting {name} with other flags; repeat its length= and added="


def _inherited(config_type: type, name: str) -> Iterator[About]:
    """What the bases of a Config say of a setting."""
    for base in config_type.__mro__[1:]:
        field = getattr(base, "__dataclass_fields__", {}).get(name)
        # A setting of some other base's own is overridden by a default in its place.
        if field is not None and field.default is not dataclasses.MISSING:
            yield about_of(field)


def _misfit(name: str, value: Any, hint: Any, where: str) -> Iterator[str]:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        yield f"has {where} {name} that does not fit, {value!r}: {error}"


def _table_breaches(module: Any) -> Iterator[str]:
    """Wrong keys, settings and values in the tables of settings."""
    paper = getattr(module, "PAPER", {})
    cell = 'keys are (dataset or "*", ipc)'
    yield from _rows(module, "PAPER", _is_cell, cell)
    yield from _rows(module, "VARIANTS", _is_variant, "keys are names of letters, digits, - and _")
    yield from _rows(module, "UNPUBLISHED", lambda key: isinstance(key, str), "keys are datasets")
    yield from _rows(module, "SCALED", SHORT_SCALES.__contains__, f"keys are {', '.join(SHORT_SCALES)}")
    if not isinstance(getattr(module, "IGNORES_IPC", False), bool):
        yield "has an IGNORES_IPC that is neither True nor False"
    borrowed = getattr(module, "BORROWED", {})
    if not isinstance(borrowed, Mapping) or not isinstance(paper, Mapping):
        yield "has a BORROWED that is no dict of PAPER's keys"
        return
    for key, owner in borrowed.items():
        if key not in paper or not isinstance(owner, str):
            yield f"has BORROWED[{key!r}] = {owner!r}; expected a key of PAPER and whose row it is"


def _is_cell(key: Any) -> bool:
    match key:
        case (str(), int() as ipc):
            return ipc >= 1
    return False


def _is_variant(key: Any) -> bool:
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]+", key) is not None


def _rows(module: Any, constant: str, is_key: Any, keys: str) -> Iterator[str]:
    """Breaches of one table whose rows hold settings."""
    table = getattr(module, constant, {})
    if not isinstance(table, Mapping):
        yield f"has {constant} = {table!r}; expected a dict whose {keys}"
        return
    hints = hints_of(module.Config)
    for key, row in table.items():
        where = f"{constant}[{key!r}]"
        if not is_key(key):
            yield f"has {where}, but its {keys}"
        if not isinstance(row, Mapping):
            yield f"has {where} = {row!r}; expected a dict of settings"
            continue
        for name, value in row.items():
            if name not in hints:
                near = difflib.get_close_matches(str(name), hints, 1, 0.5)
                yield f"sets {name!r} in {where}, which is no setting" + "".join(
                    f"; did you mean {n!r}?" for n in near
                )
            else:
                yield from _misfit(name, value, hints[name], f"in {where} a value of")


def _scale_breaches(module: Any) -> Iterator[str]:
    """A loop that is as long as the paper's at the scales that are to take minutes and seconds."""
    named, scaled = lengths(module.Config), getattr(module, "SCALED", {})
    if not named or not isinstance(scaled, Mapping):
        return
    for scale in SHORT_SCALES:
        row = scaled.get(scale, {})
        if isinstance(row, Mapping) and not set(named) & set(row):
            yield f"is as long as the paper's at {scale} scale; set {' or '.join(named)} in SCALED[{scale!r}]"


def _resource_breaches(module: Any) -> Iterator[str]:
    resources = getattr(module, "RESOURCES", {})
    if not isinstance(resources, Mapping):
        yield f"has RESOURCES = {resources!r}; expected a dict by scale"
        return
    for scale, asked in resources.items():
        where = f"RESOURCES[{scale!r}]"
        if scale not in ALL_SCALES:
            yield f"has {where}, but scales are {', '.join(ALL_SCALES)}"
        if not isinstance(asked, Mapping):
            yield f"has {where} = {asked!r}; expected a dict of {', '.join(OF_A_JOB)}"
            continue
        for name, value in asked.items():
            if name not in OF_A_JOB or not isinstance(value, (str, int)):
                yield f"asks for {name!r}: {value!r} in {where}; expected text or a number for one of " + (
                    ", ".join(OF_A_JOB)
                )
