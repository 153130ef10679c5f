"""What a drill compares beside the state: logged metrics, printed lines, and live names. Pure."""

from __future__ import annotations

import math

import pytest

from resumable.cli.drill.live_names import name_differences
from resumable.cli.drill.metrics_diff import metrics_differences
from resumable.cli.drill.printed_lines import number_differences
from resumable.store.journal.line import thinned
from resumable.store.journal.records import MetricsRecord


def step(number: int, epoch: int = 0, **metrics: float) -> MetricsRecord:
    return MetricsRecord(1, "step", (number, epoch), metrics, (number, epoch))


def end(number: int, epoch: int, **metrics: float) -> MetricsRecord:
    return MetricsRecord(1, "epoch", (number, epoch), metrics, (number, epoch))


def shown(a: list[MetricsRecord], b: list[MetricsRecord]) -> list[str]:
    return [str(each) for each in metrics_differences(a, b)]


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_the_first_step_of_each_metric_is_named_with_both_values() -> None:
    a = [step(n, loss=0.5, lr=0.1) for n in range(1, 6)] + [end(5, 1, val=1.0)]
    b = [step(n, loss=0.5 if n < 3 else 0.25, lr=0.1) for n in range(1, 6)] + [end(5, 1, val=2.0)]
    assert shown(a, a) == []
    assert shown(a, b) == [
        "logged loss, at step 3, and at 2 later ones: 0.5 / 0.25",
        "logged val, at the end of epoch 0: 1.0 / 2.0",
    ]


def test_the_smallest_difference_counts_and_a_nan_is_equal_to_itself() -> None:
    assert shown([step(1, x=math.nan)], [step(1, x=math.nan)]) == []
    assert shown([step(1, x=0.0)], [step(1, x=-0.0)]) == ["logged x, at step 1: 0.0 / -0.0"]
    assert shown([step(1, x=1.0)], [step(1, x=math.nextafter(1.0, 2))]) == [
        "logged x, at step 1: 1.0 / 1.0000000000000002"
    ]


def test_what_only_one_of_the_two_logged_is_a_difference() -> None:
    assert shown([step(1, x=1.0), step(2, x=1.0)], [step(2, x=1.0)]) == ["logged x, at step 1: 1.0 / not logged"]
    assert shown([], [end(2, 1, acc=0.5)]) == ["logged acc, at the end of epoch 0: not logged / 0.5"]


@pytest.mark.parametrize(
    "name",
    [
        "time",
        "step_time",
        "train/step_time",
        "time/step",
        "runtime",
        "samples_per_second",
        "fps",
        "epoch_seconds",
        "dt",
    ],
)
def test_a_metric_that_is_a_time_by_its_name_is_not_compared(name: str) -> None:
    assert shown([step(1, **{name: 1.0})], [step(1, **{name: 2.0})]) == []


@pytest.mark.parametrize("name", ["loss", "lr", "timesteps", "best", "sometimes", "msd", "steps", "dtw"])
def test_other_metrics_are(name: str) -> None:
    assert len(shown([step(1, **{name: 1.0})], [step(1, **{name: 2.0})])) == 1


def test_steps_that_one_of_the_two_holds_in_a_summary_are_not_compared() -> None:
    rows = [step(n, x=float(n)) for n in range(1, 101)]
    assert shown(thinned(rows, most=20, until=(50, 0)), rows) == []
    other = [*rows[:99], step(100, x=0.0)]
    assert shown(thinned(rows, most=20, until=(50, 0)), other) == ["logged x, at step 100: 100.0 / 0.0"]


# -- printed lines ----------------------------------------------------------------------------------------------------


def test_numbers_that_differ_in_otherwise_equal_lines_are_found() -> None:
    before = ["begin", "step 1 loss 0.5 best 0.5", "step 2 loss 0.75 best 0.5", "accuracy 97.5%"]
    after = ["begin", "step 1 loss 0.5 best 0.5", "begin", "step 2 loss 0.75 best 0.75", "accuracy 97.5%"]
    assert number_differences(before, after) == [("step 2 loss 0.75 best 0.5", "step 2 loss 0.75 best 0.75")]
    assert number_differences(before, [*after, before[2]]) == []  # it was equal once


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 12.3 s", "took 9.81 s"),
        ("epoch 3 (12.3s, 81 it/s)", "epoch 3 (9.8s, 67 it/s)"),
        ("2026-01-02 10:11:12,345 INFO step 3", "2026-01-02 10:14:00,001 INFO step 3"),
        ("[10:11:12] loss 0.5", "[10:14:00] loss 0.5"),
        ("step 3 time=0.35 loss 0.5", "step 3 time=0.75 loss 0.5"),
        ("step_time: 0.35, memory: 812", "step_time: 0.81, memory: 813"),
        ("<Model at 0x7f12>", "<Model at 0x7e98>"),
        ("saved /tmp/x1/reference/3.pt", "saved /tmp/x1/drilled/3.pt"),
        ("now 1796053387.7 loss 0.5", "now 1796053999.1 loss 0.5"),
        ("1.2GiB used, 34.5 samples/s", "1.3GiB used, 35.5 samples/s"),
        (
            " 50%|█████     | 5/10 [00:01<00:01, 4.9it/s, loss=0.5]",
            " 60%|██████    | 6/10 [00:01<00:01, 4.9it/s, loss=0.4]",
        ),
        ("resumable: SAVED   step=8 stall=2ms", "resumable: SAVED   step=9 stall=3ms"),
        ("train.py:12: UserWarning: 3 things", "train.py:12: UserWarning: 3 things"),
        ("a line that only one printed: 1", "another line"),
        ("pid 4711 started", "pid 4712 started"),
    ],
)
def test_clocks_bars_and_addresses_are_no_difference(one: str, other: str) -> None:
    assert number_differences([one], [other]) == []


def test_a_learning_rate_and_a_score_are_no_clocks() -> None:
    for one, other in [("lr 1e-3", "lr 5e-4"), ("learning rate: 0.1", "learning rate: 0.2"), ("best=0.91", "best=0.5")]:
        assert number_differences([one], [other]) == [(one, other)]


def test_many_lines_of_one_form_take_bounded_time() -> None:
    before, after = [f"step {n} loss {n}.5" for n in range(5000)], [f"step {n} loss {n}.25" for n in range(5000)]
    assert len(number_differences(before, after)) == 200


# -- live names -------------------------------------------------------------------------------------------------------


def noted(**names: dict[str, object]) -> dict[str, object]:
    return {"live_names": {"<module>": names}, "built_with": {"lr": 1}}


def test_names_that_are_live_at_the_end_are_compared() -> None:
    a = noted(best={"type": "float", "value": 0.5}, X={"type": "Tensor", "digest": "aa" * 16}, file={"type": "Odd"})
    b = noted(best={"type": "float", "value": 0.75}, X={"type": "Tensor", "digest": "bb" * 16}, file={"type": "Other"})
    assert name_differences(a, a) == []
    assert [str(each) for each in name_differences(a, b)] == [
        "variable best, at the end: 0.5 / 0.75",
        "variable X, at the end: Tensor aaaaaaaa / Tensor bbbbbbbb",
    ]


def test_a_name_that_one_of_the_two_lacks_is_a_difference_and_a_time_is_none() -> None:
    a = noted(best={"type": "unbound"}, step_time={"type": "float", "value": 1.0}, n={"type": "int", "value": 3})
    b = noted(best={"type": "int", "value": 2}, step_time={"type": "float", "value": 2.0})
    assert [str(each) for each in name_differences(a, b)] == [
        "variable best, at the end: unbound / 2",
        "variable n, at the end: 3 / absent",
    ]
    assert [str(each) for each in name_differences({"live_names": {"train": a["live_names"]["<module>"]}}, a)][:1] == [  # type: ignore[index]
        "variable best of train, at the end: unbound / absent"
    ]


@pytest.mark.parametrize("notes", [{}, {"live_names": None}, {"live_names": []}, {"live_names": {"f": 1}}, {"x": {}}])
def test_without_names_nothing_is_compared(notes: dict[str, object]) -> None:
    assert name_differences(notes, noted(x={"type": "int", "value": 1})) == []
