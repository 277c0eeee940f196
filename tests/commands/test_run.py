"""`harness.run`: the options of the command line by name, a frame with a row for each trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trials import put_record

import harness
from harness.core.errors import UnknownNameError, UserError
from harness.engine.options import Setting, given_options, parse_options
from harness.engine.plan import make_plan
from harness.engine.records import Record

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({"methods": ["bacon", "dm"], "ipc": [1, 10]}, {"methods": ["bacon,dm"], "ipc": ["1,10"]}),
        ({"methods": "bacon", "ipc": 10}, {"methods": ["bacon"], "ipc": ["10"]}),
        ({"methods": "bacon,dm", "ipc": (10, 1)}, {"methods": ["bacon,dm"], "ipc": ["1,10"]}),
        ({"ipc": np.array([1, 10]), "evals": np.int64(2)}, {"ipc": ["1,10"], "evals": "2"}),
        ({"seeds": 3, "zca": True}, {"seeds": "3", "zca": True}),
        ({"seeds": range(2), "budget": 2e13}, {"seeds": "0,1", "budget": "20T"}),
        ({"results": Path("out"), "data": "in"}, {"results": "out", "data": "in"}),
        ({"for_": "50m", "priority": "value"}, {"for_": "50m", "priority": "value"}),
        ({"device": None, "scale": "smoke"}, {"scale": "smoke"}),
    ],
)
def test_values_of_python_mean_what_is_typed(given: dict[str, Any], typed: dict[str, Any]) -> None:
    assert given_options(given) == parse_options(typed)


def test_settings_are_strings_or_tables(tmp_path: Path) -> None:
    assert given_options({"set": "dm.lr_img=0.1"}).set == (Setting("dm", "lr_img", "0.1"),)
    assert given_options({"set": {"dm": {"lr_img": 0.1}}}).set == (Setting("dm", "lr_img", 0.1),)
    file = tmp_path / "sweep.toml"
    file.write_text('ipc = 1\nfor = "2h"\n')
    options = given_options({"ipc": 10}, file)
    assert (options.ipc, options.for_) == ((10,), 7200)


def test_unknown_names_and_values_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UnknownNameError, match="unknown option 'metods'; did you mean 'methods'"):
        harness.run(metods=["bacon"])
    with pytest.raises(UserError, match=r"^ipc = 0: expected whole numbers"):
        harness.run(ipc=[0])
    with pytest.raises(UserError, match="leave it out"):
        harness.run(json=True)


def test_a_frame_has_a_row_for_each_trial_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes: dict[str, Any] = {
        "methods": ["random", "dm"],
        "dataset": "digits",
        "ipc": [1, 10],
        "scale": "smoke",
        "results": tmp_path,
    }
    plan = make_plan(given_options(wishes))
    for trial in plan.trials[:3]:
        put_record(Record(id=trial.id, status="done", trial=trial, accuracies=[0.5, 0.7]), tmp_path)
    frame = harness.run(**wishes, for_="0.001s", launcher="inline")
    assert list(frame["id"]) == [trial.id for trial in plan.trials]
    assert list(frame["status"]) == ["done"] * 3 + ["to run"]
    assert list(frame["method"]) == [trial.method for trial in plan.trials]
    assert list(frame["n"]) == [2, 2, 2, 0]
    assert frame["accuracy_mean"].iloc[0] == pytest.approx(0.6)
    assert frame["accuracy_mean"].isna().tolist() == [False] * 3 + [True]
    assert {"ipc", "seed", "accuracy_std", "distill_seconds", "distill_flops"} <= set(frame.columns)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "left: 1 of 4 trials, 0 of them begun; the same call goes on"


def test_an_interrupt_ends_the_cell_of_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.launch.inline.InlineRunner.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        harness.run(
            methods="random", dataset="digits", ipc=1, scale="smoke", results=tmp_path, launcher="inline"
        )


def test_importing_harness_imports_nothing_heavy() -> None:
    script = (
        "import sys, harness; harness.run; sys.exit(bool({'torch', 'pandas', 'rich'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Workers are programs of their own: a script that runs a sweep at its top level is not run by them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import harness\n"
        "frame = harness.run(methods='random', dataset='digits', ipc=1, scale='smoke', results='out')\n"
        "print(len(frame), set(frame.status), frame.accuracy_mean.between(0.05, 1).all())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 {'done'} True\n"), done.stderr
    assert done.stderr.startswith("device: ")


@pytest.mark.slow
def test_the_notebook_runs_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source = ROOT / "docs" / "harness.ipynb"
    assert source.stat().st_size < 100_000
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    assert sum("text/html" in data and "bacon" in data["text/html"] for data in shown) == 1
    assert len(list((tmp_path / "notebook-results").rglob("*.safetensors"))) == 4
