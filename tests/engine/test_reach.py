"""What a walk over syntax trees reaches, and what changes its digest, on small trees in memory."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from harness.engine.reach import Sources, Start

TREE = {
    "pack/__init__.py": "",
    "pack/errors.py": "class Refused(Exception):\n    pass\n",
    "pack/tools.py": '''
"""Tools."""
RATE = 0.5
OTHER_RATE = 0.1
TABLE = {"a": 1, "b": 2}

def scale(x, factor=2):
    """Scale."""
    return x * factor * RATE

def unused(x):
    return OTHER_RATE

def marked(function):
    return function

class Base:
    GAIN = 3
    def run(self):
        return self.step() + self.GAIN
    def spare(self):
        return 4

class Tool(Base):
    def step(self):
        return scale(1)
    def never(self):
        return unused(1)
''',
    "pack/main.py": """
from pack import tools
from pack.errors import Refused
from pack.tools import Tool, marked, TABLE

@marked
def entry(name):
    if name not in TABLE:
        raise Refused(f"no {name}, there are {tools.OTHER_RATE}")
    return Tool().run() + tools.scale(TABLE[name])
""",
}
START = Start(
    entries=("pack.main.entry",),
    closed=frozenset({"pack.errors"}),
    registries=frozenset({"pack.tools.TABLE"}),
    keys=frozenset({"a"}),
)


def sources(tree: dict[str, str]) -> Sources:
    paths = [PurePosixPath(path) for path in tree]
    return Sources(
        lambda path: tree[path].encode() if path in tree else None,
        lambda folder: [path.stem for path in paths if str(path.parent) == folder],
    )


def digest(tree: dict[str, str], start: Start = START) -> str | None:
    return sources(tree).digest(start)


def changed(old: str, new: str, file: str = "pack/tools.py") -> dict[str, str]:
    assert old in TREE[file]
    return TREE | {file: TREE[file].replace(old, new)}


def test_the_digest_is_that_of_this_scheme() -> None:
    """If this fails, records' digests are computed otherwise than before: raise `provenance.SCHEME`."""
    assert digest(TREE) == "1ffcfed91a31"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("RATE = 0.5", "RATE = 0.6", id="constant that a called function reads"),
        pytest.param("factor=2", "factor=3", id="default of a called function"),
        pytest.param("return function", "return lambda *a: function(*a)", id="decorator"),
        pytest.param("GAIN = 3", "GAIN = 4", id="value of a base class"),
        pytest.param("self.step() +", "self.step() -", id="inherited method"),
        pytest.param("return scale(1)", "return scale(2)", id="method"),
        pytest.param('"a": 1', '"a": 5', id="the trial's own row"),
        pytest.param("class Tool(Base)", "class Tool(Base, metaclass=type)", id="head of a class"),
        pytest.param('"""Tools."""', "print('hello')", id="what an import does"),
        pytest.param('"""Tools."""', "globals()['RATE'] = 2", id="what an import does to names"),
    ],
)
def test_what_is_reached_changes_the_digest(old: str, new: str) -> None:
    assert digest(changed(old, new)) != digest(TREE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"""Scale."""', '"""Other words."""', id="docstring"),
        pytest.param(
            "    return x * factor * RATE", "    # why\n\n    return (x * factor) * RATE", id="layout"
        ),
        pytest.param("def scale(x, factor=2)", "def scale(x: int, factor: int = 2) -> int", id="annotations"),
        pytest.param("return OTHER_RATE", "return 7", id="function that nobody calls"),
        pytest.param("OTHER_RATE = 0.1", "OTHER_RATE = 0.2", id="constant in the words of an error"),
        pytest.param('"b": 2', '"b": 3, "c": 4', id="other rows of a registry"),
        pytest.param("return 4", "return 5", id="method that nobody calls"),
        pytest.param(
            "return unused(1)", "return scale(5)", id="method of the class itself that nobody calls"
        ),
        pytest.param("def unused(x)", "def fresh():\n    return 1\n\ndef unused(x)", id="fresh function"),
        pytest.param("RATE = 0.5", "import json\nRATE = 0.5", id="import that nobody uses"),
    ],
)
def test_what_is_not_reached_does_not(old: str, new: str) -> None:
    assert digest(changed(old, new)) == digest(TREE)


def test_the_words_of_an_own_error_do_not_count_but_the_error_does() -> None:
    assert digest(changed('f"no {name}, there are', 'f"not {name} but', "pack/main.py")) == digest(TREE)
    assert digest(changed("raise Refused(", "print(", "pack/main.py")) != digest(TREE)


def test_a_method_counts_once_its_name_is_used_anywhere() -> None:
    before = changed("return 4", "return 5")
    using = {"pack/main.py": TREE["pack/main.py"].replace("Tool().run()", "Tool().spare()")}
    assert digest(TREE | using) != digest(before | using)
    named = {"pack/main.py": TREE["pack/main.py"].replace("Tool().run()", "getattr(Tool(), 'spare')()")}
    assert digest(TREE | named) != digest(before | named)


def test_all_methods_count_where_attributes_are_looked_up_by_unwritten_names() -> None:
    guess = "return getattr(self, self.GAIN)"
    tree = changed("return self.step() + self.GAIN", guess)
    other = tree | {"pack/tools.py": tree["pack/tools.py"].replace("return 4", "return 5")}
    assert digest(tree) != digest(other)


def test_all_methods_count_where_a_base_is_foreign() -> None:
    tree = changed("class Base:", "import torch\nclass Base(torch.nn.Module):")
    other = tree | {"pack/tools.py": tree["pack/tools.py"].replace("return 4", "return 5")}
    assert digest(tree) != digest(other)


def test_code_may_move_to_another_file() -> None:
    head, function = (
        "RATE = 0.5\n",
        'def scale(x, factor=2):\n    """Scale."""\n    return x * factor * RATE\n',
    )
    moved = TREE["pack/tools.py"].replace(head, "").replace(function, "")
    tree = TREE | {
        "pack/tools.py": "from pack.rates import scale\n" + moved,
        "pack/rates.py": head + function,
    }
    assert digest(tree) == digest(TREE)


def test_names_are_told_apart_by_what_they_stand_for() -> None:
    two = "def one():\n    return 1\n\ndef two():\n    return 2\n"
    tree = {"pack/__init__.py": "", "pack/a.py": two, "pack/main.py": ""}
    first = "from pack.a import one as f, two as g\n\ndef entry():\n    return f() - g()\n"
    second = first.replace("one as f, two as g", "two as f, one as g")
    start = Start(("pack.main.entry",))
    assert digest(tree | {"pack/main.py": first}, start) != digest(tree | {"pack/main.py": second}, start)


def test_foreign_names_count_by_where_they_come_from() -> None:
    start = Start(("pack.main.entry",))
    digests = {
        digest({"pack/main.py": f"from {place} import f\n\ndef entry():\n    return f()\n"}, start)
        for place in ("torch", "numpy")
    }
    assert len(digests) == 2


def test_local_names_do_not_stand_for_those_of_the_module() -> None:
    text = "def count():\n    return 1\n\ndef entry(count):\n    return [item for item in count]\n"
    start = Start(("pack.main.entry",))
    other = text.replace("return 1", "return 2")
    assert digest({"pack/main.py": text}, start) == digest({"pack/main.py": other}, start)
    outer = text.replace("for item in count", "for count in count").replace("entry(count)", "entry()")
    assert digest({"pack/main.py": outer}, start) != digest(
        {"pack/main.py": outer.replace("return 1", "return 2")}, start
    )


@pytest.mark.parametrize(
    "lookup",
    [
        "from importlib import import_module\n\ndef entry(name):\n    return import_module(name)\n",
        "import importlib\n\ndef entry(name):\n    return importlib.import_module(name)\n",
        "def entry(name):\n    return __import__(name)\n",
        "from pack import tools\n\ndef entry(name):\n    return vars(tools)[name]\n",
        "from pack.tools import *\n\ndef entry(name):\n    return eval(name)\n",
    ],
)
def test_what_may_be_meant_counts_where_a_name_is_not_written(lookup: str) -> None:
    tree = TREE | {"pack/main.py": lookup}
    other = tree | {"pack/tools.py": TREE["pack/tools.py"].replace("return OTHER_RATE", "return 7")}
    assert digest(tree, Start(("pack.main.entry",))) != digest(other, Start(("pack.main.entry",)))


def test_names_that_a_package_imports_at_first_use_are_found_by_its_imports_for_types() -> None:
    lazy = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pack.tools import scale

def __getattr__(name):
    from importlib import import_module
    return getattr(import_module("pack.tools"), name)
"""
    tree = TREE | {
        "pack/__init__.py": lazy,
        "pack/main.py": "def entry():\n    from pack import scale\n    return scale(1)\n",
    }
    other = tree | {"pack/tools.py": TREE["pack/tools.py"].replace("RATE = 0.5", "RATE = 0.6")}
    spare = tree | {"pack/tools.py": TREE["pack/tools.py"].replace("return OTHER_RATE", "return 7")}
    start = Start(("pack.main.entry",))
    assert digest(tree, start) != digest(other, start)
    assert digest(tree, start) == digest(spare, start)


def test_fields_whose_values_are_known_otherwise_count_by_name_and_type() -> None:
    text = "class Config:\n    rate: float = 1.0\n\ndef entry():\n    return Config()\n"
    start = Start(("pack.main.entry",), fields=("pack.main.Config",))
    default, kind = text.replace("1.0", "2.0"), text.replace("float", "int")
    assert digest({"pack/main.py": text}, start) == digest({"pack/main.py": default}, start)
    assert digest({"pack/main.py": text}, start) != digest({"pack/main.py": kind}, start)


def test_a_source_that_does_not_parse_counts_as_it_stands() -> None:
    torn = [TREE | {"pack/tools.py": f"def {name}(:\n"} for name in "fg"]
    assert digest(torn[0]) != digest(torn[1])


def test_there_is_no_digest_without_the_entry() -> None:
    assert digest({"pack/main.py": "def other(): pass\n"}, Start(("pack.main.entry",))) is None
