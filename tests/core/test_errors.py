"""Errors name what was meant, also when it is spelt as papers spell it."""

from __future__ import annotations

import pytest

from harness.core.data.catalog import KNOWN
from harness.core.errors import UnknownNameError

METHODS = ("bacon", "dm", "idm", "sre2l", "g_vbsm", "kcenter", "random")


@pytest.mark.parametrize(
    ("name", "choices", "nearest"),
    [
        ("BACON", METHODS, "bacon"),
        ("DM", METHODS, "dm"),
        ("SRe2L", METHODS, "sre2l"),
        ("G-VBSM", METHODS, "g_vbsm"),
        ("K-Center", METHODS, "kcenter"),
        ("BACN", METHODS, "bacon"),
        ("CIFAR-10", KNOWN, "cifar10"),
        ("Fashion-MNIST", KNOWN, "fashionmnist"),
        ("Tiny ImageNet", KNOWN, "tinyimagenet"),
        ("--eval_arch", ("--arch", "--eval-arch"), "--eval-arch"),
        ("resnet-18", ("ResNet18", "ResNet18BN"), "ResNet18"),
    ],
)
def test_names_as_papers_write_them_have_a_hint(name: str, choices: tuple[str, ...], nearest: str) -> None:
    assert f"did you mean '{nearest}'? available: " in str(UnknownNameError("name", name, choices))


def test_what_is_like_nothing_has_no_hint() -> None:
    assert str(UnknownNameError("method", "xyz", METHODS)).startswith(
        "unknown method 'xyz'; available: bacon, dm"
    )
