"""Options of `run` and `plan`: one table for the command line and for TOML files; what is typed wins.

Every option is a field of `Options`; its metadata says how a value is read, so that both sources accept the
same values and complain in the same words.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.catalog import default_data_dir
from harness.errors import UnknownNameError, UserError
from harness.protocol import PROTOCOLS
from harness.scales import SCALES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

BUDGET_UNITS = {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


class Setting(NamedTuple):
    """`--set method.key=value`; `method` may be `*`, `value` a string as typed or a TOML value."""

    method: str
    key: str
    value: Any


class OptionInfo(NamedTuple):
    """How one option is read and described; `parse` raises ValueError unless a value is what it `expects`."""

    parse: Callable[[Any], Any]
    expects: str
    help: str
    repeatable: bool = False

    @property
    def switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.parse is _switch


def _info(
    parse: Callable[[Any], Any], expects: str, about: str, *, repeatable: bool = False
) -> Mapping[str, Any]:
    """Metadata of a field of `Options`."""
    return {"info": OptionInfo(parse, expects, about, repeatable)}


def _listed(value: Any) -> list[Any]:
    """A comma-separated string, a TOML list or a single value, as a list; the items stay as they are."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, list) else [value]


def _names(value: Any) -> tuple[str, ...]:
    names = _listed(value)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError
    return tuple(dict.fromkeys(names))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return int(value)


def _positive(value: Any) -> int:
    number = _whole(value)
    if number < 1:
        raise ValueError
    return number


def _positives(value: Any) -> tuple[int, ...]:
    numbers = sorted({_positive(item) for item in _listed(value)})
    if not numbers:
        raise ValueError
    return tuple(numbers)


def _seeds(value: Any) -> tuple[int, ...]:
    """`3` counts (0, 1, 2); `0,4`, `4,` and lists name the seeds."""
    if isinstance(value, list) or (isinstance(value, str) and "," in value):
        seeds = tuple(sorted({_whole(item) for item in _listed(value)}))
    else:
        seeds = tuple(range(_whole(value)))
    if not seeds or seeds[0] < 0:
        raise ValueError
    return seeds


def _budget(value: Any) -> float:
    """FLOPs; strings may end in a unit: `500G`, `20T`, `1.5P`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)([MGTPE]?)", str(value).strip(), re.IGNORECASE)
    if match is None or isinstance(value, bool):
        raise ValueError
    flops = float(match[1]) * BUDGET_UNITS[match[2].upper()]
    if not 0 < flops < float("inf"):
        raise ValueError
    return flops


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _choice(kind: str, *choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise UnknownNameError(kind, str(value), choices)
        return str(value)

    return parse


def _settings(value: Any) -> tuple[Setting, ...]:
    """From `["bacon.lr_img=0.1"]`, or a TOML table `{bacon = {lr_img = 0.1}}`."""
    if isinstance(value, Mapping):
        if not all(isinstance(table, Mapping) for table in value.values()):
            raise ValueError
        return tuple(
            Setting(method, key, item) for method, table in value.items() for key, item in table.items()
        )
    return tuple(_setting(item) for item in (value if isinstance(value, list) else [value]))


def _setting(text: Any) -> Setting:
    match = re.fullmatch(r"([^.=\s]+)\.([^.=\s]+)=(.*)", _text(text))
    if match is None:
        raise ValueError
    return Setting(*match.groups())


@dataclass(frozen=True)
class Options:
    """What `run` and `plan` are asked to do; None stands for what the scale or the launcher decides."""

    methods: tuple[str, ...] = field(
        default=("bacon", "idm"),
        metadata=_info(_names, "names, e.g. bacon,idm", "methods to run (bacon,idm)", repeatable=True),
    )
    ipc: tuple[int, ...] = field(
        default=(1, 10, 50),
        metadata=_info(
            _positives, "whole numbers from 1 up, e.g. 1,10,50", "images per class (1,10,50)", repeatable=True
        ),
    )
    dataset: tuple[str, ...] = field(
        default=("cifar10",),
        metadata=_info(
            _names,
            "names or folder:PATH, e.g. digits,mnist",
            "see `list datasets` (cifar10)",
            repeatable=True,
        ),
    )
    scale: str = field(
        default="paper",
        metadata=_info(_choice("scale", *SCALES), " or ".join(SCALES), f"track: {', '.join(SCALES)} (paper)"),
    )
    seeds: tuple[int, ...] | None = field(
        default=None,
        metadata=_info(
            _seeds,
            "a count such as 3 or a list such as 0,4 (one seed: 4,)",
            "number of distillation seeds, or a list (from the scale)",
        ),
    )
    evals: int | None = field(
        default=None,
        metadata=_info(
            _positive, "a whole number from 1 up", "networks trained on each distilled set (from the scale)"
        ),
    )
    arch: str | None = field(
        default=None,
        metadata=_info(_text, "a name of `list archs`", "network, see `list archs` (from the scale)"),
    )
    protocol: str | None = field(
        default=None,
        metadata=_info(
            _choice("protocol", *PROTOCOLS),
            " or ".join(PROTOCOLS),
            "evaluation, see `list protocols` (from the scale)",
        ),
    )
    budget: float | None = field(
        default=None,
        metadata=_info(
            _budget,
            "a positive number of FLOPs, e.g. 500G, 20T or 1.5P",
            "FLOPs that each distillation may spend, e.g. 20T; replaces the methods' number of steps",
        ),
    )
    set: tuple[Setting, ...] = field(
        default=(),
        metadata=_info(
            _settings,
            "METHOD.KEY=VALUE, e.g. bacon.lr_img=0.1",
            "change a method's setting, e.g. bacon.lr_img=0.1; METHOD may be *",
            repeatable=True,
        ),
    )
    zca: bool = field(
        default=False, metadata=_info(_switch, "true or false", "ZCA whitening in place of normalisation")
    )
    image_size: int | None = field(
        default=None,
        metadata=_info(
            _positive, "a number of pixels, e.g. 32", "side to which images of folder datasets are brought"
        ),
    )
    precision: str = field(
        default="fp32",
        metadata=_info(
            _choice("precision", "fp32", "bf16"), "fp32 or bf16", "of distillation: fp32 or bf16 (fp32)"
        ),
    )
    device: str = field(
        default="cpu",
        metadata=_info(_device, "cpu, cuda or cuda:N", "cpu, cuda (all of them) or cuda:N (cpu)"),
    )
    launcher: str = field(
        default="local",
        metadata=_info(
            _choice("launcher", "inline", "local"),
            "inline or local",
            "inline (in this process) or local (a process for each trial) (local)",
        ),
    )
    slots: int | None = field(
        default=None,
        metadata=_info(_positive, "a whole number from 1 up", "trials at a time (what cores or GPUs allow)"),
    )
    threads: int | None = field(
        default=None,
        metadata=_info(
            _positive, "a whole number from 1 up", "CPU threads of each trial (a share of the cores)"
        ),
    )
    results: Path = field(
        default=Path("results"), metadata=_info(_path, "a folder", "where records are written (results)")
    )
    data: Path | None = field(
        default=None,
        metadata=_info(
            _path,
            "a folder",
            "where datasets lie ($HARNESS_DATA, else ~/.cache/distillation-harness)",
        ),
    )
    retry: str | None = field(
        default=None,
        metadata=_info(_choice("trials to retry", "failed"), "failed", "failed: run failed trials again"),
    )
    json: bool = field(
        default=False, metadata=_info(_switch, "true or false", "print one JSON object and nothing else")
    )

    @property
    def data_dir(self) -> Path:
        """Where datasets lie."""
        return self.data or default_data_dir()


def option_infos() -> dict[str, OptionInfo]:
    """All options by the name of their field, in the order of `--help`."""
    return {part.name: part.metadata["info"] for part in fields(Options)}


def parse_options(typed: Mapping[str, Any], file: Path | None = None) -> Options:
    """Options from a TOML file, if one is given, and from what was typed, which wins.

    `typed` maps names of fields to strings, lists of strings (repeatable options) or booleans (switches).
    UserError in one line for an unknown name, a value that does not fit, or a file that is no TOML.
    """
    infos = option_infos()
    joined = {
        name: ",".join(value) if isinstance(value, list) and name != "set" else value
        for name, value in typed.items()
    }
    from_line = {name: _read(infos[name], value, flag(name)) for name, value in joined.items()}
    from_file = _read_toml(file, infos) if file is not None else {}
    settings = (*from_file.get("set", ()), *from_line.get("set", ()))
    return Options(**{**from_file, **from_line, "set": settings})


def _read_toml(file: Path, infos: Mapping[str, OptionInfo]) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; expected a TOML file with options") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not TOML: {error}") from None
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in infos:
            raise UnknownNameError(f"option in {file}:", key, [flag(known)[2:] for known in infos])
        values[name] = _read(infos[name], value, f"{file}: {key} =")
    return values


def _read(info: OptionInfo, value: Any, where: str) -> Any:
    try:
        return info.parse(value)
    except ValueError:
        raise UserError(f"{where} {_shown(value)}: expected {info.expects}") from None


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def flag(name: str) -> str:
    """`image_size` as it is typed: `--image-size`."""
    return f"--{name.replace('_', '-')}"


def nearest_flag_error(argument: str, known: Sequence[str]) -> UserError:
    """The error for an argument that no option takes."""
    if argument.startswith("-"):
        return UnknownNameError("option", argument.partition("=")[0], known)
    return UserError(f"unexpected argument {argument!r}; options start with --, see --help")
