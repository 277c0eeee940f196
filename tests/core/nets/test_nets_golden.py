"""Networks equal the authors': parameters, features, logits and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import (
    GoldenConvNet,
    assert_close,
    golden,
    golden_convnet,
    hashed,
    load_hashed,
    tensor,
    uniforms,
)
from torch import nn

from harness.core.nets import Network, build
from methods.shared.statistics import BatchNormStatistics, first_weighted

OPTIONS = {
    "sigmoid": "AS",
    "leakyrelu": "AL",
    "swish": "ASwish",
    "nonorm": "NN",
    "bn": "BN",
    "ln": "LN",
    "gn": "GN",
    "maxpool": "MP",
    "nopool": "NP",
}  # other variants differ in depth or channels
VARIANTS = sorted(
    key.removesuffix("_depth") for key in golden("net_convnet_variants") if key.endswith("_depth")
)
ZOO = sorted(key.removesuffix("_count") for key in golden("net_zoo") if key.endswith("_count"))
DD = sorted(key.removesuffix("_logits") for key in golden("net_dd") if key.endswith("_logits"))


def network(arch: str, images: torch.Tensor, classes: int) -> Network:
    return build(
        arch,
        channels=images.shape[1],
        image_size=(images.shape[2], images.shape[3]),
        classes=classes,
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )


def load(net: Network, arrays: dict[str, np.ndarray], prefix: str = "") -> None:
    """Give `net` the golden weights, whose names and order must be its own."""
    names = [str(name) for name in arrays[f"{prefix}wnames"]]
    assert [name for name, _ in net.named_parameters()] == names
    weights = {name: tensor(arrays[f"{prefix}w{k:02d}"]) for k, name in enumerate(names)}
    rest = net.load_state_dict(weights, strict=False)
    assert not rest.unexpected_keys


def assert_gradients(found: GoldenConvNet, arrays: dict[str, np.ndarray]) -> None:
    """Gradients of all parameters; those of biases of convolutions, which norms cancel, are all but 0."""
    for k, (parameter, is_conv_bias) in enumerate(zip(found.parameters, found.conv_biases, strict=True)):
        reference = arrays[f"gw{k:02d}"]
        if is_conv_bias:
            assert float((parameter.grad - tensor(reference)).abs().max()) <= 1e-6
        else:
            assert_close(parameter.grad, reference)


@pytest.mark.parametrize(
    "item",
    [pytest.param(item, marks=pytest.mark.golden(item)) for item in ("net_convnet_c3", "net_convnet_c1")],
)
def test_features_logits_loss_and_gradients_equal_the_authors(item: str) -> None:
    arrays = golden(item)
    images = tensor(arrays["x"]).requires_grad_()
    found = golden_convnet(arrays)
    assert [name for name, _ in found.net.named_parameters()] == list(arrays["wnames"])

    embeddings, logits = found.net.embed_and_logits(images)
    loss = F.cross_entropy(logits, tensor(arrays["y"]))
    loss.backward()

    assert_close(embeddings, arrays["features"])
    assert_close(logits, arrays["logits"])
    assert_close(loss, arrays["ce"])
    assert_close(images.grad, arrays["grad_x"])
    assert_gradients(found, arrays)


@pytest.mark.golden("net_convbn")
def test_a_convnet_with_batch_norm_in_both_modes_equals_the_authors() -> None:
    arrays = golden("net_convbn")
    found, labels = golden_convnet(arrays), tensor(arrays["y"])
    net = found.net
    for mode in ("eval", "train"):
        images = tensor(arrays["x"]).requires_grad_()
        net.train(mode == "train").zero_grad()
        embeddings, logits = net.embed_and_logits(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        assert_close(logits, arrays[f"logits_{mode}"])
        assert_close(loss, arrays[f"ce_{mode}"])
        assert_close(images.grad, arrays[f"grad_x_{mode}"])
        if mode == "eval":
            assert_close(embeddings, arrays["features_eval"])
    assert_gradients(found, arrays)
    assert len(found.buffers) == len(arrays["bnames"])
    for k, buffer in enumerate(found.buffers):
        assert_close(buffer, arrays[f"nb{k:02d}"])


@pytest.mark.slow
@pytest.mark.golden("net_convnet_variants")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_of_the_convnet_equals_the_authors(variant: str) -> None:
    arrays = golden("net_convnet_variants")
    images, depth = tensor(arrays[f"{variant}_x"]), int(arrays[f"{variant}_depth"])
    width, classes = len(arrays[f"{variant}_w00"]), arrays[f"{variant}_logits"].shape[1]
    net = network(f"ConvNetW{width}D{depth}{OPTIONS.get(variant, '')}", images, classes)
    load(net, arrays, f"{variant}_")

    assert_close(net(images), arrays[f"{variant}_logits"])
    if f"{variant}_logits_eval" in arrays:
        buffers = dict(net.named_buffers())
        golden_buffers = [key for key in arrays if key.startswith(f"{variant}_buf_")]
        assert len(golden_buffers) == 2 * depth
        for key in golden_buffers:
            layer, index, statistic = key.removeprefix(f"{variant}_buf_").split("_", 2)
            assert_close(buffers[f"{layer}.{index}.{statistic}"], arrays[key])
        net.eval()
        assert_close(net(images), arrays[f"{variant}_logits_eval"])
    assert_close(net.embed(images), arrays[f"{variant}_embed"])


@pytest.mark.slow
@pytest.mark.golden("net_zoo")
@pytest.mark.parametrize("model", ZOO)
def test_zoo_has_the_authors_parameters_and_logits(model: str) -> None:
    arrays = golden("net_zoo")
    salt = int(arrays["salt"])
    arch, channels = model[:-3], int(model[-1])
    count, classes = arrays[f"{model}_logits_train"].shape
    shape = (count, 3, 32, 32) if channels == 3 else (count, 1, 28, 28)
    images = (4 * uniforms(int(np.prod(shape)), 1000 + channels, salt) - 2).astype(np.float32).reshape(shape)
    net = network(arch, torch.from_numpy(images), classes)

    shapes = [",".join(map(str, parameter.shape)) for parameter in net.parameters()]
    assert [name for name, _ in net.named_parameters()] == list(arrays[f"{model}_names"])
    assert shapes == list(arrays[f"{model}_shapes"])
    assert sum(parameter.numel() for parameter in net.parameters()) == arrays[f"{model}_count"]

    with torch.no_grad():
        for k, (name, parameter) in enumerate(net.named_parameters()):
            parameter.copy_(hashed(name, tuple(parameter.shape), k, salt))
        if f"{model}_logits_eval" in arrays:  # before the train mode forward moves the running statistics
            assert_close(net.eval()(torch.from_numpy(images)), arrays[f"{model}_logits_eval"])
        assert_close(net.train()(torch.from_numpy(images)), arrays[f"{model}_logits_train"])


@pytest.mark.golden("net_resnet18_bn", "sre2l", "cda", "sre2l_pp", "fadrm")
def test_resnet_with_batch_norm_and_its_statistics() -> None:
    arrays = golden("net_resnet18_bn")
    salt, side = int(arrays["salt"]), int(arrays["size"])
    shape = (int(arrays["n"]), 3, side, side)
    images = 4 * uniforms(int(np.prod(shape)), 1003, salt).reshape(shape) - 2
    net = network("ResNet18BN", torch.from_numpy(images.astype(np.float32)), int(arrays["classes"]))
    with torch.no_grad():
        for k, (_, parameter) in enumerate(_in_golden_order(net, arrays)):
            parameter.copy_(hashed(str(arrays["names"][k]), tuple(parameter.shape), k, salt))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    sizes = [norm.num_features for norm in norms]
    for statistic in ("running_mean", "running_var"):
        for norm, values in zip(norms, tensor(arrays[statistic]).split(sizes), strict=True):
            getattr(norm, statistic).copy_(values)
    statistics = BatchNormStatistics(net.eval())
    logits, terms = statistics(net, torch.from_numpy(images.astype(np.float32)))
    assert_close(logits, arrays["logits_eval"])
    assert_close(terms[:, 0], arrays["r_feature"])
    assert_close(first_weighted(terms, float(arrays["first_multiplier"]))[0], arrays["r_bn"])
    assert_close(net.train()(torch.from_numpy(images.astype(np.float32))), arrays["logits_train"])


def _in_golden_order(net: Network, arrays: dict[str, np.ndarray]) -> list[tuple[str, torch.Tensor]]:
    """Parameters by the file's names, whose classifier is called `linear`."""
    own = dict(net.named_parameters())
    names = [str(name).replace("linear.", "classifier.") for name in arrays["names"]]
    assert sorted(names) == sorted(own)
    found = [(name, own[name]) for name in names]
    assert [",".join(map(str, parameter.shape)) for _, parameter in found] == list(arrays["shapes"])
    return found


@pytest.mark.golden("net_dd", "dd", "ld", "ld@rr")
@pytest.mark.parametrize("model", DD)
def test_networks_of_dd_and_ld(model: str) -> None:
    arrays = golden("net_dd")
    salt, channels = int(arrays["salt"]), 1 if model == "lenet28" else 3
    side = 28 if channels == 1 else 32
    shape = (int(arrays["n"]), channels, side, side)
    images = 4 * uniforms(int(np.prod(shape)), 1000 + channels, salt).reshape(shape) - 2
    inputs = torch.from_numpy(images.astype(np.float32))
    net = network("AlexCifarNet" if model == "alex" else "LeNet", inputs, int(arrays["classes"]))
    shapes = [str(tuple(parameter.shape)) for parameter in net.parameters()]
    assert shapes == [str(text) for text in arrays[f"{model}_shapes"]]
    load_hashed(net, salt)
    assert_close(net(inputs), arrays[f"{model}_logits"])
    assert_close(net.embed(inputs), arrays[f"{model}_feat"])
