"""Normalisation and ZCA against the field's numbers, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import assert_close, golden, tensor

from harness.core.data import ZCA, Normalization, RegularisedZCA, transform_from_state
from harness.core.data import transforms as transforms_module


def _assert_close(got: torch.Tensor, expected: np.ndarray) -> None:
    assert got.dtype == torch.float32
    assert_close(got, expected)


@pytest.mark.golden("zca", "mtt", "tesla")
@pytest.mark.parametrize("chunk", [7, 4096])
def test_zca_as_the_authors_compute_it(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms_module, "_CHUNK", chunk)
    arrays = golden("zca")
    zca = ZCA.fit(tensor(arrays["x"]), eps=0.1)
    _assert_close(zca.mean, arrays["mean"][0])
    _assert_close(zca.whiten, arrays["T"])
    _assert_close(zca.unwhiten, arrays["T_inv"])
    _assert_close(zca(tensor(arrays["x"])), arrays["out"])
    _assert_close(zca(tensor(arrays["xt"])), arrays["out_t"])
    _assert_close(zca.inverse(tensor(arrays["out"])), arrays["back"])


@pytest.mark.golden("zca", "mtt", "tesla")
def test_zca_with_fewer_images_than_pixels() -> None:
    arrays = golden("zca")
    images = tensor(arrays["xt"])
    _assert_close(ZCA.fit(images)(images), arrays["refit"])


@pytest.mark.golden("zca_reg", "frepo", "kip")
@pytest.mark.parametrize("chunk", [7, 4096])
def test_whitening_of_frepo_and_kip(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms_module, "_CHUNK", chunk)
    arrays = golden("zca_reg")
    images, others, reg = tensor(arrays["x"]), tensor(arrays["xt"]), float(arrays["reg"])
    frepo = RegularisedZCA.fit(images, Normalization.of(arrays["mean"], arrays["std"]), reg, unit_norm=False)
    _assert_close(frepo(images), arrays["frepo_x"])
    _assert_close(frepo(others), arrays["frepo_xt"])
    _assert_close(frepo.inverse(tensor(arrays["frepo_xt"])), arrays["frepo_back"])
    std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    kip = RegularisedZCA.fit(images, Normalization(mean, std), reg, unit_norm=True)
    _assert_close(kip(images), arrays["kip_x"])
    _assert_close(kip(others), arrays["kip_xt"])


def test_regularised_whitening_from_its_state_and_back_to_pixels() -> None:
    images = torch.randint(0, 256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for unit_norm, near in ((False, 1e-4), (True, 0.4)):
        made = RegularisedZCA.fit(images, Normalization.fit(images), 0.1, unit_norm=unit_norm)
        again = transform_from_state(made.state())
        assert torch.equal(again(images), made(images))
        assert torch.allclose(made.inverse(made(images)), images / 255, atol=near)


def test_zca_of_bytes_equals_zca_of_unit_floats() -> None:
    images = torch.randint(0, 256, (30, 1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    by_bytes, by_floats = ZCA.fit(images), ZCA.fit(images.float() / 255)
    assert torch.equal(by_bytes.whiten, by_floats.whiten)
    assert torch.equal(by_bytes(images), by_floats(images.float() / 255))


def test_normalization_of_bytes_and_unit_floats() -> None:
    transform = Normalization.of((0.5, 0.25), (0.5, 0.125))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    assert transform(images).flatten().tolist() == [-1.0, 6.0]
    assert torch.equal(transform(images / 255), transform(images))
    assert torch.allclose(transform.inverse(transform(images)), images / 255)


def test_normalization_of_a_channel_without_contrast() -> None:
    fitted = Normalization.fit(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8))
    assert torch.allclose(fitted.mean, torch.tensor([0.2]))
    assert torch.isfinite(fitted(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8))).all()


def test_statistics_that_cannot_be_applied() -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        Normalization.of((0.5,), (0.0,))
    with pytest.raises(ValueError, match=r"both be \(C,\), got \(2,\) and \(1,\)"):
        Normalization.of((0.5, 0.5), (1.0,))


@pytest.mark.parametrize("kind", [Normalization, ZCA])
def test_state_rebuilds_and_gradients_flow(kind) -> None:
    images = torch.randint(0, 256, (20, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    transform = kind.fit(images)
    for rebuilt in (transform_from_state(transform.state()), kind.from_state(transform.state())):
        assert type(rebuilt) is kind
        assert torch.equal(rebuilt(images), transform(images))
    unit = (images / 255).requires_grad_()
    transform.inverse(transform(unit)).sum().backward()
    assert torch.allclose(unit.grad, torch.ones_like(unit), atol=1e-4)
    assert {tensor.device.type for tensor in transform.to("meta").state().values()} == {"meta"}
