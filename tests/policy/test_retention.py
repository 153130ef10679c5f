"""Which checkpoints stay."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.policy.retention import Candidate, Rule, best, is_best, keep

ONLY_LAST = Rule(last=1)


def _run(*metrics: float | None, every: int = 10) -> list[Candidate]:
    """One candidate per metric, at steps 0, `every`, 2 `every`, ...; newest first. Named by their step."""
    oldest_first = [Candidate(str(i * every), i * every, 0, metric) for i, metric in enumerate(metrics)]
    return oldest_first[::-1]


def test_the_newest_stay() -> None:
    assert keep(_run(*[None] * 5), Rule(last=2)) == {"40", "30"}


def test_nothing_stays_of_nothing() -> None:
    assert keep([], Rule()) == set()


def test_one_stays_even_under_a_rule_that_keeps_none() -> None:
    assert keep(_run(None, None), Rule(last=0)) == {"10"}


def test_a_protected_one_stays() -> None:
    newest, middle, oldest = _run(None, None, None)
    assert keep([newest, middle, replace(oldest, protected=True)], ONLY_LAST) == {"20", "0"}


def test_the_best_stay_by_metric_and_mode() -> None:
    candidates = _run(3.0, 1.0, 2.0, 4.0)
    assert keep(candidates, Rule(last=1, best_metric="loss")) == {"30", "10"}
    assert keep(candidates, Rule(last=1, best_metric="loss", best_count=2)) == {"30", "10", "20"}
    assert best(candidates, Rule(best_mode="max", best_count=3)) == ["30", "0", "20"]


def test_without_a_metric_none_stays_for_being_best() -> None:
    assert keep(_run(1.0, 2.0, 3.0), ONLY_LAST) == {"20"}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_and_no_value_are_never_best(mode: str) -> None:
    rule = Rule(last=1, best_metric="x", best_mode=mode, best_count=5)  # type: ignore[arg-type]
    assert best(_run(math.nan, None, 1.0, math.nan), rule) == ["20"]
    assert not is_best(math.nan, [], rule)
    assert not is_best(None, [], rule)
    assert is_best(1.0, [math.nan, None, math.nan], rule)


def test_of_equals_the_older_is_best() -> None:
    candidates = _run(2.0, 1.0, 1.0, 1.0)
    assert best(candidates, Rule(best_count=2)) == ["10", "20"]
    assert not is_best(1.0, [1.0], Rule(best_metric="x"))


def test_zero_and_minus_zero_are_equals() -> None:
    assert best(_run(0.0, -0.0), Rule(best_mode="max")) == ["0"]
    assert best(_run(0.0, -0.0), Rule(best_mode="min")) == ["0"]


def test_a_value_is_best_while_fewer_than_count_are_as_good() -> None:
    rule = Rule(best_metric="x", best_count=2)
    assert is_best(5.0, [], rule)
    assert is_best(5.0, [1.0], rule)
    assert not is_best(5.0, [1.0, 2.0], rule)
    assert is_best(1.5, [1.0, 2.0], rule)
    assert not is_best(5.0, [], Rule(best_metric=None))


def test_infinity_is_worse_than_any_loss() -> None:
    assert best(_run(math.inf, 1e300), Rule()) == ["10"]
    assert best(_run(math.inf), Rule()) == []


def test_milestones_are_the_first_at_or_after_each_multiple() -> None:
    # Steps 0, 30, ..., 300: 120 is the first at or after 100, 210 after 200, 300 after 300. Step 0 is no milestone.
    assert keep(_run(*[None] * 11, every=30), Rule(last=1, every_steps=100)) == {"120", "210", "300"}


def test_of_two_checkpoints_at_one_step_the_older_is_the_milestone() -> None:
    at_the_step, after_the_epoch = Candidate("a", 100, 0), Candidate("b", 100, 1)
    newer = Candidate("c", 130, 1)
    assert keep([newer, after_the_epoch, at_the_step], Rule(last=1, every_steps=100)) == {"c", "a"}


metrics = st.none() | st.floats()
rules = st.builds(
    Rule,
    last=st.integers(1, 4),
    every_steps=st.none() | st.integers(1, 40),
    best_metric=st.none() | st.just("x"),
    best_mode=st.sampled_from(["min", "max"]),
    best_count=st.integers(1, 3),
)


@given(st.lists(metrics, min_size=1, max_size=20), rules)
def test_pruning_after_every_save_keeps_what_pruning_once_at_the_end_keeps(
    values: list[float | None], rule: Rule
) -> None:
    everything = _run(*values)
    alive: list[Candidate] = []
    for candidate in reversed(everything):
        alive.insert(0, candidate)
        kept = keep(alive, rule)
        alive = [each for each in alive if each.name in kept]
    assert {each.name for each in alive} == keep(everything, rule)


@given(st.lists(metrics, max_size=10), metrics, rules)
def test_is_best_says_beforehand_what_the_best_will_be(
    others: list[float | None], value: float | None, rule: Rule
) -> None:
    will_be = rule.best_metric is not None and str(len(others) * 10) in best(_run(*others, value), rule)
    assert is_best(value, others, rule) == will_be


@given(st.lists(metrics, min_size=1, max_size=10), rules)
def test_the_newest_always_stays(values: list[float | None], rule: Rule) -> None:
    candidates = _run(*values)
    assert candidates[0].name in keep(candidates, rule)
