"""Which values are witnesses, and which checkpoints they make suspect; no run, no torch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.policy.suspicion import (
    MAX_NAME,
    MAX_WITNESSES,
    Suspect,
    Witnesses,
    are_suspect,
    note,
    of_metric,
    of_tensors,
    witnesses_at_end,
)

NAN = math.nan


@dataclass
class Saved:
    """What is read of a manifest."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    position: dict[str, Any] = field(default_factory=dict)


def after(*values: float) -> Any:
    """What a metric is that was logged at steps 1, 2, ..."""
    state = None
    for step, value in enumerate(values, 1):
        state = of_metric(state, finite=math.isfinite(value), step=step)
    return state


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([], None),
        ([NAN], False),
        ([NAN, math.inf, NAN], False),
        ([1.0], True),
        ([NAN, NAN, 1.0], False),
        ([1.0, NAN], 2),
        ([1.0, -math.inf, math.inf, NAN], 2),
        ([NAN, 1.0, 2.0, math.inf], False),
        ([1.0, NAN, 1.0], False),
        ([1.0, 2.0, math.inf], 3),
        ([1.0, NAN, 1.0, NAN, NAN], False),
        ([math.inf, 1.0, math.inf, 1.0, NAN, 1.0], False),
    ],
)
def test_a_metric_is_a_witness_until_it_comes_back_from_not_being_finite(values: list[float], state: Any) -> None:
    assert after(*values) is state or (type(state) is int and after(*values) == state)


def test_suspect_is_what_has_not_been_finite_for_longest_metrics_first() -> None:
    assert Witnesses().suspect is None
    assert Witnesses({"a": True, "b": False}).suspect is None
    assert Witnesses({"a": True, "b": 9, "c": 7}, {"w": 3}).suspect == Suspect("c", 7)
    assert Witnesses({"a": True, "b": 0}).suspect == Suspect("b", 0)
    assert Witnesses({"a": False}, {"v": False, "w": 3}).suspect == Suspect("w", 3)
    assert Witnesses({"a": True}, {"v": False, "w": 3}).suspect == Suspect("w", 3)


def test_a_tensor_that_was_not_finite_at_the_first_look_is_no_witness() -> None:
    first = of_tensors(None, ["mask"], step=0)
    assert first == {"mask": False}
    assert of_tensors(first, ["mask"], step=9) == {"mask": False}
    assert of_tensors(first, ["mask", "weight"], step=9) == {"mask": False, "weight": 9}


def test_a_tensor_that_comes_back_is_no_witness_any_more() -> None:
    ruined = of_tensors({}, ["weight"], step=5)
    assert of_tensors(ruined, ["weight"], step=7) == {"weight": 5}
    back = of_tensors(ruined, [], step=8)
    assert back == {"weight": False}
    assert of_tensors(back, ["weight"], step=9) == {"weight": False}


def test_more_tensors_than_can_be_named_are_no_false_alarm() -> None:
    many = [f"w{number}" for number in range(MAX_WITNESSES + 1)]
    first = of_tensors(None, many, step=0)
    assert Witnesses({}, of_tensors(first, many, step=1)).suspect is None
    ruined = of_tensors({}, many, step=4)
    assert len(ruined) == MAX_WITNESSES
    assert Witnesses({}, of_tensors(ruined, many, step=9)).suspect == Suspect("w0", 4)


def test_one_metric_too_many_is_no_witness_and_those_before_it_stay() -> None:
    metrics: dict[str, Any] = {}
    for number in range(MAX_WITNESSES + 5):
        note(metrics, f"m{number}", finite=True, step=1)
    note(metrics, "n" * (MAX_NAME + 1), finite=True, step=1)
    assert list(metrics) == [f"m{number}" for number in range(MAX_WITNESSES)]
    note(metrics, "m0", finite=False, step=2)
    assert metrics["m0"] == 2


STATES = st.dictionaries(st.text(), st.booleans() | st.integers(0, 10**17))


@given(metrics=STATES, tensors=st.none() | STATES)
def test_the_summary_says_all_and_holds_only_what_every_reader_of_the_format_takes(
    metrics: dict[str, Any], tensors: dict[str, Any] | None
) -> None:
    witnesses = Witnesses(metrics, tensors)
    summary = witnesses.summary()
    assert {*map(type, summary.values())} <= {int, str}
    read = witnesses_at_end([Saved(7, position=summary)])
    assert repr(read) == repr(witnesses)  # True is no 1
    assert [*are_suspect([Saved(7, position=summary)])] == [witnesses.suspect is not None]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"metrics":{"a":1.5}}', '{"metrics":[1]}', 7, None, "[" * 99]
)
def test_what_another_program_wrote_there_says_nothing(text: Any) -> None:
    assert witnesses_at_end([Saved(7, {"loss": 1.0}, {"witnesses": text})]) == Witnesses()


def test_checkpoints_without_a_mark_are_judged_by_their_metrics_in_order() -> None:
    line = [
        Saved(0),
        Saved(10, {"loss": 1.0, "bad": NAN}),
        Saved(20, {"loss": NAN, "bad": NAN}),
        Saved(30, {"acc": 1.0}),
    ]
    assert [*are_suspect(line)] == [False, False, True, True]
    assert witnesses_at_end(line) == Witnesses({"loss": 20, "bad": False, "acc": True})
    assert [*are_suspect([*line, Saved(40, {"loss": 2.0})])][-1] is False


def test_marks_win_over_metrics_and_are_gone_on_from() -> None:
    marked = Saved(20, {"loss": 1.0}, Witnesses({"loss": True, "acc": 5}).summary())
    assert [*are_suspect([marked, Saved(30, {"loss": 2.0}), Saved(40, {"acc": 1.0})])] == [True, True, False]
    good = Saved(50, {"x": NAN}, Witnesses({"x": False}).summary())
    assert [*are_suspect([marked, good, Saved(60, {"x": NAN})])] == [True, False, False]


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.sampled_from([1.0, NAN])), max_size=8), st.integers(0, 8))
def test_marks_and_metrics_agree_where_each_step_is_saved(logged: list[dict[str, float]], cut: int) -> None:
    states: dict[str, Any] = {}
    marked, plain = [], []
    for step, metrics in enumerate(logged):
        for name, value in metrics.items():
            note(states, name, finite=math.isfinite(value), step=step)
        plain.append(Saved(step, metrics))
        marked.append(Saved(step, metrics, Witnesses(dict(states)).summary()))
    mixed = [*marked[:cut], *plain[cut:]]
    assert [*are_suspect(mixed)] == [*are_suspect(plain)] == [*are_suspect(marked)]
    lines = (plain, marked, mixed)
    assert all(witnesses_at_end(one) == witnesses_at_end(other) for one, other in itertools.pairwise(lines))
