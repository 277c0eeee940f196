"""Options of `run` and `plan`: one table for the command line and for TOML files; what is typed wins.

Every option is a field of `Options`; its metadata says how a value is read, so that both sources accept the
same values and complain in the same words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.data.catalog import FOLDER_PREFIX, default_data_dir
from harness.core.errors import UnknownNameError, UserError
from harness.core.packaged import packaged
from harness.engine.protocol import TUNED, protocol_named
from harness.engine.scales import SCALES
from harness.engine.tomlfile import read_toml

LAUNCHERS = ("inline", "local", "slurm")
PRIORITIES = ("plan", "value")
ACCUMULATED = ("set", "resources", "slurm")  # options whose values of all sources hold, the later ones first
PROFILE_KEYS = ("device", "precision", "slots", "slots_per_gpu", "threads", "retries")  # and those of Slurm
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
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
    verbatim: bool = False  # given several times, the values stay apart and are not split at commas
    slurm: bool = False  # of no use but with --launcher slurm

    @property
    def switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.parse is _switch


def _info(parse: Callable[[Any], Any], expects: str, about: str, **flags: bool) -> Mapping[str, Any]:
    """Metadata of a field of `Options`; `flags` are those of `OptionInfo`."""
    return {"info": OptionInfo(parse, expects, about, **flags)}


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


def _datasets(value: Any) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        if name.lower().startswith(FOLDER_PREFIX):
            Path(name[len(FOLDER_PREFIX) :]).expanduser()  # a home that there is not is said to be none
    return names


def _protocols(value: Any) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        protocol_named(name)
    return names


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return int(value)


def _count(value: Any) -> int:
    number = _whole(value)
    if number < 0:
        raise ValueError
    return number


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
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
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


def _lines(value: Any) -> tuple[str, ...]:
    """Shell commands: one, or a list of them."""
    lines = value if isinstance(value, list) else [value]
    return tuple(_text(line) for line in lines)


def _minutes(value: Any) -> int:
    """Whole minutes from `90`, `45m`, `12h`, `2d`, or Slurm's `HH:MM:SS` and `D-HH[:MM[:SS]]`, rounded up."""
    text = str(value).strip()
    if isinstance(value, bool):
        raise ValueError
    if match := re.fullmatch(r"(\d+)([mhd]?)", text):
        minutes = int(match[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?", text):
        days, first, second, third = (int(part or 0) for part in match.groups())
        if match[1] is None and match[4] is None:
            raise ValueError  # `12:30` is minutes and seconds to Slurm, hours and minutes to most people
        minutes = days * 1440 + first * 60 + second + (third > 0)
    else:
        raise ValueError
    return _positive(minutes)


def _duration(value: Any) -> float:
    """Seconds from `90s`, `50m`, `2h` or `1h30m`; a number alone could be minutes or seconds."""
    text = str(value).strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise ValueError
    return seconds


def _memory(value: Any) -> str:
    """Slurm's notation of memory: `4000M`, `16G`, `1T`."""
    match = re.fullmatch(r"(\d+)([MGT])B?", str(value).strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise ValueError
    return f"{match[1]}{match[2].upper()}"


def _pairs(value: Any) -> tuple[tuple[str, str | bool], ...]:
    """From `["constraint=a100", "exclusive"]`, or a TOML table; a word alone is a switch."""
    if isinstance(value, Mapping):
        if not all(isinstance(item, (str, int, bool)) for item in value.values()):
            raise ValueError
        return tuple((str(key), item if isinstance(item, bool) else str(item)) for key, item in value.items())
    return tuple(_pair(item) for item in (value if isinstance(value, list) else [value]))


def _pair(text: Any) -> tuple[str, str | bool]:
    match = re.fullmatch(r"(?:--)?([a-z][a-z-]*)(?:=(.+))?", _text(text))
    if match is None:
        raise ValueError
    return match[1], match[2] if match[2] is not None else True


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
            _datasets,
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
        metadata=_info(
            _text, "a name of `list archs`", "network that distils, see `list archs` (from the scale)"
        ),
    )
    eval_arch: tuple[str, ...] = field(
        default=(),
        metadata=_info(
            _names,
            "names of `list archs`, e.g. ConvNet,ResNet18",
            "networks that are trained on each set (the one that distils)",
            repeatable=True,
        ),
    )
    protocol: tuple[str, ...] = field(
        default=(),
        metadata=_info(
            _protocols,
            f"names of `list protocols`, e.g. dc-1000,kd-300, each also with {TUNED}",
            f"how they are trained, see `list protocols`; {TUNED} chooses the rate on a tenth of train "
            "(from the scale)",
            repeatable=True,
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
            verbatim=True,
        ),
    )
    gains: bool = field(
        default=False,
        metadata=_info(
            _switch,
            "true or false",
            "run what the columns IOR, HLR, LRS and ARS need as well: random, and whole under hard labels",
        ),
    )
    curve: int = field(
        default=0,
        metadata=_info(
            _count,
            "a whole number from 0 up",
            "judge the set at so many moments of its distillation, by a tenth of train left out of it (0)",
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
        default="auto",
        metadata=_info(
            _device,
            "auto, cpu, cuda or cuda:N",
            "auto (all GPUs if there are any, else the CPU), cpu, cuda (all GPUs) or cuda:N (auto)",
        ),
    )
    launcher: str = field(
        default="local",
        metadata=_info(
            _choice("launcher", *LAUNCHERS),
            ", ".join(LAUNCHERS),
            "inline (in this process), local (a process for each trial) or slurm (local)",
        ),
    )
    slots: int | None = field(
        default=None,
        metadata=_info(
            _positive,
            "a whole number from 1 up",
            "trials at a time, on this machine or in each job (what cores or GPUs allow)",
        ),
    )
    slots_per_gpu: int | None = field(
        default=None,
        metadata=_info(_positive, "a whole number from 1 up", "trials at a time on each GPU (1)"),
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
    retries: int = field(
        default=2,
        metadata=_info(
            _count,
            "a whole number from 0 up",
            "times that a trial whose process died is tried again (2)",
        ),
    )
    for_: float | None = field(
        default=None,
        metadata=_info(
            _duration,
            "a time with its unit, e.g. 90s, 50m or 1h30m",
            "seconds, minutes or hours that the run may take: then it leaves checkpoints, says what is left "
            "and ends with status 75 (no limit)",
        ),
    )
    priority: str = field(
        default="plan",
        metadata=_info(
            _choice("priority", *PRIORITIES),
            " or ".join(PRIORITIES),
            "what to begin with. plan: what takes few steps; value: what fills most cells of the BACON "
            "paper's tables an estimated hour (plan)",
        ),
    )
    profile: str | None = field(
        default=None,
        metadata=_info(
            _text,
            "cpu, gpu, packed-gpu or a TOML file",
            "settings for a cluster: gpu, packed-gpu, cpu or your own TOML file; those typed win",
            slurm=True,
        ),
    )
    partition: str | None = field(
        default=None,
        metadata=_info(_text, "a partition of the cluster", "partition (the cluster's default)", slurm=True),
    )
    time: int | None = field(
        default=None,
        metadata=_info(
            _minutes, "minutes, or 45m, 12h, 2d, 1-12:00:00", "time limit of a job (4h)", slurm=True
        ),
    )
    gpus: int | None = field(
        default=None,
        metadata=_info(_count, "a whole number from 0 up", "GPUs of each job (0)", slurm=True),
    )
    cpus: int | None = field(
        default=None,
        metadata=_info(_positive, "a whole number from 1 up", "CPUs of each job (4)", slurm=True),
    )
    mem: str | None = field(
        default=None,
        metadata=_info(
            _memory, "a size such as 4000M or 16G", "memory of each job (the cluster's default)", slurm=True
        ),
    )
    account: str | None = field(
        default=None, metadata=_info(_text, "an account", "account to charge", slurm=True)
    )
    qos: str | None = field(
        default=None, metadata=_info(_text, "a quality of service", "quality of service", slurm=True)
    )
    array_parallelism: int = field(
        default=32,
        metadata=_info(_positive, "a whole number from 1 up", "jobs that may run at a time (32)", slurm=True),
    )
    trials_per_job: int = field(
        default=1,
        metadata=_info(_positive, "a whole number from 1 up", "trials packed into one job (1)", slurm=True),
    )
    setup: tuple[str, ...] = field(
        default=(),
        metadata=_info(
            _lines,
            'a shell command, e.g. "module load cuda"',
            "shell command at the start of each job",
            repeatable=True,
            verbatim=True,
            slurm=True,
        ),
    )
    slurm: tuple[tuple[str, str | bool], ...] = field(
        default=(),
        metadata=_info(
            _pairs,
            "an option of sbatch as KEY=VALUE, e.g. constraint=a100",
            "any other option of sbatch, e.g. constraint=a100",
            repeatable=True,
            verbatim=True,
            slurm=True,
        ),
    )
    resources: tuple[Setting, ...] = field(
        default=(),
        metadata=_info(
            _settings,
            "METHOD.KEY=VALUE, e.g. mtt.mem=64G",
            "other time, gpus, cpus, mem or partition for one method's jobs, e.g. mtt.mem=64G",
            repeatable=True,
            verbatim=True,
            slurm=True,
        ),
    )
    detach: bool = field(
        default=False,
        metadata=_info(
            _switch, "true or false", "return once the jobs are submitted; see `status`", slurm=True
        ),
    )
    json: bool = field(
        default=False, metadata=_info(_switch, "true or false", "print one JSON object and nothing else")
    )

    @property
    def data_dir(self) -> Path:
        """Where datasets lie; UserError if that is this user's home and there is none."""
        try:
            return self.data or default_data_dir()
        except RuntimeError:
            raise UserError(
                "this user has no home folder, in which datasets would lie; pass --data, or set HARNESS_DATA"
            ) from None


def option_infos() -> dict[str, OptionInfo]:
    """All options by the name of their field, in the order of `--help`."""
    return {part.name: part.metadata["info"] for part in fields(Options)}


def parse_options(typed: Mapping[str, Any], file: Path | None = None) -> Options:
    """Options from a profile, from a TOML file, if one is given, and from what was typed: the later win.

    `typed` maps names of fields to strings, lists of strings (repeatable options) or booleans (switches).
    A profile chooses the launcher slurm, GPUs of jobs choose the device cuda, where nothing else is said.
    UserError in one line for an unknown name, a value that does not fit, or a file that is no TOML.
    """
    infos = option_infos()
    joined = {
        name: ",".join(value) if isinstance(value, list) and not infos[name].verbatim else value
        for name, value in typed.items()
    }
    return _merged(joined, file, flag)


def _merged(given: Mapping[str, Any], file: Path | None, where: Callable[[str], str]) -> Options:
    """See `parse_options`; `where` says in complaints which of the given values was wrong."""
    infos = option_infos()
    read = {name: _read(infos[name], value, where(name)) for name, value in given.items()}
    sources = [_read_toml(file, infos) if file is not None else {}, read]
    profile = next((source["profile"] for source in reversed(sources) if "profile" in source), None)
    if profile is not None:
        asked = {name: value for source in sources for name, value in source.items()}
        sources.insert(0, {"launcher": "slurm", **_without_others(_read_profile(profile, infos), asked)})
    values = {name: value for source in sources for name, value in source.items()}
    for name in ACCUMULATED:
        values[name] = tuple(item for source in sources for item in source.get(name, ()))
    if values.get("gpus"):
        values.setdefault("device", "cuda")
    return Options(**values)


def given_options(given: Mapping[str, Any], file: Path | None = None) -> Options:
    """Options from Python's values by name and, where they are silent, from a TOML file.

    Sequences, paths and numbers of NumPy do as well as lists, strings and numbers; None is the default.
    UserError as `parse_options`, by the names that were given.
    """
    infos = option_infos()
    for name in given:
        if name not in infos:
            raise UnknownNameError("option", name, infos)
    values = {name: _plain(value) for name, value in given.items() if value is not None}
    return _merged(values, file, lambda name: f"{name} =")


def _plain(value: Any) -> Any:
    """A value of Python as a TOML file has it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _read_profile(name: str, infos: Mapping[str, OptionInfo]) -> dict[str, Any]:
    """Values of the profile of that name that comes along, or of the TOML file of that name."""
    folder = packaged("harness.launch", "profiles")
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file() and path.parent == folder:
        unknown = UnknownNameError("profile", name, (found.stem for found in folder.glob("*.toml")))
        raise UserError(f"{unknown}, or a file: --profile mysite.toml")
    known = {key: info for key, info in infos.items() if info.slurm or key in PROFILE_KEYS}
    return _read_toml(path, {key: info for key, info in known.items() if key not in ("profile", "detach")})


def _without_others(profile: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A profile without the resources of methods that do not run, and of keys that are asked for otherwise.

    UserError if it has resources for a method that there is not.
    """
    from methods import find  # `--help` reads no profile and does without

    held: tuple[Setting, ...] = profile.get("resources", ())
    for setting in held:
        find(setting.method)
    running = asked.get("methods", Options.methods)
    kept = (setting for setting in held if setting.method in running and setting.key not in asked)
    return {**profile, "resources": tuple(kept)}


def _read_toml(file: Path, infos: Mapping[str, OptionInfo]) -> dict[str, Any]:
    table = read_toml(file)
    names = {flag(name)[2:]: name for name in infos}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = names.get(key.replace("_", "-"))
        if name is None:
            raise UnknownNameError(f"option in {file}:", key, names)
        values[name] = _read(infos[name], value, f"{file}: {key} =")
    return values


def _read(info: OptionInfo, value: Any, where: str) -> Any:
    try:
        return info.parse(value)
    except ValueError:
        raise UserError(f"{where} {_shown(value)}: expected {info.expects}") from None
    except RuntimeError:  # of `Path.expanduser`
        raise UserError(f"{where} {_shown(value)}: no such home folder is known; write it out") from None


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def flag(name: str) -> str:
    """`image_size` as it is typed: `--image-size`; `for_` is called so since `for` is a word of Python."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def nearest_flag_error(argument: str, known: Sequence[str]) -> UserError:
    """The error for an argument that no option takes."""
    if argument.startswith("-"):
        return UnknownNameError("option", argument.partition("=")[0], known)
    return UserError(f"unexpected argument {argument!r}; options start with --, see --help")
