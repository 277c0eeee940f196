"""Options: values typed and from TOML read alike, the command line wins, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UnknownNameError, UserError
from harness.engine.options import Options, Setting, option_infos, parse_options


def toml(folder: Path, text: str) -> Path:
    file = folder / "sweep.toml"
    file.write_text(text)
    return file


def test_defaults_are_the_papers_user_expectation() -> None:
    options = parse_options({})
    assert options == Options()
    assert (options.methods, options.ipc, options.dataset) == (("bacon", "idm"), (1, 10, 50), ("cifar10",))
    assert (options.scale, options.launcher, options.device) == ("paper", "local", "auto")


def test_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert parse_options({}).data_dir == tmp_path
    assert parse_options({"data": "elsewhere"}).data_dir == Path("elsewhere")


@pytest.mark.parametrize(
    ("typed", "seeds"), [("3", (0, 1, 2)), ("0,4", (0, 4)), ("4,", (4,)), ("4,0,4", (0, 4))]
)
def test_seeds_are_a_count_or_a_list(typed: str, seeds: tuple[int, ...]) -> None:
    assert parse_options({"seeds": typed}).seeds == seeds


@pytest.mark.parametrize(
    ("typed", "flops"), [("500G", 5e11), ("20T", 2e13), ("1.5p", 1.5e15), ("1e9", 1e9), ("2.5e3M", 2.5e9)]
)
def test_budget_has_a_unit(typed: str, flops: float) -> None:
    assert parse_options({"budget": typed}).budget == pytest.approx(flops)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90s", 90), ("50m", 3000), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172_800)]
)
def test_the_time_of_a_run_has_a_unit(typed: str, seconds: float, tmp_path: Path) -> None:
    assert parse_options({"for_": typed}).for_ == seconds
    assert parse_options({}, toml(tmp_path, f'for = "{typed}"')).for_ == seconds


def test_lists_may_be_repeated_and_separated_by_commas() -> None:
    options = parse_options({"dataset": ["digits,mnist", "svhn"], "ipc": ["10", "1, 10"]})
    assert options.dataset == ("digits", "mnist", "svhn")
    assert options.ipc == (1, 10)


def test_settings_may_hold_commas_equal_signs_and_variants() -> None:
    options = parse_options({"set": ["bacon@paper.strategy=color,crop=1", "*.lr_img=0.1"]})
    assert options.set == (Setting("bacon@paper", "strategy", "color,crop=1"), Setting("*", "lr_img", "0.1"))


def test_a_file_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        methods = ["dm", "random"]
        ipc = [1, 10]
        dataset = "digits,mnist"
        seeds = [0, 4]
        budget = "20T"
        image-size = 32
        zca = true
        results = "out"
        set = ["dm.lr_img=0.1"]
        """,
    )
    typed = {
        "methods": ["dm,random"],
        "ipc": ["1,10"],
        "dataset": ["digits", "mnist"],
        "seeds": "0,4",
        "budget": "20T",
        "image_size": "32",
        "zca": True,
        "results": "out",
        "set": ["dm.lr_img=0.1"],
    }
    assert parse_options({}, file) == parse_options(typed)


def test_the_command_line_beats_the_file(tmp_path: Path) -> None:
    file = toml(
        tmp_path, 'ipc = 1\nseeds = 3\nzca = true\nset = {dm = {lr_img = 0.1}, "*" = {momentum = 0.9}}'
    )
    options = parse_options({"ipc": ["10"], "zca": False, "set": ["dm.lr_img=0.2"]}, file)
    assert (options.ipc, options.seeds, options.zca) == ((10,), (0, 1, 2), False)
    assert options.set[-1] == Setting("dm", "lr_img", "0.2")
    assert options.set[:2] == (Setting("dm", "lr_img", 0.1), Setting("*", "momentum", 0.9))


def test_folder_names_with_commas_can_be_written_in_a_file(tmp_path: Path) -> None:
    assert parse_options({}, toml(tmp_path, 'dataset = ["folder:a,b"]')).dataset == ("folder:a,b",)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("ipc", ["0"]),
        ("ipc", ["-1"]),
        ("ipc", ["ten"]),
        ("ipc", [","]),
        ("seeds", "0"),
        ("seeds", "-1,2"),
        ("evals", "0"),
        ("budget", "20Q"),
        ("budget", "0T"),
        ("budget", "-1T"),
        ("slots", "0"),
        ("threads", "1.5"),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("for_", "50"),
        ("for_", "0m"),
        ("for_", "1h30"),
        ("for_", "soon"),
        ("set", ["lr_img=0.1"]),
        ("set", ["bacon.lr_img"]),
        ("methods", [""]),
        ("results", ""),
    ],
)
def test_values_that_do_not_fit_are_named_with_what_was_expected(name: str, typed: object) -> None:
    with pytest.raises(UserError) as caught:
        parse_options({name: typed})
    message = str(caught.value)
    assert message.startswith(f"--{name.rstrip('_')} ")
    assert f"expected {option_infos()[name].expects}" in message


@pytest.mark.parametrize(
    "text",
    [
        "ipc = 1.5",
        "ipc = true",
        "zca = 1",
        "seeds = []",
        "methods = [1]",
        "set = {dm = 1}",
        "device = 0",
        "ipc = []",
    ],
)
def test_values_of_the_wrong_type_in_a_file_are_named_with_the_file(text: str, tmp_path: Path) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(UserError, match="expected") as caught:
        parse_options({}, file)
    assert str(caught.value).startswith(f"{file}: {text.partition(' ')[0]} =")


@pytest.mark.parametrize(
    ("name", "typed", "nearest"),
    [
        ("priority", "valu", "value"),
        ("scale", "smok", "smoke"),
        ("launcher", "locl", "local"),
        ("precision", "fp31", "fp32"),
    ],
)
def test_misspelt_choices_get_the_nearest(name: str, typed: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
        parse_options({name: typed})


@pytest.mark.parametrize("name", ["results", "data"])
def test_a_home_that_there_is_not_is_one_line(name: str, tmp_path: Path) -> None:
    for typed, file in (({name: "~nosuch/x"}, None), ({}, toml(tmp_path, f'{name} = "~nosuch/x"'))):
        with pytest.raises(UserError, match=rf"{name}( =)? ~nosuch/x: no such home folder is known"):
            parse_options(typed, file)


def test_a_folder_of_images_in_a_home_that_there_is_not_is_one_line() -> None:
    for names in ("folder:~nosuch/x", ["digits", "folder:~nosuch/x"]):
        with pytest.raises(UserError, match="folder:~nosuch/x: no such home folder is known"):
            parse_options({"dataset": names})


def test_without_a_home_the_data_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HARNESS_DATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UserError, match=r"no home folder.*HARNESS_DATA"):
        _ = parse_options({}).data_dir


def test_unknown_keys_of_a_file_get_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'metods'; did you mean 'methods'"):
        parse_options({}, toml(tmp_path, 'metods = ["dm"]'))


def test_files_that_are_no_toml_or_absent_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not TOML"):
        parse_options({}, toml(tmp_path, "ipc = "))
    with pytest.raises(UserError, match="cannot read"):
        parse_options({}, tmp_path / "none.toml")
