"""What BENCHMARKS.md opens with: only what the intervals support, with a command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from trials import cost_of, in_seeds

from harness.engine.options import parse_options
from harness.engine.records import Record
from harness.report.benchmarks import page
from harness.report.boards import Board, boards
from harness.report.fidelity import load_fidelity
from harness.report.findings import (
    FEWEST,
    MOST,
    TITLE,
    Finding,
    Question,
    against_parent,
    agreement,
    beyond_packing,
    elsewhere,
    equal_steps,
    findings,
    front,
    in_simple_loop,
    leader,
    own_settings,
    packing,
    soft_labels,
    staircase,
    with_teacher,
)
from harness.report.formats import Paragraph, markdown
from harness.report.reported import load_reported
from harness.report.standing import scored

PAPER = {"scale": "paper", "arch": "ConvNet", "protocol": "dc-1000", "regime": "hard"}
STEPS, TUNED = "dc-steps-cpu", "dc-steps-cpu@tuned"
CLEAR, VAGUE = (0.100, 0.101, 0.102), (-0.05, 0.05, 0.12)


def read(found: Finding | None) -> str:
    """A finding as the page shows it, without its command."""
    assert found is not None
    return markdown([Paragraph(found.words)]).strip()


def asked(records: Iterable[Record]) -> Board:
    (board,) = boards(scored(records))
    return board


def field(make: Any, best: Sequence[float], **changes: Any) -> list[Record]:
    """As many methods as somebody may lead, of which `m0` is the best."""
    rivals = [one for k in range(1, FEWEST) for one in in_seeds(make, f"m{k}", [0.01 * k] * 3, **changes)]
    return [*in_seeds(make, "m0", best, **changes), *rivals]


def test_a_leader_is_named_with_those_beside_it(make_record: Any) -> None:
    found = leader(asked(field(make_record, (0.095, 0.09, 0.088))))
    assert found is not None
    assert read(found) == (
        "**m0 leads on mnist, ipc 10** with 49.1 % [25.1, 73.1], clearly ahead of all but m9 of 10 methods."
    )
    assert found.command.endswith("--methods m0,m9 --ipc 10 --seeds 3")


def test_nobody_leads_whom_too_many_are_beside_or_where_few_were_measured(make_record: Any) -> None:
    assert leader(asked(field(make_record, (-0.2, 0.1, 0.4)))) is None
    assert leader(asked(field(make_record, (0.2, 0.2, 0.2))[:-3])) is None


def test_who_spends_more_than_the_budget_does_not_lead(make_record: Any) -> None:
    rich = in_seeds(make_record, "rich", [0.4] * 3, budget_flops=2e12, distill=cost_of(2.1e12))
    found = leader(asked([*field(make_record, [0.3] * 3, budget_flops=2e12), *rich]))
    assert read(found).startswith("**m0 leads on mnist, ipc 10 with 2.00 TFLOPs for each distillation**")
    assert read(found).endswith("clearly ahead of all others of 10 methods that keep to it.")


def test_who_is_clearly_beaten_where_both_were_measured_does_not_lead(make_record: Any) -> None:
    """Its mean is the highest, since it lacks the seed in which all are low."""
    rivals = field(make_record, [0.3] * 3)
    often = [
        msgspec.structs.replace(
            one, accuracies=[value - 0.4 * (one.trial.seed == 2) for value in one.accuracies]
        )
        for one in rivals
    ]
    found = leader(asked([*often, *in_seeds(make_record, "rare", [0.29, 0.29])]))
    assert read(found).startswith("**m0 leads")
    assert read(found).endswith("clearly ahead of all others of 11 methods.")


def test_versions_of_a_protocol_do_not_meet_in_a_board(make_record: Any) -> None:
    own = in_seeds(make_record, "dm", [0.0] * 3)
    other = in_seeds(make_record, "dm+bacon", CLEAR, protocol_version="0.9")
    assert in_simple_loop(asked([*own, *other])) is None


@pytest.mark.parametrize("gains", [VAGUE, (0.1,)])
@pytest.mark.parametrize("question", [packing, beyond_packing])
def test_a_gap_that_is_not_clear_is_not_written(make_record: Any, question: Question, gains: Any) -> None:
    records = [
        *in_seeds(make_record, "random", [0.0] * 3),
        *in_seeds(make_record, "random_packed", gains),
        *in_seeds(make_record, "dm", [0.0] * 3),
    ]
    assert question(asked(records)) is None


def test_what_packing_is_worth_and_who_is_beyond_it(make_record: Any) -> None:
    board = asked(
        [
            *in_seeds(make_record, "random", [0.0] * 3),
            *in_seeds(make_record, "random_packed", CLEAR),
            *in_seeds(make_record, "dm", [0.2, 0.21, 0.2]),
            *in_seeds(make_record, "dc", VAGUE),
            *in_seeds(make_record, "herding", [0.3] * 3),
        ]
    )
    worth = "is worth +10.1 [9.9, 10.3] points over random images on mnist, ipc 10 (50.1 and 40.0 %)"
    assert worth in read(packing(board))
    assert read(beyond_packing(board)) == (
        "**Clearly ahead of packed random images** on mnist, ipc 10: 1 of 2 distillation methods (dm);"
        " clearly behind: 0."
    )


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (CLEAR, "BACON is clearly ahead of IDM"),
        ([-gain for gain in CLEAR], "BACON is clearly behind IDM"),
        (VAGUE, "BACON is not told apart from IDM"),
        ([0.0] * 3, "BACON is level with IDM"),
        ((-0.05, 0.05, 0.0), "BACON is not told apart from IDM"),
    ],
)
def test_bacon_and_idm_are_compared_whichever_it_is(make_record: Any, gains: Any, words: str) -> None:
    ours = in_seeds(make_record, "bacon", gains, distill=cost_of(3.0))
    found = against_parent(asked([*ours, *in_seeds(make_record, "idm", [0.0] * 3, distill=cost_of(2.0))]))
    assert words in read(found)
    assert read(found).endswith("over 3 seeds, at 1.50 times its FLOPs.")


def test_bacons_distance_is_compared_in_the_loop_of_dm_too(make_record: Any) -> None:
    own = in_seeds(make_record, "dm", [0.0] * 3)
    found = in_simple_loop(asked([*own, *in_seeds(make_record, "dm+bacon", CLEAR)]))
    assert read(found) == (
        "**BACON's distance in DM's loop is clearly ahead of DM's own** on mnist, ipc 10: +10.1 [9.9, 10.3]"
        " over 3 seeds, at 1.00 times its FLOPs."
    )
    assert in_simple_loop(asked(own)) is None


def changed(make: Any, gains: Sequence[float], **settings: float) -> list[Record]:
    """BACON with settings set by hand."""
    named = ", ".join(sorted(settings))
    config = {"tv_weight": 0.8, "ce_weight": 0.5} | settings
    return in_seeds(make, "bacon", gains, config=config, settings_source=f"none; set by hand: {named}")


def test_settings_that_make_a_clear_difference_are_told_from_the_rest(make_record: Any) -> None:
    own = in_seeds(make_record, "bacon", CLEAR, config={"tv_weight": 0.8, "ce_weight": 0.5})
    worse = changed(make_record, (0.08, 0.081, 0.083), ce_weight=0.0)
    better = changed(make_record, (0.12, 0.121, 0.123), tv_weight=0.0, ce_weight=0.0)
    vague = [
        *changed(make_record, VAGUE, tv_weight=0.0),
        *changed(make_record, VAGUE, tv_weight=1.0),
    ]
    found = own_settings(asked([*own, *worse, *better, *vague]))
    assert read(found) == (
        "**BACON with other settings than its own** on mnist, ipc 10 is clearly better with ce_weight=0.0,"
        " tv_weight=0.0 (2.0 [1.9, 2.2]); clearly worse with ce_weight=0.0 (-2.0 [-2.1, -1.8]); not told"
        " apart with tv_weight=0.0; tv_weight=1.0."
    )
    assert own_settings(asked([*own, *vague])) is None
    assert own_settings(asked(own)) is None


def test_bacon_is_in_the_field_whatever_was_set_by_hand_beside_it(make_record: Any) -> None:
    own = in_seeds(make_record, "bacon", CLEAR, config={"tv_weight": 0.8, "ce_weight": 0.5})
    board = asked([*own, *changed(make_record, VAGUE, tv_weight=0.0)])
    assert board.cells("dc-cpu").keys() == {"bacon"}
    assert board.changed("bacon", "dc-cpu").keys() == {"tv_weight=0.0"}


def test_one_seed_compares_nothing(make_record: Any) -> None:
    assert (
        against_parent(asked([*in_seeds(make_record, "bacon", [0.1]), *in_seeds(make_record, "idm", [0.0])]))
        is None
    )


def test_a_front_has_those_that_are_clearly_ahead_of_all_that_cost_less(make_record: Any) -> None:
    places = {
        "random": ([0.0] * 3, 0.0),
        "worse": ([-0.1] * 3, 1e9),
        "dm": (CLEAR, 2e9),
        "beside": ((0.09, 0.101, 0.115), 3e9),
        "bacon": ([0.2] * 3, 4e9),
    }
    board = asked(
        [
            record
            for method, (gains, flops) in places.items()
            for record in in_seeds(make_record, method, gains, distill=cost_of(flops))
        ]
    )
    assert [name for name, *_ in staircase(board, "dc-cpu")] == ["random", "dm", "bacon"]
    found = front(board)
    assert "random (0 FLOPs, 40.0 %), dm (2.00 GFLOPs, 50.1 %)" in read(found)


def test_equal_steps_stand_beside_equal_epochs(make_record: Any) -> None:
    records = [
        *in_seeds(make_record, "random", [0.0] * 3),
        *in_seeds(make_record, "bacon", [0.2] * 3),
        *in_seeds(make_record, "random", [0.0] * 3, protocol=STEPS),
        *in_seeds(make_record, "bacon", CLEAR, protocol=STEPS),
    ]
    found = equal_steps(asked(records))
    assert "is +10.1 [9.9, 10.3] instead of +20.0 [20.0, 20.0]." in read(found)
    assert "--protocol dc-cpu,dc-steps-cpu" in found.command


def test_soft_labels_are_worth_what_they_add_to_random_images(make_record: Any) -> None:
    hard = in_seeds(make_record, "random", [0.0] * 3)
    soft = in_seeds(make_record, "random@soft", CLEAR, protocol="sl-cpu", regime="stored")
    found = soft_labels(asked([*hard, *soft]))
    assert "worth 10.1 [9.9, 10.3] points" in read(found)


def test_methods_that_call_for_a_teacher_stand_beside_random_images_with_it(make_record: Any) -> None:
    records = [
        *in_seeds(make_record, "random", [0.0] * 3, protocol="kd-cpu"),
        *in_seeds(make_record, "rded", CLEAR, protocol="kd-cpu"),
        *in_seeds(make_record, "bacon", [-0.1] * 3, protocol="kd-cpu"),
    ]
    found = with_teacher(asked(records))
    assert read(found).endswith("1 of 1 method with one at every batch (rded); clearly behind: 0.")


def test_other_networks_are_named_with_their_gaps(make_record: Any) -> None:
    records = [
        *in_seeds(make_record, "random_packed", [0.0] * 3, protocol=TUNED),
        *in_seeds(make_record, "bacon", CLEAR, protocol=TUNED),
    ]
    assert elsewhere(asked(records)) is None, "at home alone"
    for network, gains in (("MLP", CLEAR), ("LeNet", VAGUE)):
        records += in_seeds(make_record, "random_packed", [0.0] * 3, protocol=TUNED, eval_arch=network)
        records += in_seeds(make_record, "bacon", gains, protocol=TUNED, eval_arch=network)
    found = elsewhere(asked(records))
    assert "on 1 of 2, each at its own rate" in read(found)
    assert "--eval-arch LeNet,MLP" in found.command


def test_papers_are_agreed_with_at_their_own_scale_alone(make_record: Any) -> None:
    figures = load_reported()
    figure = figures["random", "mnist", 1]
    assert figure.std

    def ours(gap: float, scale: str) -> list[Record]:
        facts = PAPER | {"scale": scale}
        value = figure.mean + gap * (figure.std or 0)
        return [make_record("random", 1, seed, accuracies=[value] * 2, **facts) for seed in (0, 1)]

    near, far = (agreement(scored(ours(gap, "paper")), figures) for gap in (1, -5))
    assert read(near).startswith("**1 of 1 figures that papers print")
    assert read(far).endswith("; the others: random on mnist ipc 1 (-5.0).")
    assert agreement(scored(ours(1, "cpu")), figures) is None
    strange: list[dict[str, Any]] = [
        {"protocol": "dc-steps"},
        {"precision": "bf16"},
        {"settings_source": "published: mnist ipc 1; set by hand: seed"},
    ]
    under_another = [
        make_record("random", 1, 0, accuracies=[figure.mean], **{**PAPER, "protocol": "dc-digits"})
    ]
    explained = agreement(scored([*ours(-5, "paper"), *under_another]), figures)
    assert read(explained).endswith("; the others: random on mnist ipc 1 (-5.0; +0.0 under `dc-digits`).")
    command = "python -m harness run --scale paper --dataset mnist --methods random --ipc 1"
    assert (near.command, explained.command) == (command, f"{command} --protocol dc-1000,dc-digits")
    for facts in strange:
        others = [make_record("random", 1, 0, accuracies=[0.1], **{**PAPER, **facts})]
        assert agreement(scored(others), figures) is None
        assert read(agreement(scored([*ours(1, "paper"), *others]), figures)) == read(near)
        assert read(agreement(scored([*ours(-5, "paper"), *others]), figures)) == read(far)


def test_commands_can_be_typed_and_there_are_ten_at_most(make_record: Any) -> None:
    records = [
        *field(make_record, [0.3] * 3, dataset="cifar10-jpeg", dataset_source="folder"),
        *field(make_record, [0.3] * 3, budget_flops=2e12),
    ]
    for k in range(2 * MOST):
        records += field(make_record, [0.3] * 3, dataset=f"data{k}")
    found = list(findings(scored(records), {}))
    typed = [shlex.split(one.command) for one in found]
    assert all(words[:4] == ["python", "-m", "harness", "run"] for words in typed)
    options = [
        parse_options(dict(zip([w[2:] for w in words[4::2]], words[5::2], strict=True))) for words in typed
    ]
    (tight,) = (words for words, one in zip(typed, options, strict=True) if one.budget == 2e12)
    assert tight[-1] == "2E+12"
    assert {"folder:cifar10-jpeg", "mnist"} <= {name for one in options for name in one.dataset}
    text = page(scored(records), {}, load_fidelity(), [])
    head = text.partition(f"## {TITLE}\n")[2].partition("\n## ")[0]
    assert head.count("\n- ") == MOST


def test_a_comparison_is_told_of_other_datasets_and_ipc_too_whichever_it_is(make_record: Any) -> None:
    records: list[Record] = []
    less = [-gain for gain in CLEAR]
    for dataset, ipc, gains in (("cifar10", 10, CLEAR), ("mnist", 10, less), ("cifar10", 1, [0.0] * 3)):
        place = {"dataset": dataset, "ipc": ipc}
        records += field(make_record, [0.3] * 3, **place)
        records += in_seeds(make_record, "random", [0.0] * 3, **place)
        records += in_seeds(make_record, "random_packed", gains, **place)
    for place in ({"dataset": "svhn"}, {"dataset": "mnist", "ipc": 50}):
        records += in_seeds(make_record, "random", [0.0] * 3, **place)
        records += in_seeds(make_record, "random_packed", CLEAR, **place)
    (found,) = (one for one in findings(scored(records), {}) if "Packing alone" in one.words)
    assert "--dataset cifar10,mnist --methods random,random_packed --ipc 10,1,50 " in found.command
    told = found.words
    assert "is worth +10.1 [9.9, 10.3] points over random images on cifar10, ipc 10" in told
    assert told.endswith(
        "%). Elsewhere it is -10.1 [-10.3, -9.9] on mnist, ipc 10; 0.0 [0.0, 0.0] on cifar10, ipc 1;"
        " +10.1 [9.9, 10.3] on mnist, ipc 50."
    ), "svhn has no full board at any ipc"
    leads = [one.words for one in findings(scored(records), {}) if "leads on" in one.words]
    assert not any(" it is " in words for words in leads)


def test_the_command_names_a_network_that_is_not_the_scales_own(make_record: Any) -> None:
    found = leader(asked(field(make_record, [0.3] * 3, arch="ResNet18W16")))
    assert found is not None
    assert "--arch ResNet18W16" in found.command


def test_the_page_has_no_findings_where_nothing_is_clear(make_record: Any) -> None:
    assert f"## {TITLE}" not in page(scored(in_seeds(make_record, "dm", [0.0] * 3)), {}, load_fidelity(), [])
