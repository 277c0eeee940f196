"""Names of networks: grammar, canonical spelling, messages; none of it needs torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import UnknownNameError, UserError
from harness.core.nets.names import ARCHS, ConvNetSpec, canonical, convnet_spec, describe

ACTIVATIONS = {"AS": "sigmoid", "AR": "relu", "AL": "leakyrelu", "ASwish": "swish"}
NORMS = {"NN": "none", "BN": "batch", "LN": "layer", "IN": "instance", "GN": "group"}
POOLINGS = {"NP": "none", "MP": "max", "AP": "avg"}


@st.composite
def spelled_convnets(draw: st.DrawFn) -> tuple[str, ConvNetSpec]:
    """A ConvNet spelled with any of its suffixes, in any order and case, and what it must mean."""
    depth = draw(st.integers(1, 6))
    width = 4 * draw(st.integers(1, 300))
    activation = draw(st.sampled_from(sorted(ACTIVATIONS)))
    norm = draw(st.sampled_from(sorted(NORMS)))
    pooling = draw(st.sampled_from(sorted(POOLINGS)))
    spec = ConvNetSpec(depth, width, ACTIVATIONS[activation], NORMS[norm], POOLINGS[pooling])  # type: ignore[arg-type]
    suffixes = draw(st.permutations([f"D{depth}", f"W{width}", activation, norm, pooling]))
    text = "ConvNet" + "".join(suffixes)
    flips = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    return "".join(c.swapcase() if flip else c for c, flip in zip(text, flips, strict=True)), spec


@given(spelled_convnets())
def test_suffixes_combine_in_any_order_and_case(spelled: tuple[str, ConvNetSpec]) -> None:
    name, spec = spelled
    assert convnet_spec(name) == spec
    assert convnet_spec(spec.name) == spec
    assert canonical(name) == canonical(canonical(name)) == spec.name


@settings(max_examples=50)
@given(st.text(max_size=20) | st.text(max_size=10).map("ConvNet".__add__))
def test_any_text_is_a_network_or_a_user_error(text: str) -> None:
    try:
        name = canonical(text)
    except UserError:
        return
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("convnet", "ConvNet"),
        ("ConvNetD3W128ARINAP", "ConvNet"),
        ("ConvNetBNASwish", "ConvNetASwishBN"),
        ("convnetw064d4", "ConvNetD4W64"),
        ("ConvNetASW32", "ConvNetW32AS"),
        ("resnet18bn_ap", "ResNet18BN_AP"),
        ("MLP", "MLP"),
    ],
)
def test_one_canonical_spelling(given_name: str, expected: str) -> None:
    assert canonical(given_name) == expected


@pytest.mark.parametrize("name", ["", "ConvNext", "ResNet50", " ConvNet", "Conv"])
def test_unknown_network_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown network .*available: .*ConvNetD4.*ResNet18BN_AP"):
        canonical(name)


def test_a_near_miss_gets_the_right_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ResNet18'"):
        canonical("ResNet19")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "ConvNetXY",
            UnknownNameError,
            r"suffix of network 'ConvNetXY': 'XY'.*available: .*D1-D6.*W<channels>",
        ),
        ("ConvNetD", UnknownNameError, "'D'"),
        ("ConvNetW32²", UnknownNameError, "'²'"),
        ("ConvNetD7", UserError, "has depth 7; expected D1 to D6"),
        ("ConvNetD0", UserError, "has depth 0"),
        ("ConvNetW0", UserError, "no channels"),
        ("ConvNetD2D3", UserError, "gives its depth twice"),
        ("ConvNetBNGN", UserError, "gives its norm twice"),
        ("ConvNetW6GN", UserError, "multiple of 4; got 6, try W8"),
    ],
)
def test_bad_suffixes_say_what_is_wrong(name: str, error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        canonical(name)


def test_every_listed_network_is_canonical_and_described_once() -> None:
    assert [canonical(arch) for arch in ARCHS] == list(ARCHS)
    assert tuple(name for name, _ in describe()) == ARCHS
    assert len(set(ARCHS)) == len(ARCHS)
    assert all(text and "\n" not in text for _, text in describe())
    assert dict(describe())["ConvNetASwishBN"] == "ConvNet with activation swish, norm batch"


def test_names_are_there_without_torch() -> None:
    code = "import sys; from harness.core.nets import canonical, describe; canonical('mlp')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
