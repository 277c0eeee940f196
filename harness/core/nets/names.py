"""Names of the networks: parsing, canonical spelling and descriptions. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from harness.core.errors import UnknownNameError, UserError

Activation = Literal["relu", "sigmoid", "leakyrelu", "swish"]
Norm = Literal["instance", "batch", "layer", "group", "prebatch", "none"]
Pooling = Literal["avg", "max", "none"]
Widths = Literal["even", "doubling"]

GROUPS = 4
MAX_DEPTH = 6


@dataclass(frozen=True)
class ConvNetSpec:
    """What a ConvNet name says; the defaults are the network that papers call just "ConvNet".

    FRePo's has other habits: the norm "prebatch" is batch norm before the convolutions of all blocks but the
    first; in widths "doubling", `width` is the first block's, and weights begin as its framework draws them.
    """

    depth: int = 3
    width: int = 128
    activation: Activation = "relu"
    norm: Norm = "instance"
    pooling: Pooling = "avg"
    widths: Widths = "even"

    @property
    def name(self) -> str:
        """Canonical spelling: suffixes in the order of the fields, those at their default left out."""
        return "ConvNet" + "".join(_suffix(field, value) for field, value in self.changes().items())

    def changes(self) -> dict[str, Any]:
        """Field -> value where it is not the default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


# Suffix -> (field of ConvNetSpec, value); depth and width carry a number and are parsed apart.
_OPTIONS: dict[str, tuple[str, str]] = {
    "ASwish": ("activation", "swish"),  # before AS, which is a prefix of it
    "AS": ("activation", "sigmoid"),
    "AR": ("activation", "relu"),
    "AL": ("activation", "leakyrelu"),
    "NN": ("norm", "none"),
    "BN": ("norm", "batch"),
    "LN": ("norm", "layer"),
    "IN": ("norm", "instance"),
    "GN": ("norm", "group"),
    "PB": ("norm", "prebatch"),
    "NP": ("pooling", "none"),
    "MP": ("pooling", "max"),
    "AP": ("pooling", "avg"),
    "DW": ("widths", "doubling"),
}
_OPTIONS_BY_LOWER = {suffix.lower(): meaning for suffix, meaning in _OPTIONS.items()}
_NUMBERS = {"d": "depth", "w": "width"}
_SUFFIX = re.compile(rf"(?P<number>[dw])(?P<value>[0-9]+)|(?P<option>{'|'.join(_OPTIONS)})", re.IGNORECASE)
_SUFFIX_HELP = (f"D1-D{MAX_DEPTH}", "W<channels>", *_OPTIONS)


def _suffix(field: str, value: int | str) -> str:
    if isinstance(value, int):
        return f"{field[0].upper()}{value}"
    return next(suffix for suffix, meaning in _OPTIONS.items() if meaning == (field, value))


_ZOO: dict[str, str] = {
    "MLP": "two hidden layers of 128 units",
    "LeNet": "LeNet-5 with ReLU and max pooling",
    "AlexCifarNet": "DD's network for CIFAR-10: two 5x5 convolutions of 64, local response norm",
    "AlexNet": "AlexNet cut down to small images, no normalisation",
    "AlexNetBN": "AlexNet with batch norm",
    "VGG11": "VGG-11 with instance norm and a single linear layer",
    "VGG11BN": "VGG-11 with batch norm",
    "ResNet18": "ResNet-18 for small images (3x3 stride-1 stem) with instance norm",
    "ResNet18BN": "ResNet-18 with batch norm",
    "ResNet18BN_AP": "ResNet-18 with batch norm, average pooling in place of strides",
}
_ZOO_BY_LOWER = {name.lower(): name for name in _ZOO}
# Networks of several widths: `ResNet18W16` has 16 channels in its first stage where ResNet18 has 64.
_WIDE = ("VGG11", "VGG11BN", "ResNet18", "ResNet18BN", "ResNet18BN_AP")
USUAL_WIDTH = 64
WIDE_HELP = "; suffix W<channels of the first layer> (64)"
_WIDE_NAME = re.compile(rf"({'|'.join(map(str.lower, _WIDE))})w([0-9]+)")

# The ConvNets of the field's ablations; every other combination of suffixes is valid too.
_VARIANTS = (
    *("ConvNetD1", "ConvNetD2", "ConvNetD4", "ConvNetW32", "ConvNetW64", "ConvNetW256"),
    *("ConvNetAS", "ConvNetAL", "ConvNetASwish", "ConvNetASwishBN"),
    *("ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetGN", "ConvNetNP", "ConvNetMP"),
    *("ConvNetNNDW", "ConvNetPBDW"),
)

ARCHS: tuple[str, ...] = ("ConvNet", *_VARIANTS, *_ZOO)


def canonical(arch: str) -> str:
    """The one spelling of a network name, e.g. ``convnetbnd4`` -> ``ConvNetD4BN``.

    Raises UnknownNameError for a name or suffix that does not exist and UserError for suffixes that
    contradict each other or lie out of range.
    """
    spec = convnet_spec(arch)
    if spec is not None:
        return spec.name
    base, width = base_and_width(arch)
    return base if width is None else f"{base}W{width}"


def base_and_width(arch: str) -> tuple[str, int | None]:
    """A network of the zoo without its width, and that; None for the usual one.

    Raises as canonical.
    """
    found = _WIDE_NAME.fullmatch(arch.lower())
    base, width = (arch.lower(), None) if found is None else (found[1], int(found[2]))
    if base not in _ZOO_BY_LOWER:
        raise UnknownNameError("network", arch, ARCHS)
    if width is not None and width < 1:
        raise UserError(f"network {arch!r} has no channels; expected a width such as W16")
    return _ZOO_BY_LOWER[base], None if width == USUAL_WIDTH else width


def describe() -> list[tuple[str, str]]:
    """(name, one-line description) of every network in ARCHS."""
    convnet = (
        "3 blocks of 3x3 convolution (128 channels), instance norm, ReLU, 2x2 average pooling; suffixes "
        f"combine in any order: {', '.join(_SUFFIX_HELP)}"
    )
    variants = [(name, f"ConvNet with {_differences(name)}") for name in _VARIANTS]
    zoo = [(name, f"{about}{WIDE_HELP if name in _WIDE else ''}") for name, about in _ZOO.items()]
    return [("ConvNet", convnet), *variants, *zoo]


def convnet_spec(arch: str) -> ConvNetSpec | None:
    """The ConvNet that ``arch`` means, or None for another network of the zoo; raises as canonical."""
    if arch.lower() in _ZOO_BY_LOWER or _WIDE_NAME.fullmatch(arch.lower()):
        return None
    if not arch.lower().startswith("convnet"):
        raise UnknownNameError("network", arch, ARCHS)
    spec = ConvNetSpec(**_parse_suffixes(arch))
    if not 1 <= spec.depth <= MAX_DEPTH:
        raise UserError(f"network {arch!r} has depth {spec.depth}; expected D1 to D{MAX_DEPTH}")
    if spec.width < 1:
        raise UserError(f"network {arch!r} has no channels; expected a width such as W128")
    if spec.norm == "group" and spec.width % GROUPS:
        raise UserError(
            f"network {arch!r}: group norm has {GROUPS} groups, so the width must be a multiple of {GROUPS}; "
            f"got {spec.width}, try W{spec.width + -spec.width % GROUPS}"
        )
    return spec


def _parse_suffixes(arch: str) -> dict[str, Any]:
    """Field of ConvNetSpec -> value for each suffix of ``arch``; raises on unknown and repeated ones."""
    values: dict[str, Any] = {}
    position = len("ConvNet")
    while position < len(arch):
        match = _SUFFIX.match(arch, position)
        if match is None:
            raise UnknownNameError(f"suffix of network {arch!r}:", arch[position:], _SUFFIX_HELP)
        field, value = _meaning(match)
        if field in values:
            raise UserError(f"network {arch!r} gives its {field} twice; keep one of the suffixes")
        values[field] = value
        position = match.end()
    return values


def _meaning(match: re.Match[str]) -> tuple[str, int | str]:
    if number := match["number"]:
        return _NUMBERS[number.lower()], int(match["value"])
    return _OPTIONS_BY_LOWER[match["option"].lower()]


def _differences(name: str) -> str:
    changes = ConvNetSpec(**_parse_suffixes(name)).changes()
    return ", ".join(f"{field} {value}" for field, value in changes.items())
