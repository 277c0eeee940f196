"""The command line: quick to answer, one line for each mistake, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from harness.commands.cli import COMMANDS, main
from harness.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TORCH_FREE = [
    ["--help"],
    ["run", "--help"],
    ["list", "methods"],
    ["list", "datasets", "--json"],
    ["list", "archs"],
    ["list", "scales"],
    ["status", "--results", "."],
]

BAD = [
    (["rnu"], "did you mean 'run'"),
    (["run", "--methdos", "dm"], "unknown option '--methdos'; did you mean '--methods'"),
    (["run", "--ipcs=1"], "did you mean '--ipc'"),
    (["plan", "--no-estimat"], "did you mean '--no-estimate'"),
    (["run", "a.toml", "b.toml"], "unexpected argument 'b.toml'"),
    (["run", "none.toml"], "cannot read none.toml"),
    (["run", "--ipc"], "expected one argument"),
    (["run", "--ipc", "0"], "--ipc 0: expected whole numbers from 1 up"),
    (["run", "--ipc", "-1"], "--ipc -1: expected whole numbers from 1 up"),
    (["run", "--ipc", "140", "--dataset", "digits"], "choose an ipc of at most 139"),
    (["run", "--methods", "idn", "--dataset", "digits"], "did you mean 'idm'? available: bacon,"),
    (["run", "--dataset", "cifar"], "did you mean 'cifar10'"),
    (["run", "--dataset", "digits", "--arch", "ConvNot"], "unknown network"),
    (["run", "--scale", "papr"], "did you mean 'paper'"),
    (["run", "--evals", "0"], "--evals 0: expected a whole number from 1 up"),
    (["run", "--seeds", "0"], "--seeds 0: expected a count"),
    (["run", "--budget", "lots"], "--budget lots: expected a positive number of FLOPs"),
    (["run", "--device", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
    (["run", "--device", "cuda:99"], "no such device"),
    (["run", "--for", "50"], "--for 50: expected a time with its unit"),
    (["run", "--for", "50m", "--launcher", "slurm"], "jobs of a cluster have --time"),
    (["run", "--priority", "valu"], "did you mean 'value'"),
    (["run", "--slots", "2", "--launcher", "inline"], "drop one"),
    (["run", "--budget", "1G", "--set", "bacon.iterations=5"], "drop one"),
    (["run", "--image-size", "32"], "--image-size is for folder:PATH"),
    (["run", "--set", "lr=1"], "--set lr=1: expected METHOD.KEY=VALUE"),
    (["run", "--set", "dm.lr_img=1"], "'dm' is not selected"),
    (["run", "--retry", "all"], "unknown trials to retry 'all'; available: failed"),
    (["list", "method"], "did you mean 'methods'"),
    (["list", "methods", "SRe2L"], "did you mean 'sre2l'"),
    (["run", "--dataset", "Fashion-MNIST"], "did you mean 'fashionmnist'"),
    (
        ["plan", "--profile", "gpx"],
        "did you mean 'gpu'? available: cpu, gpu, packed-gpu, or a file: --profile",
    ),
    (["list"], "required"),
    (["check", "bacn"], "did you mean 'bacon'"),
    (["status", "--results", "nowhere"], "no results folder nowhere"),
    (["report", "--results", "nowhere"], "no records under nowhere"),
    (["show", "nowhere.safetensors", "-o", "picture.png"], "nowhere.safetensors"),
    (["show", "a.safetensors"], "-o/--output"),
    ([], "COMMAND"),
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=_paths(),
    )


def _paths() -> dict[str, str]:
    # The tests run in a scratch folder, from where an uninstalled checkout would not be found.
    return os.environ | {"PYTHONPATH": str(ROOT)}


def assert_one_line(status: int, err: str, fragment: str) -> None:
    """A mistake is told in one line, with status 2 and no traceback."""
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert fragment in err


@pytest.mark.parametrize(("arguments", "fragment"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_mistakes_are_one_line(
    arguments: Sequence[str], fragment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = main(arguments)
    printed = capsys.readouterr()
    assert_one_line(status, printed.err, fragment)
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["run", "--methods", "idn"], "did you mean 'idm'"),
        (["run", "--methdos", "dm"], "did you mean '--methods'"),
        (["run", "--ipc", "0"], "expected whole numbers from 1 up"),
        (["run", "--dataset", "digits", "--results", "file"], "pass another folder with --results"),
    ],
)
def test_mistakes_are_one_line_in_a_real_process(
    arguments: Sequence[str], fragment: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    process = harness(*arguments)
    assert_one_line(process.returncode, process.stderr, fragment)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", TORCH_FREE, ids=" ".join)
def test_quick_commands_import_nothing_heavy(arguments: Sequence[str]) -> None:
    script = (
        "import sys\nfrom harness.commands.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'torch', 'pandas', 'matplotlib', 'rich'} & set(sys.modules)) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=_paths()
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


def test_help_needs_next_to_nothing() -> None:
    """That is what makes it quick; seconds would tell of what else the machine does."""
    script = (
        "import sys\nbefore = set(sys.modules)\nfrom harness.commands.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "sys.exit(' '.join(sorted(names - sys.stdlib_module_names)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=_paths()
    )
    assert set(process.stderr.split()) <= {"harness", "msgspec", "tomli"}, process.stderr


def test_a_missing_package_names_the_python_that_has_it() -> None:
    """Right after `make demo` nothing but `.venv` has them; -S hides what is installed."""
    begin = [sys.executable, "-S", str(ROOT / "harness" / "__main__.py")]
    process = subprocess.run(
        [*begin, "list", "datasets"], capture_output=True, text=True, check=False, env=_paths()
    )
    assert_one_line(process.returncode, process.stderr, "then `.venv/bin/python -m harness ...`")
    assert "No module named" in process.stderr


def test_the_way_to_an_unknown_option_needs_no_package() -> None:
    """On Python 3.10 reading TOML does, which no help does."""
    script = "import sys; import harness.commands.cli; sys.exit('harness.engine.options' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], check=False, env=_paths())
    assert process.returncode == 0


def test_help_says_where_what_the_scale_sets_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        words = " ".join(capsys.readouterr().out.split())
        assert ("(from the scale)" in words) == ("`python -m harness list scales`" in words), command


def test_help_names_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--help"], COMMANDS),
        (["run", "--help"], ["--methods", "--zca", "--retry", "--for", "--priority"]),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []


def test_lists_are_json_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    names = {}
    for what in ("methods", "datasets", "archs"):
        assert main(["list", what, "--json"]) == 0
        names[what] = [entry["name"] for entry in msgspec.json.decode(capsys.readouterr().out)]
    assert {"random", "dm", "bacon", "bacon@paper"} <= set(names["methods"])
    assert {"digits", "cifar10", "folder:PATH"} <= set(names["datasets"])
    assert {"ConvNet", "ResNet18"} <= set(names["archs"])


def test_a_pipe_that_closes_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "list", "archs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_paths(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert errors == b""


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (UserError("this is wrong;\ntype that"), 2, "error: this is wrong; type that\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on where this stopped\n"),
        (
            OSError(28, "No space left on device", "results/x"),
            2,
            "error: No space left on device: results/x\n",
        ),
    ],
)
def test_what_a_command_raises_becomes_a_status(
    raised: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise raised

    monkeypatch.setattr("harness.commands.list.command", fail)
    assert main(["list", "methods"]) == status
    assert capsys.readouterr().err == line


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("harness.commands.list.command", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list", "methods"])


@pytest.mark.slow
def test_plan_prints_json_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.commands.estimate.LIMIT_SECONDS", 600.0)
    assert main(["plan", "--methods", "dm,random", "--dataset", "digits", "--scale", "smoke", "--json"]) == 0
    printed = capsys.readouterr()
    content = msgspec.json.decode(printed.out)
    assert len(content["trials"]) == 6
    assert all(
        entry["seconds"] > 0 and entry["seconds_from"] == "3 steps timed" for entry in content["trials"]
    )
    assert "counting and timing pieces of dm" in printed.err


def test_plan_without_estimate_times_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--dataset", "digits", "--scale", "smoke", "--ipc", "1", "--no-estimate"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith("2 trials: 0 done, 2 to run\n")


def test_a_corrupt_record_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wishes = ["--methods", "random", "--dataset", "digits", "--scale", "smoke", "--ipc", "1", "--json"]
    assert main(["plan", *wishes, "--no-estimate"]) == 0
    trial = msgspec.json.decode(capsys.readouterr().out)["trials"][0]
    path = tmp_path / f"results/smoke/digits/random/ipc1/ConvNetW16-seed0-{trial['id']}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "id": "')
    for command in ("plan", "run"):
        status = main([command, *wishes])
        assert_one_line(status, capsys.readouterr().err, "is not a record of this harness")
