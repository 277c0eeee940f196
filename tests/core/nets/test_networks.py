"""Building networks: sizes, seeded weights, the shared interface, and how they fare under torch's tools."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from harness.core.errors import UserError
from harness.core.nets import ARCHS, Features, Network, build, reinitialise

LARGE = ("AlexNet", "VGG", "ResNet")


def _parameters(*archs: str) -> list[object]:
    """Names as parameters; tests of large networks are slow."""
    return [pytest.param(arch, marks=pytest.mark.slow if arch.startswith(LARGE) else ()) for arch in archs]


ZOO = _parameters(
    "ConvNetW8", "ConvNetW8LN", "ConvNetW8BN", *(arch for arch in ARCHS if not arch.startswith("ConvNet"))
)
FEW = _parameters("ConvNetW8", "ConvNetW8LN", "MLP", "LeNet", "AlexNet", "VGG11", "ResNet18BN_AP")
SMALLEST = [
    ("ConvNetW4", 3, 8),
    ("ConvNetW4", 1, 4),
    ("ConvNetD6W4", 3, 64),
    ("ConvNetW4NP", 3, 1),
    ("LeNet", 3, 16),
    ("LeNet", 1, 12),
    ("AlexNet", 3, 8),
    ("AlexNetBN", 1, 4),
    ("VGG11", 3, 32),
    ("VGG11", 1, 28),
    ("ResNet18W4", 3, 1),
    ("ResNet18BN_AP", 3, 8),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(arch: str, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0) -> Network:
    return build(
        arch, channels=channels, image_size=size, classes=10, generator=generator(seed), device="cpu"
    )


def images(channels: int = 3, size: tuple[int, int] = (32, 32), count: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, *size, generator=generator(99))


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether all parameters and buffers are bitwise equal."""
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("arch", ZOO)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (64, 64)), (3, (40, 33))])
def test_shapes_agree_for_every_size(arch: str, channels: int, size: tuple[int, int]) -> None:
    net = network(arch, channels, size)
    with torch.no_grad():
        embeddings, logits = net.embed_and_logits(images(channels, size))
    assert embeddings.shape == (2, net.feature_dim)
    assert logits.shape == (2, 10)
    assert isinstance(net.classifier, nn.Linear)
    assert list(net.parameters())[-1] is net.classifier.bias


@pytest.mark.parametrize(
    ("arch", "channels", "side", "expected"),
    [
        ("ConvNet", 3, 32, 2048),
        ("ConvNet", 1, 28, 2048),
        ("ConvNet", 1, 8, 128),
        ("ConvNet", 3, 64, 8192),
        ("ConvNetD4", 3, 64, 2048),
        ("ConvNetW32NP", 3, 8, 2048),
        ("ResNet18W4", 3, 64, 32),
        ("ResNet18BN_APW4", 3, 64, 2048),
    ],
)
def test_feature_dimension(arch: str, channels: int, side: int, expected: int) -> None:
    assert network(arch, channels, (side, side)).feature_dim == expected


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "channels", "side"), SMALLEST)
def test_images_that_are_too_small_are_refused_with_the_size_that_is_not(
    arch: str, channels: int, side: int
) -> None:
    net = network(arch, channels, (side, side)).eval()
    assert net(images(channels, (side, side))).shape == (2, 10)
    with pytest.raises(UserError, match=f"{arch} .*at least {side}x{side} pixels"):
        network(arch, channels, (side + 8, side - 1))


def test_the_message_for_small_images_is_one_plain_line() -> None:
    with pytest.raises(UserError) as caught:
        network("lenet", 3, (8, 8))
    assert str(caught.value) == (
        "network LeNet cannot take 8x8 images with 3 channel(s): they shrink to nothing; use images of at "
        "least 16x16 pixels"
    )
    with pytest.raises(UserError, match="use a shallower ConvNet such as ConvNetD1"):
        network("ConvNetD4", 3, (8, 8))


@pytest.mark.parametrize("arch", FEW)
def test_weights_come_from_the_generator_alone(arch: str) -> None:
    before = torch.get_rng_state()
    first, again, other = network(arch), network(arch), network(arch, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("arch", ZOO)
def test_reinitialise_equals_build(arch: str) -> None:
    net = network(arch, seed=1).to(memory_format=torch.channels_last)
    with torch.no_grad():
        net(images())  # moves running statistics
        for parameter in net.parameters():
            parameter.fill_(torch.nan)
    addresses = [parameter.data_ptr() for parameter in net.parameters()]
    reinitialise(net, generator(0))
    assert same(net, network(arch, seed=0))
    assert [parameter.data_ptr() for parameter in net.parameters()] == addresses
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("arch", ZOO)
def test_initialisation_is_the_default_of_pytorch(arch: str) -> None:
    """The same draws in the same order as PyTorch's own layers make from the global generator."""
    net, default = network(arch, seed=5), network(arch, seed=6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for module in default.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
                module.reset_parameters()
    for (name, got), want in zip(net.named_parameters(), default.parameters(), strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-7), name


def test_weights_fill_the_bounds_of_kaiming_uniform() -> None:
    net = network("ConvNet", seed=3)
    weight = net.get_submodule("features.4").weight.detach()
    bound = (128 * 9) ** -0.5
    assert 0.999 * bound < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert float(weight.mean()) == pytest.approx(0, abs=bound / 100)


@pytest.mark.parametrize("arch", FEW)
def test_features_run_once_for_each_batch(arch: str) -> None:
    net = network(arch)
    seen: list[int] = []

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Features):
            seen.append(args[0].shape[0])

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        with torch.no_grad():
            net(images(count=2))
            net.embed(images(count=3))
            net.embed_and_logits(images(count=4))
        network(arch)  # building must not count as work
    finally:
        hook.remove()
    assert seen == [2, 3, 4]


@pytest.mark.parametrize("arch", FEW)
def test_memory_format_and_copies_change_nothing(arch: str) -> None:
    net = network(arch).eval()
    batch = images()
    with torch.no_grad():
        _, logits = net.embed_and_logits(batch)
        twin = copy.deepcopy(net)
        reinitialise(net, generator(1))
        assert torch.equal(twin(batch), logits)  # the copy shares nothing with the original
        assert not torch.allclose(net(batch), logits)
        # In float64: through a deep network float32 rounds by more than 1e-4 on some processors.
        exact = twin.double().embed(batch.double())
        last = twin.to(memory_format=torch.channels_last)
        again = last.embed(batch.double().to(memory_format=torch.channels_last))
    assert torch.allclose(again, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["ConvNetW8", "LeNet", "MLP", "ResNet18"])
def test_functional_call_reaches_every_parameter(arch: str) -> None:
    """What matching trajectories needs: running a network with weights that are not its own."""
    net, other = network(arch), network(arch, seed=1)
    weights = {name: parameter.detach().requires_grad_() for name, parameter in other.named_parameters()}
    logits = torch.func.functional_call(net, weights, (images(),))
    assert torch.equal(logits, other(images()))
    gradients = torch.autograd.grad(logits.square().sum(), list(weights.values()))
    assert len(gradients) == len(weights)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["ConvNetW8", "ConvNetW8LN", "LeNet", "MLP", "AlexNetBN", "ResNet18BN_AP"])
def test_one_graph_under_compile_that_follows_new_weights(arch: str) -> None:
    torch.compiler.reset()
    net, batch = network(arch).eval(), images()
    run = torch.compile(net.embed_and_logits, backend="eager", fullgraph=True)
    with torch.no_grad():
        run(batch)
        with torch.compiler.set_stance("fail_on_recompile"):
            reinitialise(net, generator(1))
            embeddings, logits = run(batch)
        expected = net.embed_and_logits(batch)
    assert torch.equal(embeddings, expected[0])
    assert torch.equal(logits, expected[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["ConvNetW8", "ConvNetW8AL", "ConvNetW8ASwish", "MLP", "AlexNet", "ResNet18"]
)
def test_in_place_activations_leave_first_and_second_gradients_right(arch: str) -> None:
    net = network(arch).eval()
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    gradients = [second_gradient(each) for each in (net, plain)]
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6 * float(gradients[1].abs().max()))


def second_gradient(net: Network) -> torch.Tensor:
    """Gradient with respect to the images of the squared norm of the weights' gradient."""
    batch = images().requires_grad_()
    loss = net(batch).square().sum()
    first = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    return torch.autograd.grad(sum(each.square().sum() for each in first), batch)[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_weights_on_cuda() -> None:
    arguments = {"channels": 3, "image_size": (32, 32), "classes": 10}
    on_cuda = build("ConvNetBN", **arguments, generator=generator(), device="cuda")
    assert same(on_cuda.cpu(), network("ConvNetBN"))
    draws = [torch.Generator("cuda").manual_seed(7) for _ in range(2)]
    first, second = (build("ConvNetBN", **arguments, generator=each, device="cuda") for each in draws)
    assert same(first, second)
