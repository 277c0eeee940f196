"""The settings of a method, each with its meaning where it is defined, and what its loop does by them:

    iterations: int = setting(20_000, "image updates", length=True)

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast

import msgspec

T = TypeVar("T")

_KEY = "setting"  # of a setting's `About` in the metadata of its field


@dataclass(frozen=True)
class About:
    """What a file says of a setting beside its type and default.

    length: it is a number that the length of the method's loop is proportional to; a budget replaces it.
    added: the setting came after records were made without it. While it has its default, which is what the
        code did before, it is left out of the values of a trial, whose id stays as it was; its default must
        never change.
    """

    meaning: str
    length: bool = False
    added: bool = False


@dataclass(frozen=True)
class Steps:
    """What a method's loop does by its settings, and the form of what it leaves: what a trial costs follows.

    count: steps of the loop, 0 without one; updates, where these are what its `length` settings tell.
    real: real images of each class that pass the network forwards in a step, if a class has so many.
    trained: images that networks are trained on in a step, each network's by itself.
    factor: each stored image decodes to factor x factor training images; a method that can store images whole
        as well has a setting of this name.
    augmentation: strategy that training on the set calls for; None: the dataset's usual one.
    learned: steps of training that are stored with the images, which protocols of them need; 0: none.
    multiple: of what the images per class are to be a multiple.
    labels: kind of those that are stored with the images, which protocols of stored labels need to be soft.

    passes: FLOPs of a step that is of another kind, by classes and ipc: passes of one image forwards through
    the network, and passes through its first layer alone to be taken off (nobody asks for pixels' gradients).

    Without `passes`, that synthetic images pass the network forwards and backwards in each step is taken for
    granted. The account may be rough: hours are derived from it only for methods whose records counted the
    same FLOPs.
    """

    count: int
    real: int = 0
    trained: int = 0
    factor: int = 1
    augmentation: str | None = None
    labels: Literal["hard", "soft"] = "hard"
    learned: int = 0
    multiple: int = 1
    passes: Callable[[int, int], tuple[float, float]] | None = None


@dataclass(frozen=True)
class DescribedSetting:
    """A setting as people see it; `type` as it is written, `default` as a plain value."""

    name: str
    type: str
    default: Any
    meaning: str
    length: bool
    added: bool


def setting(default: T, meaning: str, *, length: bool = False, added: bool = False) -> T:
    """A field of a Config with its default and its meaning in a line; for the flags see `About`."""
    return dataclasses.field(default=default, metadata={_KEY: About(meaning, length, added)})


def required(meaning: str) -> Any:
    """A setting whose default each Config that has it must give; for settings that several methods share."""
    return dataclasses.field(metadata={_KEY: About(meaning)})


def settings_in(config_type: type) -> tuple[DescribedSetting, ...]:
    """All settings of a Config, its own before those that it inherits."""
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    own = (name for cls in config_type.__mro__ for name in vars(cls).get("__annotations__", ()))
    return tuple(_setting(fields[name]) for name in dict.fromkeys(own) if name in fields)


def _setting(field: dataclasses.Field[Any]) -> DescribedSetting:
    about = about_of(field)
    return DescribedSetting(
        field.name,
        str(field.type),
        msgspec.to_builtins(field.default),
        about.meaning,
        about.length,
        about.added,
    )


def about_of(field: dataclasses.Field[Any]) -> About:
    """What a file says of the setting that this field is."""
    return cast(About, field.metadata.get(_KEY, About("")))


@cache
def hints_of(config_type: type) -> Mapping[str, Any]:
    """The type of each setting."""
    return typing.get_type_hints(config_type)


def lengths(config_type: type) -> tuple[str, ...]:
    """Settings that the length of the method's loop is proportional to; none if it has no loop."""
    return tuple(field.name for field in dataclasses.fields(config_type) if about_of(field).length)


def steps_by_length(config: Any) -> Steps:
    """As many steps as the product of the settings marked `length=True`, and nothing else known of them."""
    named = lengths(type(config))
    return Steps(math.prod(getattr(config, name) for name in named) if named else 0)


def values_of(config: Any) -> dict[str, Any]:
    """A Config as the values that tell it from others: without added settings that have their default.

    Records and distilled sets keep these, and `methods.config_from` makes the same Config of them.
    """
    added = {field.name for field in dataclasses.fields(config) if _untouched(field, config)}
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in added}


def _untouched(field: dataclasses.Field[Any], config: Any) -> bool:
    return about_of(field).added and getattr(config, field.name) == field.default
