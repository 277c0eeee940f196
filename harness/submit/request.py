"""What `submit` is asked to do: its options, and what is refused before anything is read."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.core.data.catalog import KNOWN, DatasetSpec, parse
from harness.core.errors import UnknownNameError, UserError
from harness.core.nets.names import canonical
from harness.core.text import comma_separated
from harness.engine.options import Options, parse_options
from harness.engine.protocol import protocol_named
from harness.engine.scales import scale_named
from harness.submit.importers import FORMATS

SUFFIX = "@submitted"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LABELS = ("stored", "hard", "logits")


@dataclass(frozen=True)
class SubmitRequest:
    """What `submit` is asked to do; None stands for what the scale, the file or the dataset says.

    claimed: percent, as typed. normalised: None, or the dataset whose statistics were used ("" its own).
    mean, std: one number for all channels, or one for each, of pixels in [0, 1].
    seed: that of the first set in the file; the others count on.
    """

    file: Path | None
    dataset: str
    method: str
    claimed: float | None = None
    ipc: int | None = None
    scale: str = "paper"
    evals: int | None = None
    format: str | None = None
    factor: int | None = None
    normalised: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    raw: bool = False
    zca: bool = False
    image_size: int | None = None
    labels: str = "stored"
    lr: float | None = None
    augmentation: str | None = None
    seed: int = 0
    experiment: int | None = None
    arch: str | None = None
    eval_arch: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None
    results: Path = Path("results")
    data: Path | None = None
    force: bool = False
    lint_only: bool = False
    json: bool = False

    @property
    def data_dir(self) -> Path:
        """Folder of the datasets; UserError if that is this user's home and there is none."""
        return Options(data=self.data).data_dir

    @cached_property
    def spec(self) -> DatasetSpec:
        """The dataset that was named, whose files are listed once; UserError if there is no such one."""
        (dataset,) = parse_options({"dataset": [self.dataset]}).dataset
        return parse(dataset, self.data_dir, self.image_size, self.zca)

    @property
    def network(self) -> str:
        """The network that claims are about, in its one spelling."""
        return canonical(self.arch or scale_named(self.scale).arch)

    @property
    def networks(self) -> tuple[str, ...]:
        """All networks that are trained on the set, each in its one spelling."""
        return tuple(dict.fromkeys(map(canonical, self.eval_arch))) or (self.network,)

    @property
    def full_name(self) -> str:
        """Method under which the record stands: `dm@submitted`."""
        return f"{self.method}{SUFFIX}"

    def say(self, *lines: str) -> None:
        """Print lines for people, unless JSON and nothing else was asked for."""
        if not self.json:
            for line in lines:
                print(line, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `submit`, under the names of `Request`'s fields."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="the distilled set, a file or folder; without it, what was submitted is listed",
    )
    texts = {
        "dataset": ("NAME", "dataset that it was distilled from, see `list datasets`"),
        "method": ("NAME", f"what to call it; tables show NAME{SUFFIX}"),
        "scale": ("NAME", "track: paper, cpu, smoke (paper)"),
        "format": ("NAME", f"{', '.join(FORMATS)} (from the file's name)"),
        "labels": ("HOW", "stored, hard (the highest of a row) or logits (their softmax) (stored)"),
        "augmentation": ("OPS", "DSA's operations, dc: and DC's, or none (from the file, else the field's)"),
        "arch": ("NAME", "network, see `list archs` (from the scale)"),
        "device": ("NAME", "auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N (auto)"),
    }
    several = {
        "eval_arch": "networks that are trained on it (that of --arch)",
        "protocol": "evaluations, see `list protocols` (from the scale)",
    }
    for name, about in several.items():
        parser.add_argument(
            _flag(name), type=comma_separated, metavar="A,B", default=argparse.SUPPRESS, help=about
        )
    whole = {
        "ipc": "stored images per class (from the number of images)",
        "evals": "networks trained on each set (from the scale)",
        "factor": "multi-formation: each image is a grid of N x N (from the file, else 1)",
        "image_size": "side of the images of a folder dataset",
        "seed": "seed of the first set in the file, the others count on (0)",
        "experiment": "take only the N-th set of a file, from 0 (all)",
        "threads": "CPU threads",
    }
    for name, (metavar, about) in texts.items():
        parser.add_argument(_flag(name), metavar=metavar, default=argparse.SUPPRESS, help=about)
    for name, about in whole.items():
        parser.add_argument(_flag(name), type=int, metavar="N", default=argparse.SUPPRESS, help=about)
    _add_numbers_and_switches(parser)


def _add_numbers_and_switches(parser: argparse.ArgumentParser) -> None:
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--claimed", type=float, metavar="PERCENT", default=absent, help="the accuracy claimed, e.g. 65.3"
    )
    parser.add_argument(
        "--lr", type=float, metavar="RATE", default=absent, help="learning rate that was distilled along"
    )
    parser.add_argument(
        "--normalised",
        nargs="?",
        const="",
        metavar="NAME",
        default=absent,
        help="pixels are normalised, by the statistics of the dataset NAME if not by its own",
    )
    for name, about in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{name}",
            type=_numbers,
            metavar="A,B,C",
            default=absent,
            help=f"pixels in [0, 1] were normalised by this {about}, of all channels or of each",
        )
    parser.add_argument("--results", type=Path, metavar="DIR", default=absent, help="where records lie")
    parser.add_argument("--data", type=Path, metavar="DIR", default=absent, help="where datasets lie")
    switches = {
        "raw": "pixels are in [0, 1] or [0, 255], not normalised",
        "zca": "the set is for ZCA whitened images",
        "force": "evaluate in spite of errors",
        "lint_only": "look it over and stop",
        "json": "print JSON and nothing else",
    }
    for name, about in switches.items():
        parser.add_argument(_flag(name), action="store_true", default=absent, help=about)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, e.g. 0.5 or 0.5,0.5,0.5") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def request_from(arguments: argparse.Namespace) -> SubmitRequest:
    """The request that was typed; UserError for what is missing or cannot be."""
    typed = {
        name: value for name, value in vars(arguments).items() if name in SubmitRequest.__dataclass_fields__
    }
    if typed["file"] is not None:
        for name in ("dataset", "method"):
            if name not in typed:
                raise UserError(f"{_flag(name)} is missing; type submit FILE --dataset NAME --method NAME")
    request = SubmitRequest(**({"dataset": "", "method": ""} | typed))
    if request.file is not None:
        _check(request)
    return request


def _check(request: SubmitRequest) -> None:
    if not NAME.fullmatch(request.method):
        raise UserError(
            f"--method {request.method!r} cannot name a record; "
            "expected letters, digits and . _ + -, e.g. dm-2024"
        )
    if request.claimed is not None and not 1 <= request.claimed <= 100:
        raise UserError(f"--claimed {request.claimed:g} is no accuracy in percent; type e.g. --claimed 65.3")
    scale = scale_named(request.scale)
    for name in request.protocol or (scale.protocol,):
        protocol_named(name)
    for name in (request.arch or scale.arch, *request.eval_arch):
        canonical(name)
    if request.labels not in LABELS:
        raise UnknownNameError("way to read labels", request.labels, LABELS)
    if request.raw and request.normalised is not None:
        raise UserError("--raw says that pixels are not normalised, --normalised that they are; drop one")
    _check_statistics(request)
    if request.normalised and request.normalised not in KNOWN:
        raise UnknownNameError("dataset", request.normalised, KNOWN)
    if request.lr is not None and not request.lr > 0:
        raise UserError(f"--lr {request.lr:g} is no learning rate; it must be positive")
    for name in ("ipc", "evals", "factor", "threads", "image_size"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UserError(f"{_flag(name)} {value} is impossible; expected a whole number from 1 up")
    if request.seed < 0:
        raise UserError(f"--seed {request.seed} is impossible; expected a whole number from 0 up")


def _check_statistics(request: SubmitRequest) -> None:
    """UserError for a mean without a standard deviation, for impossible ones, or two ways of stating them."""
    if (request.mean is None) != (request.std is None):
        raise UserError("--mean and --std belong together; type e.g. --mean 0.5 --std 0.5")
    if request.mean is None or request.std is None:
        return
    if request.raw or request.normalised is not None:
        other = "--raw" if request.raw else "--normalised"
        raise UserError(f"{other} says otherwise than --mean and --std how pixels are read; drop one")
    if not all(map(math.isfinite, (*request.mean, *request.std))) or min(request.std) <= 0:
        raise UserError("--mean and --std must be finite, and --std positive; type e.g. --mean 0.5 --std 0.5")
