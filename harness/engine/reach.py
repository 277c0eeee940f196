"""What code a trial reaches: a walk over syntax trees from where it begins, and a digest of what that finds.

Counted are functions, methods, classes and module-level values, not files: a name is followed through
imports to what it stands for. Of a class that is reached, a method counts if its name is used anywhere in the
code that is reached; all do where the class has a foreign base, which may call what it likes. Comments,
docstrings, layout, annotations of functions and the words of the harness's own errors count for nothing, nor
does in which file a piece lies. Where a name cannot be followed, all that it may stand for counts.

Nothing is imported and nothing is run, so that the code of another commit is read like that of this one.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BEFORE_MEANING = {"setting": 1, "required": 0}  # arguments before the sentence of a setting
NAMED = (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
IMPORTING = "<import>"  # name of what a module does when it is imported
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NESTING = (*FUNCTIONS, ast.Lambda, ast.ClassDef, *COMPREHENSIONS)
ERRORS = "errors"  # last part of the name of the module that holds the harness's own exceptions
# A name in the package of any piece that uses these may be meant.
OPEN_ENDED = {"importlib.import_module", "__import__", "eval", "exec", "globals"}
# Bases that call no method of a class but those with a name in double underscores.
QUIET_BASES = {
    *("object", "Exception", "BaseException", "ValueError", "RuntimeError", "str", "int"),
    *("typing.NamedTuple", "typing.Protocol", "typing.Generic", "msgspec.Struct", "enum.Enum"),
}

Dotted: TypeAlias = tuple[str, ...]


class Import(NamedTuple):
    """`from module import name`, or `import module` where `name` is empty; `level` counts leading dots."""

    module: str
    name: str
    level: int


@dataclass(frozen=True, eq=False)
class Piece:
    """Syntax that counts as a whole: a statement, a method, or a class without its methods.

    digest: of its words. names: dotted names that are not its own. attributes: names after a dot, and texts
    that may be one. imports: names that it imports for itself. guesses: it looks attributes up by a name that
    is not written there.
    """

    digest: str
    names: tuple[Dotted, ...]
    attributes: frozenset[str]
    imports: Mapping[str, tuple[Import, ...]]
    guesses: bool


@dataclass(eq=False)
class Definition:
    """What a module binds to a name, by one statement or several; `errors` are names of own exceptions."""

    errors: frozenset[str]
    nodes: list[ast.stmt] = field(default_factory=list)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All of it but the methods of a class."""
        return tuple(_piece(node, self.errors) for node in self.nodes)

    @cached_property
    def methods(self) -> Mapping[str, tuple[Piece, ...]]:
        """Methods by name; a property and its setter share one."""
        found: dict[str, tuple[Piece, ...]] = {}
        for node in self.nodes:
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, FUNCTIONS):
                    found[part.name] = (*found.get(part.name, ()), _piece(part, self.errors))
        return found

    @property
    def bases(self) -> Iterator[Dotted]:
        """Dotted names of the bases of a class; nothing for one that is no name."""
        for node in self.nodes:
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                yield _dotted(base.value if isinstance(base, ast.Subscript) else base)

    def changed(self, change: Callable[[ast.stmt], ast.stmt]) -> Definition:
        """The same with each statement changed."""
        return Definition(self.errors, [change(node) for node in self.nodes])


@dataclass(eq=False)
class Module:
    """What a source binds: definitions and imports by name, and what it does besides when it is imported.

    needs: modules that it imports when it is imported itself, unlike those for the sake of types.
    """

    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, tuple[Import, ...]] = field(default_factory=dict)
    stars: list[Import] = field(default_factory=list)
    needs: list[Import] = field(default_factory=list)
    effects: Definition = field(default_factory=lambda: Definition(frozenset()))


@dataclass(frozen=True)
class Start:
    """Where a walk begins and what it leaves out.

    entries: dotted names of what is called. fields: classes of whose fields the values are known otherwise.
    closed: names and modules that are not looked into. registries: tables of which only the rows count whose
    keys are among `keys`.
    """

    entries: tuple[str, ...]
    fields: tuple[str, ...] = ()
    closed: frozenset[str] = frozenset()
    registries: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()


class Target:
    """What a name stands for: a definition of a module, a whole module (`name` is empty), or foreign code.

    There is one object for each, see `Sources.target`.
    """

    __slots__ = ("foreign", "module", "name", "path")

    def __init__(self, module: str, name: str, foreign: bool) -> None:
        self.module = module
        self.name = name
        self.foreign = foreign
        self.path = ".".join(filter(None, (module, name)))


class Links(NamedTuple):
    """What the names of a piece stand for.

    words: its own, and what is foreign. ours: all else that the names stand for, with repetitions.
    """

    words: str
    ours: Sequence[Target]


class Sources:
    """The modules of a tree of sources.

    `read` gives the bytes of a file by its path, or None; `list_package` the stems of a folder's modules.
    `parsed` is shared by trees whose sources are alike.
    """

    def __init__(
        self,
        read: Callable[[str], bytes | None],
        list_package: Callable[[str], Iterable[str]],
        parsed: dict[bytes, Module] | None = None,
    ) -> None:
        self._read = read
        self._list = list_package
        self._parsed: dict[bytes, Module] = {} if parsed is None else parsed
        self._modules: dict[str, Module | None] = {}
        self._packages: set[str] = set()
        self._targets: dict[tuple[str, str, bool], Target] = {}
        self._links: dict[tuple[str, Piece], Links] = {}
        self._narrowed: dict[tuple[Target, frozenset[str]], Definition] = {}

    def module(self, name: str) -> Module | None:
        """A module by its dotted name; None if it is not of this tree."""
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def target(self, module: str, name: str = "", *, foreign: bool = False) -> Target:
        """The one target of that name."""
        key = module, name, foreign
        if key not in self._targets:
            self._targets[key] = Target(*key)
        return self._targets[key]

    def _parse(self, name: str) -> Module | None:
        path = name.replace(".", "/")
        source = self._read(f"{path}.py")
        if source is None:
            source = self._read(f"{path}/__init__.py")
            if source is None:
                return None
            self._packages.add(name)
        if source not in self._parsed:
            self._parsed[source] = _parsed(source)
        return self._parsed[source]

    def package(self, module: str) -> str:
        """The package that a module is or lies in."""
        self.module(module)
        return module if module in self._packages else module.rpartition(".")[0]

    def members(self, package: str) -> list[str]:
        """Modules of a package, itself included."""
        stems = sorted(self._list(package.replace(".", "/")))
        return [package, *(f"{package}.{stem}" for stem in stems if stem != "__init__")]

    def targets(self, module: str, dotted: Dotted, own: Mapping[str, tuple[Import, ...]]) -> list[Target]:
        """All that a dotted name in a module may stand for; `own` are imports of the piece that it is in."""
        head, *rest = dotted
        found = [target for one in own.get(head, ()) for target in self._followed(module, one)]
        return [end for target in found or self._bound(module, head) for end in self._attribute(target, rest)]

    def _attribute(self, target: Target, rest: list[str]) -> list[Target]:
        if target.foreign:
            return [self.target(target.path, ".".join(rest), foreign=True)]
        if not rest or target.name:
            return [target]
        found = self._bound(target.module, rest[0])
        return [end for one in found for end in self._attribute(one, rest[1:])] or [target]

    def _bound(self, module: str, name: str) -> list[Target]:
        """What a name at the top of a module stands for; nothing for a builtin."""
        parsed = self.module(module)
        if parsed is None:
            return []
        found = [self.target(module, name)] if name in parsed.definitions else []
        for one in parsed.imports.get(name, ()):
            found += self._followed(module, one)
        if not found and self.module(f"{module}.{name}") is not None:
            found = [self.target(f"{module}.{name}")]
        if not found:
            places = [self._absolute(module, star) for star in parsed.stars]
            found = [target for place in places for target in self._bound(place, name)]
        if not found and "__getattr__" in parsed.definitions:
            found = [self.target(member) for member in self.members(self.package(module))]
        return found

    def _followed(self, module: str, one: Import) -> list[Target]:
        place = self._absolute(module, one)
        if self.module(place) is None:
            return [self.target(place, one.name, foreign=True)]
        if not one.name:
            return [self.target(place)]
        if place == module and self.module(f"{place}.{one.name}") is not None:
            return [self.target(f"{place}.{one.name}")]
        return self._bound(place, one.name) or [self.target(place)]

    def _absolute(self, module: str, one: Import) -> str:
        if not one.level:
            return one.module
        base = self.package(module)
        for _ in range(one.level - 1):
            base = base.rpartition(".")[0]
        return f"{base}.{one.module}" if one.module else base

    def links(self, module: str, piece: Piece) -> Links:
        """What the names of a piece of that module stand for."""
        key = module, piece
        if key not in self._links:
            found = [(".".join(name), self.targets(module, name, piece.imports)) for name in piece.names]
            words = (f"{name}={','.join(end.path for end in ends if end.foreign)}" for name, ends in found)
            meant = {path for name, ends in found for path in ([end.path for end in ends] or [name])}
            opens = not OPEN_ENDED.isdisjoint(meant)
            anything = self.members(self.package(module)) if opens else []
            ours = [end for _, ends in found for end in ends if not end.foreign]
            ours += map(self.target, anything)
            self._links[key] = Links("\n".join((piece.digest, *words)), ours)
        return self._links[key]

    def narrowed(self, target: Target, start: Start) -> Definition:
        """What a target of this tree is, less what does not count."""
        definition = self._modules[target.module].definitions[target.name]  # type: ignore[union-attr]
        if target.path not in start.registries:
            return definition
        key = target, start.keys
        if key not in self._narrowed:
            self._narrowed[key] = definition.changed(lambda node: _own_rows(node, start.keys))
        return self._narrowed[key]

    def needed(self, module: str) -> Iterator[str]:
        """Modules that importing one imports: the packages that it lies in, and those of its statements."""
        parts = module.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts)))
        parsed = self.module(module)
        for one in parsed.needs if parsed else ():
            place = self._absolute(module, one)
            yield place
            if one.name:
                yield f"{place}.{one.name}"

    def digest(self, start: Start) -> str | None:
        """Twelve hex digits of all that is reached; None where one of the entries does not exist."""
        entries = [self._entry(path) for path in start.entries]
        if None in entries:
            return None
        return _Walk(self, start).digest([entry for entry in entries if entry is not None])

    def inside(self, module: str) -> list[Target]:
        """All that a module defines."""
        parsed = self.module(module)
        return [self.target(module, name) for name in parsed.definitions] if parsed else []

    def has(self, path: str) -> bool:
        """Whether a dotted name is defined."""
        return self._entry(path) is not None

    def _entry(self, path: str) -> Target | None:
        module, _, name = path.rpartition(".")
        parsed = self.module(module)
        return self.target(module, name) if parsed is not None and name in parsed.definitions else None


class _Walk:
    """One walk; what is reached grows until nothing more is found."""

    def __init__(self, sources: Sources, start: Start) -> None:
        self._sources = sources
        self._start = start
        self._fields = set(start.fields)
        self._definitions: dict[Target, Definition] = {}
        self._taken: dict[Target, dict[str, tuple[Piece, ...]]] = {}  # methods that count
        self._whole: set[Target] = set()
        self._entered: dict[str, None] = {}
        self._attributes: set[str] = set()
        self._guessing: set[str] = set()  # modules

    def digest(self, entries: list[Target]) -> str:
        """Digest of all that is reached from a start; see `Sources.digest`."""
        waiting, growing = list(entries), True
        while growing:
            while waiting:
                waiting += self._reach(waiting.pop())
            before = sum(map(len, self._taken.values()))
            waiting = [found for target in list(self._taken) for found in self._take_methods(target)]
            growing = bool(waiting) or sum(map(len, self._taken.values())) > before
        return self._summed(entries)

    def _reach(self, target: Target) -> Iterator[Target]:
        """Take a target in; gives what it refers to."""
        if target in self._definitions or target.foreign or self._is_closed(target):
            return
        parsed = self._sources.module(target.module)
        if parsed is None:
            return
        if target.module not in self._entered:
            yield from self._enter(target.module)
        if not target.name:
            self._definitions[target] = Definition(frozenset())
            yield from self._sources.inside(target.module)
            return
        definition = self._counted(target)
        self._definitions[target] = definition
        for piece in definition.pieces:
            yield from self._refers(target, piece)
        if definition.methods:
            self._taken[target] = {}
            if not self._is_quiet(target, definition):
                self._whole.add(target)

    def _enter(self, module: str) -> Iterator[Target]:
        """Take in what importing a module does, and so with all modules that it imports."""
        waiting = [module]
        while waiting:
            name = waiting.pop()
            parsed = self._sources.module(name)
            if name in self._entered or parsed is None or name in self._start.closed:
                continue
            self._entered[name] = None
            waiting += self._sources.needed(name)
            effects = self._sources.target(name, IMPORTING)
            if parsed.effects.nodes:
                self._definitions[effects] = parsed.effects
            for piece in parsed.effects.pieces:
                yield from self._refers(effects, piece)

    def _counted(self, target: Target) -> Definition:
        """What of a definition counts."""
        definition = self._sources.narrowed(target, self._start)
        if target.path in self._fields:
            self._fields |= {base.path for dotted in definition.bases for base in self._base(target, dotted)}
            return definition.changed(_without_values)
        return definition

    def _refers(self, target: Target, piece: Piece) -> Sequence[Target]:
        """Note what a piece uses; gives what its names stand for."""
        self._attributes |= piece.attributes
        if piece.guesses:
            self._guessing.add(target.module)
        return self._sources.links(target.module, piece).ours

    def _take_methods(self, target: Target) -> list[Target]:
        """Methods of a reached class that have come to count since it was last asked."""
        taken, found = self._taken[target], list[Target]()
        whole = target in self._whole or target.module in self._guessing
        for name, pieces in self._definitions[target].methods.items():
            if name not in taken and (whole or _is_special(name) or name in self._attributes):
                taken[name] = pieces
                found += [end for piece in pieces for end in self._refers(target, piece)]
        return found

    def _is_closed(self, target: Target) -> bool:
        return target.module in self._start.closed or target.path in self._start.closed

    def _is_quiet(self, target: Target, definition: Definition) -> bool:
        """Whether no base of a class is foreign, but for those that call nothing by its name."""
        for dotted in definition.bases:
            for base in self._base(target, dotted):
                parsed = self._sources.module(base.module)
                known = None if base.foreign or parsed is None else parsed.definitions.get(base.name)
                if base.path not in QUIET_BASES and (known is None or not self._is_quiet(base, known)):
                    return False
        return True

    def _base(self, target: Target, dotted: Dotted) -> list[Target]:
        """What the name of a base stands for; a builtin, or what is no name, is foreign."""
        found = self._sources.targets(target.module, dotted, {}) if dotted else []
        return found or [self._sources.target("", ".".join(dotted), foreign=True)]

    def _summed(self, entries: Sequence[Target]) -> str:
        """Digest of the pieces, each with what its names stand for: by number, not by place."""
        order: dict[Target, int] = {}
        lines: list[str] = []
        effects = [target for target in self._definitions if target.name == IMPORTING]
        effects.sort(key=lambda target: [piece.digest for piece in self._definitions[target].pieces])
        for beginning in (entries, effects):
            waiting = [target for target in beginning if target not in order]
            order.update((target, number) for number, target in enumerate(waiting, start=len(order)))
            for target in waiting:
                for words, ends in self._described(target):
                    for end in ends:
                        if end not in order and end in self._definitions:
                            order[end] = len(order)
                            waiting.append(end)
                    lines.append(f"{words}\n{[order.get(end) for end in ends]}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def _described(self, target: Target) -> Iterator[tuple[str, Sequence[Target]]]:
        """The words of a target's pieces, each with what its names stand for."""
        if not target.name:
            yield "", self._sources.inside(target.module)
            return
        taken = self._taken.get(target, {})
        pieces = (*self._definitions[target].pieces, *(one for name in sorted(taken) for one in taken[name]))
        for piece in pieces:
            links = self._sources.links(target.module, piece)
            yield links.words, links.ours


class _Reader:
    """Reads one piece: its words, and the names in it that are not its own."""

    def __init__(self, errors: frozenset[str]) -> None:
        self._errors = errors
        self._words: list[str] = []
        self._names: set[Dotted] = set()
        self._attributes: set[str] = set()
        self._imports: dict[str, tuple[Import, ...]] = {}
        self._guesses = False

    def piece(self, node: ast.stmt) -> Piece:
        """The piece that a statement is; a class is read without its methods."""
        if isinstance(node, ast.ClassDef):
            self._class(node)
        else:
            self._read(node, frozenset())
        digest = hashlib.sha256("\0".join(self._words).encode()).hexdigest()[:24]
        names = tuple(sorted(self._names))
        return Piece(digest, names, frozenset(self._attributes), self._imports, self._guesses)

    def _class(self, node: ast.ClassDef) -> None:
        self._words += ["ClassDef", node.name]
        rest = [part for part in node.body if not isinstance(part, FUNCTIONS)]
        for part in (*node.decorator_list, *node.bases, *node.keywords, *rest):
            self._read(part, frozenset())
            if isinstance(part, ast.AnnAssign):
                self._read(part.annotation, frozenset())  # which makes a field

    def _read(self, part: object, local: frozenset[str]) -> None:
        if isinstance(part, list):
            self._words.append("[")
            for item in part:
                self._read(item, local)
            self._words.append("]")
        elif isinstance(part, ast.AST):
            special = READERS.get(type(part))
            if special is not None:
                special(self, part, local)
            elif not isinstance(part, ast.expr_context):
                self._fields(part, local)
        else:
            self._words.append(repr(part))

    def _fields(self, node: ast.AST, local: frozenset[str], without: Sequence[str] = ()) -> None:
        """Not by `ast.dump`: later versions of Python add optional fields to their nodes."""
        self._words.append(type(node).__name__)
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in without:
                self._words.append(name)
                self._read(value, local)

    def _name(self, node: ast.Name, local: frozenset[str]) -> None:
        self._words += ["Name", node.id]
        if isinstance(node.ctx, ast.Load) and node.id not in local:
            self._names.add((node.id,))

    def _attribute(self, node: ast.Attribute, local: frozenset[str]) -> None:
        self._attributes.add(node.attr)
        dotted = _dotted(node)
        self._words += ["Attribute", node.attr]
        if not dotted or dotted[0] in local:
            self._read(node.value, local)
            return
        self._attributes |= set(dotted[1:])
        self._names.add(dotted)
        self._words += dotted

    def _constant(self, node: ast.Constant, local: frozenset[str]) -> None:
        self._words.append(repr(node.value))
        if isinstance(node.value, str) and node.value.isidentifier():
            self._attributes.add(node.value)

    def _call(self, node: ast.Call, local: frozenset[str]) -> None:
        looks_up = isinstance(node.func, ast.Name) and node.func.id == "getattr"
        self._guesses |= looks_up and not all(isinstance(name, ast.Constant) for name in node.args[1:2])
        self._fields(_without_meaning(node), local)

    def _expression(self, node: ast.Expr, local: frozenset[str]) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring, or dots
            self._fields(node, local)

    def _assigned(self, node: ast.AnnAssign, local: frozenset[str]) -> None:
        self._fields(node, local, without=("annotation",))

    def _raise(self, node: ast.Raise, local: frozenset[str]) -> None:
        """An error of the harness ends the trial, whatever it says."""
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(error, ast.Name) and error.id in self._errors:
            self._words += ["Raise", error.id]
        else:
            self._fields(node, local)

    def _import(self, node: ast.Import | ast.ImportFrom, local: frozenset[str]) -> None:
        for name, one in _imported(node):
            self._imports[name] = (*self._imports.get(name, ()), one)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, local: frozenset[str]) -> None:
        self._words += [type(node).__name__, node.name]
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            self._read(part, local)
        self._parameters(node.args)
        self._read(node.body, local | _locals(node))

    def _lambda(self, node: ast.Lambda, local: frozenset[str]) -> None:
        self._words.append("Lambda")
        for part in (*node.args.defaults, *node.args.kw_defaults):
            self._read(part, local)
        self._parameters(node.args)
        self._read(node.body, local | _locals(node))

    def _parameters(self, arguments: ast.arguments) -> None:
        """Without annotations, which nothing looks at."""
        for kind in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg"):
            found = getattr(arguments, kind)
            listed = found if isinstance(found, list) else [found] if found else []
            self._words += [kind, *(one.arg for one in listed)]

    def _comprehension(self, node: ast.expr, local: frozenset[str]) -> None:
        self._words.append(type(node).__name__)
        first, *rest = node.generators  # type: ignore[attr-defined]
        self._read(first.iter, local)
        inner = local | _stored(one.target for one in (first, *rest))
        self._read(first.target, inner)
        self._read(first.ifs, inner)
        for one in rest:
            self._fields(one, inner)
        for name in ("elt", "key", "value"):
            self._read(getattr(node, name, None), inner)


READERS: Mapping[type[ast.AST], Callable[[_Reader, Any, frozenset[str]], None]] = {
    ast.Name: _Reader._name,
    ast.Attribute: _Reader._attribute,
    ast.Constant: _Reader._constant,
    ast.Call: _Reader._call,
    ast.Expr: _Reader._expression,
    ast.AnnAssign: _Reader._assigned,
    ast.Raise: _Reader._raise,
    ast.Import: _Reader._import,
    ast.ImportFrom: _Reader._import,
    ast.FunctionDef: _Reader._function,
    ast.AsyncFunctionDef: _Reader._function,
    ast.Lambda: _Reader._lambda,
    **dict.fromkeys(COMPREHENSIONS, _Reader._comprehension),
}


def _piece(node: ast.stmt, errors: frozenset[str]) -> Piece:
    return _Reader(errors).piece(node)


def _dotted(node: ast.AST) -> Dotted:
    """`a.b.c` as its parts; nothing for what does not begin with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def _locals(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    """Names that are a function's own: its parameters, and what its body binds."""
    arguments = function.args
    listed = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    named = {one.arg for one in (*listed, arguments.vararg, arguments.kwarg) if one is not None}
    return frozenset(named) | (_stored(function.body) if isinstance(function.body, list) else frozenset())


def _stored(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Names that these bind in their own scope, but for imports and what is declared global."""
    found, elsewhere = set[str](), set[str]()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
        elif isinstance(node, NAMED):
            found.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            found.add(node.rest or "")
        if not isinstance(node, NESTING):
            waiting += ast.iter_child_nodes(node)
    return frozenset(found - elsewhere - {""})


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    """Names that an import binds, each with what it is."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, Import(node.module or "", alias.name, node.level)
        else:
            top = alias.name.partition(".")[0]
            yield alias.asname or top, Import(alias.name if alias.asname else top, "", 0)


def _parsed(source: bytes) -> Module:
    """The module of a source; one that does not parse binds nothing and counts as it stands."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        text = ast.Expr(ast.Tuple([ast.Constant(source)], ast.Load()))
        return Module(effects=Definition(frozenset(), [text]))
    module = Module()
    _bind(module, tree.body, for_types=False)
    errors = frozenset(
        name
        for name, found in module.imports.items()
        if any(one.module.rpartition(".")[2] == ERRORS for one in found)
    )
    for definition in (*module.definitions.values(), module.effects):
        definition.errors = errors
    return module


def _bind(module: Module, body: Iterable[ast.stmt], *, for_types: bool) -> None:
    """Sort statements into what they bind and what they do; `for_types`: they never run."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in _dotted(node.test):
            _bind(module, node.body, for_types=True)
            _bind(module, node.orelse, for_types=False)
            continue
        for part in ast.walk(node) if not isinstance(node, NESTING) else ():
            if isinstance(part, (ast.Import, ast.ImportFrom)):
                _bind_import(module, part, for_types=for_types)
        names = {node.name} if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else _stored([node])
        for name in names:
            module.definitions.setdefault(name, Definition(frozenset())).nodes.append(node)
        if _does_something(node):
            module.effects.nodes.append(node)


def _bind_import(module: Module, node: ast.Import | ast.ImportFrom, *, for_types: bool) -> None:
    for name, one in _imported(node):
        if one.name == "*":
            module.stars.append(one._replace(name=""))
        else:
            module.imports[name] = (*module.imports.get(name, ()), one)
    if not for_types:
        whole = [Import(alias.name, "", 0) for alias in node.names] if isinstance(node, ast.Import) else []
        module.needs += whole or [one for _, one in _imported(node)]


def _does_something(node: ast.stmt) -> bool:
    """Whether a statement at the top of a module does more than to bind names."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)):
        return False
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(part, (ast.Attribute, ast.Subscript)) for part in targets)
    inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, (ast.stmt, ast.ExceptHandler))]
    return not inner or any(isinstance(part, ast.ExceptHandler) or _does_something(part) for part in inner)


def _own_rows(node: ast.stmt, keys: frozenset[str]) -> ast.stmt:
    """A table without the rows that have another key."""
    changed = copy.copy(node)
    if isinstance(changed, (ast.Assign, ast.AnnAssign)) and changed.value is not None:
        changed.value = _own_part(changed.value, keys)
    return changed


def _own_part(value: ast.expr, keys: frozenset[str]) -> ast.expr:
    """A value without rows of another key, in whatever its rows are wrapped."""
    made: Any = copy.copy(value)
    if isinstance(made, ast.Dict):
        rows = zip(made.keys, made.values, strict=True)
        kept = [(key, row) for key, row in rows if key is None or _is_own(key, keys)]
        made.keys, made.values = [key for key, _ in kept], [row for _, row in kept]
    elif isinstance(made, (ast.Tuple, ast.List, ast.Set)):
        kept_items = [item for item in made.elts if _is_own(item, keys)]
        made.elts = [_own_part(item, keys) if isinstance(item, ast.Starred) else item for item in kept_items]
    elif isinstance(made, ast.Starred):
        made.value = _own_part(made.value, keys)
    elif isinstance(made, COMPREHENSIONS):
        made.generators = [copy.copy(one) for one in made.generators]
        for one in made.generators:
            one.iter = _own_part(one.iter, keys)
    elif isinstance(made, ast.Call):
        made.args = [_own_part(argument, keys) for argument in made.args]
    elif isinstance(made, ast.BinOp):
        made.left, made.right = _own_part(made.left, keys), _own_part(made.right, keys)
    return made  # type: ignore[no-any-return]


def _is_own(item: ast.expr, keys: frozenset[str]) -> bool:
    """Whether a row is of one of the keys; a row is named by its key, or by the first thing in its call."""
    if isinstance(item, ast.Call) and item.args:
        item = item.args[0]
    return not (isinstance(item, ast.Constant) and isinstance(item.value, str)) or item.value in keys


def _without_meaning(node: ast.Call) -> ast.Call:
    """The call that makes a setting (`methods.contract`) without the sentence on what it means."""
    before = BEFORE_MEANING.get(node.func.id) if isinstance(node.func, ast.Name) else None
    if before is None:
        return node
    return ast.Call(node.func, node.args[:before], [part for part in node.keywords if part.arg != "meaning"])


def _without_values(node: ast.stmt) -> ast.stmt:
    """A class whose fields have no default, but for settings whose default no trial names."""
    changed = copy.copy(node)
    if isinstance(changed, ast.ClassDef):
        changed.body = [_without_value(part) for part in changed.body]
    return changed


def _without_value(part: ast.stmt) -> ast.stmt:
    if not isinstance(part, ast.AnnAssign) or _is_added(part.value):
        return part
    return ast.AnnAssign(part.target, part.annotation, None, 1)


def _is_added(value: ast.expr | None) -> bool:
    """Whether a setting came later (`methods.contract.About`): trials omit it while it has its default."""
    return isinstance(value, ast.Call) and any(part.arg == "added" for part in value.keywords)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
