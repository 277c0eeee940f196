"""Narrow and wide forms of the zoo's networks, by a width in their names as ConvNet has it."""

from __future__ import annotations

import pytest
import torch

from harness.core.errors import UnknownNameError, UserError
from harness.core.nets import Network, build, canonical
from harness.core.nets.names import describe
from harness.core.teachers import teacher_network

NAMES = ("VGG11", "VGG11BN", "ResNet18", "ResNet18BN", "ResNet18BN_AP")


def made(arch: str) -> Network:
    generator = torch.Generator().manual_seed(0)
    return build(arch, channels=3, image_size=(32, 32), classes=10, generator=generator, device="cpu")


def weights(net: Network) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_usual_width_is_the_network_itself(name: str) -> None:
    assert canonical(f"{name.lower()}w64") == name
    ours, usual = made(f"{name}W64").state_dict(), made(name).state_dict()
    assert ours.keys() == usual.keys()
    assert all(torch.equal(ours[key], usual[key]) for key in usual)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quarter_of_the_width_has_a_sixteenth_of_the_convolutions(name: str) -> None:
    narrow, usual = made(f"{name}W16"), made(name)
    assert canonical(f"{name}w16") == f"{name}W16"
    assert 14 < weights(usual) / weights(narrow) < 16.5
    assert narrow(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert narrow.classifier.in_features * 4 == usual.classifier.in_features


def test_widths_that_there_are_not() -> None:
    with pytest.raises(UserError, match="expected a width such as W16"):
        canonical("ResNet18W0")
    for name in ("MLPW16", "ResNet18W", "ResNet18W16BN", "ResNet19W16"):
        with pytest.raises(UnknownNameError):
            canonical(name)


def test_the_list_says_which_networks_have_widths() -> None:
    told = {name for name, about in describe() if "suffix W<channels" in about}
    assert told == set(NAMES)


def test_the_teacher_of_a_narrow_network_is_narrow() -> None:
    assert teacher_network("ResNet18W16") == "ResNet18BNW16"
    assert teacher_network("VGG11BNW8") == "VGG11BNW8"
