"""The tables in words: what is said follows from the records, and no more than they support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from trials import in_seeds

from harness.engine.records import Record
from harness.report.benchmarks import page
from harness.report.boards import boards
from harness.report.fidelity import load_fidelity
from harness.report.formats import Heading, Items
from harness.report.in_words import TITLE, said_of, sentences
from harness.report.standing import scored

HOME = "ConvNetW32"
FIXED, TUNED, TAUGHT = "dc-steps-cpu", "dc-steps-cpu@tuned", "kd-cpu"


def sets(
    make: Any, method: str, gains: Sequence[float], protocol: str = FIXED, **changes: Any
) -> list[Record]:
    """Records of a method in three seeds, at equal steps unless another protocol is named."""
    return in_seeds(make, method, gains, protocol=protocol, **changes)


def said(records: Sequence[Record]) -> list[str]:
    (board,) = boards(scored(records))
    return sentences(board)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.050, 0.051, 0.052), "+5.1 [4.9, 5.3], clearly ahead"),
        ((-0.050, -0.051, -0.052), "-5.1 [-5.3, -4.9], clearly behind"),
        ((0.01, 0.05, 0.09), "+5.0 [-4.9, 14.9], ahead in each of 3 seeds but not clearly"),
        ((-0.01, 0.05, 0.09), "+4.3 [-8.2, 16.8], not told apart"),
        ((0.02,), "+2.0 (one seed), ahead in the one seed there is"),
        ((0.0, 0.0, 0.0), "0.0 [0.0, 0.0], level"),
        ((0.0002, 0.0002, 0.0002), "0.0 [0.0, 0.0], level"),
    ],
)
def test_words_follow_from_the_gaps_within_seeds(make_record: Any, gains: Any, words: str) -> None:
    ours, packed = sets(make_record, "bacon", gains), sets(make_record, "random_packed", [0] * len(gains))
    (sentence,) = said([*ours, *packed])
    assert sentence.endswith(f": {words}.")


def test_every_question_has_its_sentence(make_record: Any) -> None:
    records = []
    for protocol in (FIXED, TUNED):
        for network in ("", "MLP"):
            for method, gain in (("bacon", 0.050), ("random_packed", 0.0), ("idm", 0.049)):
                gains = [gain, gain + 0.001, gain + 0.002] if method == "bacon" else [gain] * 3
                records += sets(make_record, method, gains, protocol, eval_arch=network)
    for method in ("bacon", "random", "herding"):
        records += sets(make_record, method, [0.0] * 3, TAUGHT)
    equal, other, tuned, parent, taught = said(records)
    assert f"`{FIXED}`" not in taught
    assert "random 40.0 %" in taught
    assert "herding 40.0 %" in taught
    assert HOME in equal
    assert "MLP" not in equal
    assert "MLP" in other
    assert HOME not in other
    assert HOME in tuned
    assert "MLP" in tuned
    assert TUNED in tuned
    assert parent.count(f"on {HOME}") == parent.count("on MLP") == 2


def test_nothing_is_said_of_what_was_not_measured(make_record: Any) -> None:
    assert said_of(scored(sets(make_record, "bacon", [0.1] * 3)), level=3) == []
    other_seeds = sets(make_record, "random_packed", [0.0] * 3, protocol="dc-cpu")
    assert said([*sets(make_record, "bacon", [0.1] * 3), *other_seeds]) == []


def test_a_method_with_several_settings_has_no_one_accuracy(make_record: Any) -> None:
    twice = [
        record
        for rate in (0.1, 0.2)
        for record in sets(make_record, "bacon", [0.1] * 3, config={"lr_img": rate})
    ]
    assert said([*twice, *sets(make_record, "random_packed", [0.0] * 3)]) == []


def test_a_protocol_that_is_gone_answers_nothing(make_record: Any) -> None:
    records = [
        record
        for method in ("bacon", "random_packed")
        for record in sets(make_record, method, [0.1] * 3, protocol="of-old-times")
    ]
    assert boards(scored(records)) == []


def test_a_protocol_that_others_alone_were_asked_by_drowns_no_sentence(make_record: Any) -> None:
    """More was measured under kd-bssl-cpu, which comes first by name as well, but nothing of BACON."""
    records = [
        record
        for method in ("bacon", "random", "herding")
        for record in sets(make_record, method, [0.0] * 3, TAUGHT)
    ]
    for method in ("random", "herding", "sre2l_pp", "fadrm"):
        records += sets(make_record, method, [0.1] * 3, "kd-bssl-cpu")
    (taught,) = said(records)
    assert TAUGHT in taught
    assert "kd-bssl" not in taught


def test_the_page_has_them_before_its_tables(make_record: Any) -> None:
    ours, packed = sets(make_record, "bacon", [0.1] * 3), sets(make_record, "random_packed", [0.0] * 3)
    shown = scored([*ours, *packed])
    heading, items = said_of(shown, level=3)[1:]
    assert isinstance(heading, Heading)
    assert isinstance(items, Items)
    text = page(shown, {}, load_fidelity())
    assert text.index(f"## {TITLE}") < text.index(heading.text) < text.index("## Results")
