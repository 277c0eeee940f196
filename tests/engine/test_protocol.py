"""Protocols: the authors' learning rates, and the ways to ask for a protocol."""

from __future__ import annotations

import json

import pytest
import torch
from support import golden, tensor

from harness.commands.cli import main
from harness.core.data.catalog import DatasetSpec
from harness.core.errors import UnknownNameError
from harness.engine.options import Options, parse_options
from harness.engine.plan import DatasetFacts, expand
from harness.engine.protocol import IDC, PROTOCOLS, Protocol, Schedule, protocol_named

DIGITS = DatasetFacts(DatasetSpec("digits", "digits"), (1, 8, 8), 10, 142, 1437)


def rates(schedule: Schedule) -> torch.Tensor:
    return torch.tensor([schedule.lr_in(epoch) for epoch in range(schedule.epochs)])


@pytest.mark.golden("eval_lr_schedules")
@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 300, 1000])
def test_the_dc_familys_rates_match_authors(epochs: int) -> None:
    authors = tensor(golden("eval_lr_schedules")[f"dc_E{epochs}"]).float()
    torch.testing.assert_close(rates(Protocol("any", "", epochs=epochs).schedule()), authors)
    plain = Protocol("any", "", epochs=7, plain_epochs=epochs).schedule(augmented=False)
    torch.testing.assert_close(rates(plain), authors)


@pytest.mark.golden("eval_lr_idc", "idc", "dream")
@pytest.mark.parametrize("epochs", [6, 7, 30, 100])
def test_idcs_rates_match_authors(epochs: int) -> None:
    protocol = Protocol("any", "", epochs=epochs, decline=IDC)
    torch.testing.assert_close(rates(protocol.schedule()), tensor(golden("eval_lr_idc")[f"idc_{epochs}"]))


def test_dc_1000_is_the_fields_protocol() -> None:
    protocol = PROTOCOLS["dc-1000"]
    augmented, plain = protocol.schedule(augmented=True), protocol.schedule(augmented=False)
    assert (augmented.epochs, augmented.drops, plain.epochs, plain.drops) == (1001, (502,), 301, (152,))
    assert (protocol.lr, protocol.momentum, protocol.weight_decay) == (0.01, 0.9, 5e-4)
    assert (protocol.batch, augmented.decay, augmented.restarts) == (256, 0.1, True)


def test_idc_1000_is_idcs_protocol() -> None:
    protocol = PROTOCOLS["idc-1000"]
    schedule = protocol.schedule(augmented=False)
    assert (schedule.epochs, schedule.drops, schedule.decay) == (1000, (666, 833), 0.2)
    assert (protocol.batch, protocol.cutmix, schedule.restarts) == (64, 0.5, False)


def test_a_distilled_rate_falls_as_the_protocols_does() -> None:
    usual, own = PROTOCOLS["dc-smoke"].schedule(), PROTOCOLS["dc-smoke"].schedule(lr=0.05)
    torch.testing.assert_close(rates(own), 5 * rates(usual))


def test_the_scales_protocol_gives_way_to_the_one_asked_for() -> None:
    usual, wished = (
        expand(Options(scale="smoke", methods=("random",), ipc=(1,), protocol=names), [DIGITS]).trials[0]
        for names in ((), ("idc-1000",))
    )
    assert (usual.protocol, wished.protocol) == ("dc-smoke", "idc-1000")
    assert usual.id != wished.id


def test_unknown_protocols_are_refused() -> None:
    assert parse_options({"protocol": "dc-1000"}).protocol == ("dc-1000",)
    for ask in (lambda: parse_options({"protocol": "idc-100"}), lambda: protocol_named("idc-100")):
        with pytest.raises(UnknownNameError, match="did you mean 'idc-1000'"):
            ask()


def test_protocols_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "protocols", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(PROTOCOLS)
