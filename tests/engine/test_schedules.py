"""Learning rates: the authors' in every epoch or step, and where optimisers are built afresh."""

from __future__ import annotations

import re

import pytest
import torch
from support import assert_close, golden

from harness.engine import schedules
from harness.engine.protocol import FREPO, PROTOCOLS
from harness.engine.schedules import Cosine, Drops, Rule, Schedule


def rates(schedule: Schedule) -> torch.Tensor:
    return torch.tensor(
        [schedule.lr_in(position) for position in range(schedule.length + schedule.rule.extra)]
    )


@pytest.mark.golden("eval_lr_schedules")
def test_the_dc_familys_rates_match_authors() -> None:
    """The base rate stands in no array, so it is that of the first epoch."""
    for name, authors in golden("eval_lr_schedules").items():
        schedule = Schedule(schedules.DC, int(name.removeprefix("dc_E")), float(authors[0]))
        assert_close(rates(schedule), authors)


@pytest.mark.golden("eval_lr_idc", "idc", "dream")
def test_idcs_rates_match_authors() -> None:
    for name, authors in golden("eval_lr_idc").items():
        schedule = Schedule(schedules.IDC, int(name.removeprefix("idc_")), float(authors[0]))
        assert_close(rates(schedule), authors)


RULES: dict[str, Rule] = {
    "nodistill_SGD": schedules.QUARTERS,
    "nodistill_AdamW": Cosine(extra=1),
    "ddranking_cosine": schedules.HALF_COSINE,
    "ddranking_cosineannealing": schedules.COSINE,
    "rded": schedules.HALF_COSINE,
    "sre2l": schedules.COSINE,
    "cim": schedules.IDC,
}


@pytest.mark.golden("sched_soft")
def test_rates_of_the_soft_label_evaluations_match_authors() -> None:
    arrays = golden("sched_soft")
    compared = set()
    for name, authors in arrays.items():
        match = re.fullmatch(r"(\w+?)(?:_eta([\d.]+))?_E(\d+)", name)
        if match is None or name == "warm_E" or match[1] == "ddranking_step":
            continue
        rule = Cosine(stretch=float(match[2])) if match[2] else RULES[match[1]]
        assert_close(rates(Schedule(rule, int(match[3]), float(arrays["base"]))), authors)
        compared.add(match[1])
    assert compared == {*RULES, "cvdd"}


@pytest.mark.golden("sched_soft")
def test_rates_that_drop_every_so_many_epochs_match_authors() -> None:
    """The size of the authors' steps stands in no array, so it is that of the first drop."""
    arrays = golden("sched_soft")
    found = {name: rows for name, rows in arrays.items() if name.startswith("ddranking_step_E")}
    assert found
    for authors in found.values():
        size = int((authors < authors[0]).argmax()) or len(authors)
        rule = Drops(lambda epochs, size=size: tuple(range(size, epochs, size)), decay=0.1)
        assert_close(rates(Schedule(rule, len(authors), float(arrays["base"]))), authors)


@pytest.mark.golden("sched_soft")
def test_a_climb_before_the_cosine_matches_authors() -> None:
    arrays = golden("sched_soft")
    rule = Cosine(warmup=int(arrays["warm_epochs"]), start=0.01)
    schedule = Schedule(rule, int(arrays["warm_E"]), float(arrays["base"]))
    assert_close(rates(schedule), arrays["sre2l_tiny"])


@pytest.mark.golden("frepo_schedules")
def test_frepos_rates_match_authors_at_the_steps_that_they_give() -> None:
    arrays = golden("frepo_schedules")
    lengths = [int(name.removeprefix("at_E")) for name in arrays if name.startswith("at_E")]
    assert lengths
    for length in lengths:
        schedule = Schedule(FREPO.rule, length, float(arrays["lr"]))
        found = torch.tensor([schedule.lr_in(int(step)) for step in arrays[f"at_E{length}"]])
        assert_close(found, arrays[f"rate_E{length}"])


def test_ncfms_rate_halves_at_each_fifth() -> None:
    schedule = Schedule(schedules.FIFTHS, 2000, 1e-3)
    assert schedule.drops == (400, 800, 1200, 1600)
    assert schedule.lr_in(1999) == pytest.approx(1e-3 / 16)
    assert PROTOCOLS["ncfm-2000"].recipe.rule is schedules.FIFTHS


def test_only_the_dc_family_builds_its_optimiser_afresh() -> None:
    dc, idc = Schedule(schedules.DC, 20, 0.01), Schedule(schedules.IDC, 20, 0.01)
    assert [dc.restarts_between(position, position + 1) for position in (10, 11, 12)] == [False, True, False]
    assert not any(idc.restarts_between(position, position + 1) for position in range(20))
