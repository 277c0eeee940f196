"""The contract of a method's file: what it defines (`Method`), and each way in which a file breaks it.

`syntax_breaches` looks at a file without running it, `breaches` at what its statements make of themselves.
Each breach is one line for the author of the file. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from harness.core.regime import REGIMES, Regime
from harness.core.settings import About, Steps, about_of, hints_of, lengths, steps_by_length

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import Dataset
    from harness.core.distilled import Distilled

Row = Mapping[str, Any]  # settings by name, those that differ from the Config's defaults


class Method(Protocol):
    """A method's module: `Config` and `distill` it must have, the rest has `DEFAULTS` if the file is silent.

    Upper-case names of a file are those of this class; a constant of its own begins with an underscore, so
    that none of these can be misspelt unnoticed.

    UNCOUNTED is not among them, since no code asks a module for it: `MethodInfo` reads what a file says its
    steps take that FLOPs leave out, which are those of products of matrices and of convolutions alone. Where
    it is "kernels of pairs of images", say, FLOPs are told as unknown and no budget of them is given.
    """

    Config: type
    """Its settings: a frozen dataclass whose every field is `setting(default, meaning)`; empty without any.

    `length=True` marks what the length of the loop is proportional to, which a budget replaces. A setting
    `zca` says whether images are whitened, as `--zca` does.
    """

    VARIANTS: Mapping[str, Row]
    """Named variants, `{"paper": {...}}` for `--methods dm@paper`; one literal, read without running it."""

    PAPER: Mapping[tuple[str, int], Row]
    """Published settings by dataset and ipc, `{("cifar10", 10): {...}}`; "*" stands for other datasets."""

    BORROWED: Mapping[tuple[str, int], str]
    """Rows of PAPER that are published for another method only: `{("cifar10", 10): "mtt"}`."""

    UNPUBLISHED: Mapping[str, Row]
    """What the row "*" of PAPER needs changed for a dataset that nothing is published for."""

    SCALED: Mapping[str, Row]
    """Shortened settings for the scales other than "paper", `{"cpu": {...}}`; loops must have them."""

    IGNORES_IPC: bool
    """Whether it makes one set, however many images a class is to have: then it runs once, at ipc 1."""

    REGIME: Regime
    """What its sets call for: "hard" labels, soft labels "stored" with them, or a "teacher" that is asked.

    It decides the protocol that is asked where none is named; any set can be asked under hard labels and with
    a teacher.
    """

    PROTOCOL: str
    """The protocol that its sets are asked under where none is named, in the scale's short form if there is
    one; "": the regime's. For sets that the regime's protocol cannot ask, such as those whose labels are any
    numbers, and those whose authors train otherwise. Like REGIME it is read without running the file.
    """

    def steps_of(self, config: Any, /) -> Steps:
        """How many steps the loop makes by these settings, and what the harness is to cost them by."""

    def distill(
        self, dataset: str | Dataset, ipc: int, *, config: Any = None, context: Context | None = None
    ) -> Distilled:
        """Distil `ipc` images per class; without `config`, by the settings of `methods.resolve`."""


DEFAULTS: Mapping[str, Any] = {
    "VARIANTS": {},
    "PAPER": {},
    "BORROWED": {},
    "UNPUBLISHED": {},
    "SCALED": {},
    "IGNORES_IPC": False,
    "REGIME": "hard",
    "PROTOCOL": "",
    "steps_of": steps_by_length,
}
CONSTANTS = (*filter(str.isupper, DEFAULTS), "UNCOUNTED")
TEXTS = ("REGIME", "PROTOCOL", "UNCOUNTED")
PLAIN = ("IGNORES_IPC", *TEXTS)  # those that are no tables

# Scales at which no method can run as published; methods with loops say in SCALED how they are shortened.
SHORT_SCALES = ("cpu", "smoke")
NEAR = 0.8  # likeness at which a name is a known one misspelt
NEAR_FUNCTION = 0.85
# Positional arguments of a file's functions; `distill` takes two more by name.
CALLS = {
    "distill": ("dataset", "ipc"),
    "steps_of": ("config",),
    "condense": ("data", "ipc", "config", "context", "criterion", "method"),
    "distance_to": ("weights",),
}
BY_NAME = ("config", "context")


def complete(module: Any) -> Method:
    """What a method's module defines, and the defaults of what it leaves out."""
    return cast(Method, SimpleNamespace(**{**DEFAULTS, **vars(module)}))


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
    yield from _misspelt_functions(functions)
    yield from _unknown_names(tree)
    yield from _hidden_variants(tree)
    yield from _hidden_texts(tree)


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
    for part in (part for target in targets if target is not None for part in ast.walk(target)):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, getattr(node, "value", None)


def _given(tree: ast.Module, *names: str) -> Iterator[tuple[str, ast.stmt, ast.expr | None]]:
    """The statements of a module that assign to one of these names, and what they assign."""
    for node in tree.body:
        yield from ((name, node, value) for name, value in _assigned(node) if name in names)


def _no_method(bound: Mapping[str, ast.stmt]) -> Iterator[str]:
    if "distill" in bound:
        yield "binds distill otherwise than by `def distill(...)` in this file"
    elif "Config" in bound:
        functions = [name for name, node in bound.items() if isinstance(node, ast.FunctionDef)]
        for name in difflib.get_close_matches("distill", functions, 1, NEAR_FUNCTION):
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


def _misspelt_functions(functions: Iterable[str]) -> Iterator[str]:
    for name in sorted(set(functions) - set(CALLS)):
        for known in difflib.get_close_matches(name, CALLS, 1, NEAR_FUNCTION):
            yield f"defines {name}, which nothing calls; did you mean {known}?"


def _unknown_names(tree: ast.Module) -> Iterator[str]:
    """Names that the contract does not know though they look like its own."""
    for node in tree.body:
        for name, value in _assigned(node):
            if name not in CONSTANTS and not name.startswith("_") and value is not None:
                yield from _unknown_name(name, value)


def _unknown_name(name: str, value: ast.expr) -> Iterator[str]:
    """A name near a known one that holds what that would hold, in any case, or else one in upper case."""
    near = difflib.get_close_matches(name.upper(), CONSTANTS, 1, NEAR)
    if near and isinstance(value, ast.Constant) == (near[0] in PLAIN):
        yield f"sets {name}, which nothing reads; did you mean {near[0]}?"
    elif name.isupper():
        yield f"sets {name}, which is none of {', '.join(CONSTANTS)}; call a constant of your own _{name}"


def _hidden_variants(tree: ast.Module) -> Iterator[str]:
    """Variants are listed by syntax: their names must be there to be read."""
    found = [(node, value) for _, node, value in _given(tree, "VARIANTS")]
    literal = 'expected one literal, VARIANTS = {"name": {...}}, whose names can be read without running it'
    if len(found) > 1 or any(isinstance(node, ast.AugAssign) for node, _ in found):
        yield f"sets VARIANTS more than once; {literal}"
    for _, value in found[:1]:
        if not isinstance(value, ast.Dict) or not all(
            isinstance(key, ast.Constant) and isinstance(key.value, str) for key in value.keys
        ):
            yield f"has VARIANTS that are computed; {literal}"


def _hidden_texts(tree: ast.Module) -> Iterator[str]:
    """What sets call for is read by syntax as well."""
    for name, _, value in _given(tree, *TEXTS):
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            yield f'has a {name} that cannot be read without running it; expected {name} = "..."'


def text_of(tree: ast.Module, constant: str) -> str:
    """The text that a file gives a constant, as it is written there; empty if it gives none."""
    texts = [str(value.value) for *_, value in _given(tree, constant) if isinstance(value, ast.Constant)]
    return texts[0] if texts else ""


def variants(tree: ast.Module) -> dict[str, str]:
    """Names of a file's variants, with what each changes as it is written there: `clip_weight = 0.2`."""
    found: dict[str, str] = {}
    for *_, value in _given(tree, "VARIANTS"):
        if isinstance(value, ast.Dict):
            rows = zip(value.keys, value.values, strict=True)
            found |= {str(key.value): _as_written(row) for key, row in rows if isinstance(key, ast.Constant)}
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
    method = complete(module)
    return [
        *_setting_breaches(method.Config),
        *_table_breaches(method),
        *_scale_breaches(method),
        *_steps_breaches(method),
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


def _table_breaches(method: Method) -> Iterator[str]:
    """Wrong keys, settings and values in the tables of settings."""
    cell = 'keys are (dataset or "*", ipc)'
    yield from _rows(method, "PAPER", _is_cell, cell)
    yield from _rows(method, "VARIANTS", _is_variant, "keys are names of letters, digits, - and _")
    yield from _rows(method, "UNPUBLISHED", lambda key: isinstance(key, str), "keys are datasets")
    yield from _rows(method, "SCALED", SHORT_SCALES.__contains__, f"keys are {', '.join(SHORT_SCALES)}")
    if not isinstance(cast(Any, method.IGNORES_IPC), bool):
        yield "has an IGNORES_IPC that is neither True nor False"
    if cast(Any, method.REGIME) not in REGIMES:
        yield f"has REGIME = {method.REGIME!r}; expected one of {', '.join(REGIMES)}"
    if not isinstance(cast(Any, method.PROTOCOL), str):
        yield f"has PROTOCOL = {method.PROTOCOL!r}; expected the name of a protocol"
    paper, borrowed = cast("tuple[Any, Any]", (method.PAPER, method.BORROWED))
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


def _rows(method: Method, constant: str, is_key: Any, keys: str) -> Iterator[str]:
    """Breaches of one table whose rows hold settings."""
    table = getattr(method, constant)
    if not isinstance(table, Mapping):
        yield f"has {constant} = {table!r}; expected a dict whose {keys}"
        return
    hints = hints_of(method.Config)
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


def _scale_breaches(method: Method) -> Iterator[str]:
    """A loop that is as long as the paper's at the scales that are to take minutes and seconds."""
    named, scaled = lengths(method.Config), cast(Any, method.SCALED)
    if not named or not isinstance(scaled, Mapping):
        return
    for scale in SHORT_SCALES:
        row = scaled.get(scale, {})
        if isinstance(row, Mapping) and not set(named) & set(row):
            yield f"is as long as the paper's at {scale} scale; set {' or '.join(named)} in SCALED[{scale!r}]"


def _steps_breaches(method: Method) -> Iterator[str]:
    """A `steps_of` that does not understand the method's own settings."""
    try:
        steps = cast(Any, method.steps_of(method.Config()))
    except Exception as error:  # noqa: BLE001 - it is any code
        yield f"has a steps_of that fails with the default settings ({type(error).__name__}: {error})"
        return
    if not isinstance(steps, Steps):
        yield f"has a steps_of that returns {steps!r}; expected Steps(...)"
