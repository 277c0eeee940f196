"""The contract of a method's file: each breach is one clear line, and costs no other method anything."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from contract_files import LOOPED, METHOD, SCALED

import methods
from harness.core.settings import settings_in
from harness.engine.provenance import ROOT
from harness.engine.scales import SCALES
from methods import contract

ALL = [name for name in methods.discover() if "@" not in name]
DISTILL = "def distill(dataset, ipc, *, config=None, context=None)"


def by_syntax(tmp_path: Path, source: str) -> tuple[str, ...]:
    """Breaches of a file that only its syntax is looked at."""
    (tmp_path / "mine.py").write_text(source)
    found = methods.discover(tmp_path)
    return found["mine"].breaches if "mine" in found else ()


def when_run(source: str) -> list[str]:
    """Breaches of what the file's statements make."""
    module = ModuleType("mine")
    sys.modules["mine"] = module  # where dataclasses and typing look for the names in annotations
    exec("from __future__ import annotations\n" + source, module.__dict__)
    return contract.breaches(module)


@pytest.mark.parametrize("source", [METHOD, LOOPED + SCALED])
def test_a_file_that_keeps_it_has_no_breach(source: str, tmp_path: Path) -> None:
    assert by_syntax(tmp_path, source) == ()
    assert when_run(source) == []


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        (METHOD + 'VARIANTS = dict(fast={"lr_img": 1.0})\n', "has VARIANTS that are computed"),
        (METHOD + 'VARIANTS = {name: {} for name in "ab"}\n', "has VARIANTS that are computed"),
        (METHOD + '_NAME = "a"\nVARIANTS = {_NAME: {}}\n', "has VARIANTS that are computed"),
        (METHOD + 'VARIANTS = {"a": {}}\nVARIANTS |= {"b": {}}\n', "sets VARIANTS more than once"),
        (METHOD + '_SOFT = "stored"\nREGIME = _SOFT\n', "has a REGIME that cannot be read without running"),
        (METHOD + "PROTOCOL = 3\n", 'expected PROTOCOL = "..."'),
        (METHOD + "UNCOUNTED = True\n", 'expected UNCOUNTED = "..."'),
        (METHOD + 'VARIENTS = {"a": {}}\n', "sets VARIENTS, which nothing reads; did you mean VARIANTS?"),
        (METHOD + 'SCALLED = {"cpu": {}}\n', "did you mean SCALED?"),
        (METHOD + "Paper = {}\n", "sets Paper, which nothing reads; did you mean PAPER?"),
        (METHOD + "papers: dict = {}\n", "did you mean PAPER?"),
        (METHOD + "UNPUBLISED = {}\n", "did you mean UNPUBLISHED?"),
        (METHOD + "IGNORE_IPC = True\n", "did you mean IGNORES_IPC?"),
        (METHOD + 'REGIMES = "teacher"\n', "did you mean REGIME?"),
        (METHOD + "BATCH = 128\n", "call a constant of your own _BATCH"),
        (METHOD + 'RESOURCES = {"paper": {}}\n', "sets RESOURCES, which is none of VARIANTS, PAPER, "),
        (METHOD + "SIDE, _OTHER = 3, 4\n", "call a constant of your own _SIDE"),
        (METHOD + "SCALE: float = 300.0\n", "call a constant of your own _SCALE"),
        (
            METHOD + "def step_of(config): ...\n",
            "defines step_of, which nothing calls; did you mean steps_of?",
        ),
        (METHOD + "def steps_of(): ...\n", "expected steps_of(config)"),
        (
            METHOD.replace(DISTILL, "def distill(data, ipc, *, config=None, context=None)"),
            "expected distill(",
        ),
        (
            METHOD.replace(DISTILL, "def distill(dataset, ipc, config=None, context=None)"),
            "expected distill(",
        ),
        (METHOD.replace(DISTILL, "def distill(dataset, ipc, *, config, context=None)"), "expected distill("),
        (METHOD.replace(DISTILL, "def distill(dataset, ipc, **rest)"), "expected distill("),
        (METHOD.replace(DISTILL, "async def distill(dataset, ipc)"), "binds distill otherwise than by"),
        (METHOD.replace(DISTILL, "def distil(dataset, ipc)"), "defines distil; a method is what defines"),
        ("from methods.dm import Config, distill\n", "binds distill otherwise than by"),
        (METHOD.replace("class Config", "class Settings"), "has no Config"),
        (METHOD + "def condense(data, ipc): ...\n", "expected condense(data, ipc, config, context, "),
        (METHOD + "def distance_to(): ...\n", "expected distance_to(weights)"),
    ],
)
def test_breaches_that_syntax_shows(source: str, breach: str, tmp_path: Path) -> None:
    (found,) = by_syntax(tmp_path, source)
    assert breach in found
    assert "\n" not in found


def test_names_of_ones_own_begin_with_an_underscore_or_are_not_in_upper_case(tmp_path: Path) -> None:
    own = '_SCALE = 300.0\n_PAPERS = {"a": 1}\nvariance = 0.1\nPages = {"a": 1}\n'
    assert by_syntax(tmp_path, "from harness.core.augment import FULL_STRATEGY\n" + METHOD + own) == ()
    assert by_syntax(tmp_path, '"""A helper."""\nclass Config: ...\ndef helper(): ...\n') == ()


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        (METHOD.replace("@dataclass(frozen=True)", "@dataclass"), "has a Config that can be changed"),
        (METHOD.replace("@dataclass(frozen=True)\n", ""), "has a Config that is no dataclass"),
        (
            METHOD.replace('setting(0.1, "learning rate of the images")', "0.1"),
            "does not say what the setting",
        ),
        (
            METHOD.replace('"learning rate of the images"', '" "'),
            "does not say what the setting lr_img means",
        ),
        (METHOD.replace(' = setting(0.1, "learning rate of the images")', ""), "a setting without a default"),
        (METHOD.replace("setting(0.1,", 'setting("fast",'), "has the default of lr_img that does not fit"),
        (METHOD.replace("float = ", "Unknown = "), "has a Config whose types cannot be read"),
        (LOOPED, "is as long as the paper's at cpu scale; set iterations in SCALED['cpu']"),
        (
            LOOPED + 'SCALED = {"cpu": {"iterations": 5}}\n',
            "at smoke scale; set iterations in SCALED['smoke']",
        ),
        (LOOPED + SCALED.replace("10}}", '10}, "small": {}}'), "has SCALED['small'], but its keys are cpu"),
        (METHOD + "PAPER = []\n", "has PAPER = []; expected a dict whose keys are (dataset"),
        (METHOD + 'PAPER = {"cifar10": {}}\n', "has PAPER['cifar10'], but its keys are (dataset"),
        (METHOD + 'PAPER = {("cifar10", 0): {}}\n', "has PAPER[('cifar10', 0)], but its keys"),
        (METHOD + 'PAPER = {("cifar10", 1): {"lr": 1.0}}\n', "which is no setting; did you mean 'lr_img'?"),
        (METHOD + 'PAPER = {("cifar10", 1): {"lr_img": "1"}}\n', "a value of lr_img that does not fit, '1'"),
        (
            METHOD + 'PAPER = {("cifar10", 1): 3}\n',
            "has PAPER[('cifar10', 1)] = 3; expected a dict of settings",
        ),
        (METHOD + 'VARIANTS = {"fast": {"lr": 1.0}}\n', "sets 'lr' in VARIANTS['fast'], which is no setting"),
        (METHOD + 'VARIANTS = {"a/b": {}}\n', "has VARIANTS['a/b'], but its keys are names"),
        (METHOD + 'UNPUBLISHED = {"digits": {"lr": 1.0}}\n', "sets 'lr' in UNPUBLISHED['digits']"),
        (METHOD + "UNPUBLISHED = {3: {}}\n", "has UNPUBLISHED[3], but its keys are datasets"),
        (METHOD + "def steps_of(config): return 5\n", "has a steps_of that returns 5; expected Steps(...)"),
        (
            METHOD + "def steps_of(config): return config.iterations\n",
            "has a steps_of that fails with the default settings (AttributeError",
        ),
        (METHOD + 'IGNORES_IPC = "yes"\n', "has an IGNORES_IPC that is neither True nor False"),
        (METHOD + 'REGIME = "soft"\n', "has REGIME = 'soft'; expected one of hard, stored, teacher"),
        (METHOD + "PROTOCOL = 5\n", "has PROTOCOL = 5; expected the name of a protocol"),
        (METHOD + 'BORROWED = {("cifar10", 1): "mtt"}\n', "expected a key of PAPER"),
    ],
)
def test_breaches_of_settings_and_constants(source: str, breach: str) -> None:
    found = when_run(source)
    assert any(breach in line for line in found), found
    assert not any("\n" in line for line in found)


def test_an_override_keeps_what_the_setting_was_marked_with() -> None:
    own = "@dataclass(frozen=True)\nclass Longer(Config):\n    iterations: int = setting(5, 'updates')\n"
    (found,) = when_run(LOOPED + SCALED + own + "Config = Longer\n")
    assert "overrides the setting iterations with other flags" in found


@pytest.mark.parametrize("name", [*ALL, "dm+bacon", "idm+m3d"])
def test_every_method_keeps_it_and_says_what_each_setting_means(name: str) -> None:
    module = methods.load(name)
    settings = settings_in(module.Config)
    assert {setting.name for setting in settings} == {
        field.name for field in dataclasses.fields(module.Config)
    }
    assert all(len(setting.meaning) > 5 for setting in settings)
    assert set(module.BORROWED.values()) <= set(ALL)


def test_the_template_keeps_it() -> None:
    source = (ROOT / "methods" / "_template.py").read_bytes()
    assert list(contract.syntax_breaches(ast.parse(source))) == []
    assert contract.breaches(importlib.import_module("methods._template")) == []


def test_it_knows_the_scales() -> None:
    assert {*contract.SHORT_SCALES, "paper"} == set(SCALES)


def test_its_type_and_its_defaults_name_the_same() -> None:
    own = {"Config", "distill"}
    members = set(contract.Method.__annotations__) | {"steps_of", "distill"}
    assert members == set(contract.DEFAULTS) | own


def test_what_flops_leave_out_is_said_by_the_file() -> None:
    said = {
        name: methods.find(name).uncounted for name in ("kip", "kip@vec", "kip@soft", "frepo", "frepo@soft")
    }
    kernels = "kernels of pairs of images"
    assert said == {"kip": kernels, "kip@vec": kernels, "kip@soft": kernels, "frepo": "", "frepo@soft": ""}


def test_what_a_file_leaves_out_has_a_default() -> None:
    method = methods.load("herding")
    assert (method.PAPER, method.VARIANTS, method.IGNORES_IPC) == ({}, {}, False)
    assert method.steps_of(method.Config()).count == method.Config().train_steps


BROKEN = {
    "computed": METHOD + 'VARIANTS = dict(fast={"lr_img": 1.0})\n',
    "crashing": METHOD + "SCALED = {}\nPAPER = {(name, 1): {} for name in SCALED.nothing}\n",
    "endless": LOOPED,
    "misspelt": METHOD + "VARIENTS = {}\nPaper = {}\n",
    "torn": "def distill(:\n",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with broken method files beside the others."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("harness", "methods"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in BROKEN.items():
        (root / "methods" / f"{name}.py").write_text('"""Broken."""\n' + source)
    return root


def harness(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)


def test_the_list_names_files_that_are_broken_by_their_syntax_and_all_others(copy: Path) -> None:
    done = harness(copy, "list", "methods")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stderr
    assert set(methods.discover()) | set(BROKEN) <= set(lines)
    by_syntax = {"computed", "misspelt", "torn"}
    assert {name for name, line in lines.items() if "BROKEN" in line} == by_syntax
    assert "did you mean VARIANTS?; sets Paper" in lines["misspelt"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [("plan", "--no-estimate"), ("run",)])
def test_a_broken_file_is_refused_in_one_line_before_anything_runs(
    copy: Path, command: tuple[str, ...]
) -> None:
    done = harness(copy, *command, "--methods", "random,endless", "--dataset", "digits", "--scale", "smoke")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: method 'endless' cannot be used: its file is as long as the paper's at cpu scale; set "
        "iterations in SCALED['cpu'] (1 more: python -m harness check endless)"
    ]
    assert not (copy / "results").exists()


def test_a_file_that_does_not_run_is_refused_in_one_line(copy: Path) -> None:
    done = harness(copy, "list", "methods", "crashing")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: method 'crashing' cannot be used: its file does not run: AttributeError: "
        "'dict' object has no attribute 'nothing'"
    ]


@pytest.mark.slow
def test_the_check_lists_every_breach(copy: Path) -> None:
    done = harness(copy, "check", "endless")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"failed  endless: its file is as long as the paper's at {scale} scale; "
        f"set iterations in SCALED[{scale!r}]"
        for scale in ("cpu", "smoke")
    ]
    assert harness(copy, "check", "random", "--quick").returncode == 0
