"""What saving costs training: learnt from times alone, and the share of it that `overhead_percent` promises."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from resumable.policy.save_cost import BLOCK_STEPS, STEPS_TO_COMPARE, Cost, Usual
from resumable.policy.save_policy import Schedule, due


@dataclass
class Training:
    """A training whose clock is a number: what a save makes it wait, how long it is written and how much it slows."""

    step: Callable[[int], float] = lambda number: 1.0
    stall: Callable[[int], float] = lambda save: 0.5
    write: Callable[[int], float] = lambda save: 4.0
    slower: float = 0.5  # how much longer steps take while a save is written, as a fraction
    schedule: Schedule = field(default_factory=Schedule)
    window: int = 1  # accumulation: only each so many steps a boundary is clean
    now: float = 1000.0
    cost: Cost = field(default_factory=Cost)
    steps: int = 0
    saves: int = 0
    stalled: float = 0.0
    slowed: float = 0.0
    saved_at: float = 1000.0
    written_at: float = 0.0
    save_seconds: float = 0.0
    due: bool = False
    told: bool = False  # whether control was elsewhere than in a step since the last boundary
    costs: list[float] = field(default_factory=list)  # what each save really cost
    saved: list[float] = field(default_factory=list)

    def start(self) -> None:
        """The checkpoint before the first batch, and the first boundary."""
        self.save()
        self.cost.first(self.stalled)
        self.now = max(self.now, self.written_at)  # training waits for it
        self.costs, self.saved, self.told = [], [], True

    def resume(self) -> None:
        """An attempt that goes on from a checkpoint: nothing is saved at its start."""
        self.told = True

    def save(self) -> None:
        stall, write = self.stall(self.saves), self.write(self.saves)
        self.cost.begin(stalled_seconds=self.stalled, save_seconds=self.save_seconds)
        self.now += stall
        self.stalled += stall
        self.saved_at, self.written_at, self.save_seconds = self.now, self.now + write, stall + write
        self.costs.append(stall)
        self.saved.append(self.now)
        self.saves += 1

    def elsewhere(self, seconds: float) -> None:
        """An evaluation or the end of an epoch, of which the boundary is told."""
        self.now += seconds
        self.told = True

    def train(self, steps: int) -> None:
        """So many steps, and what the boundary does after each."""
        for _ in range(steps):
            seconds = self.step(self.steps)
            extra = min(seconds * self.slower, max(self.written_at - self.now, 0.0) * self.slower)
            self.now += seconds + extra
            if self.costs:
                self.costs[-1] += extra
            self.steps += 1
            self.boundary()

    def boundary(self) -> None:
        self.cost.reached(
            self.now,
            is_step=not self.told,
            beside_save=self.now < self.written_at or self.steps % self.window > 0,
            stalled_seconds=self.stalled,
            save_seconds=self.save_seconds,
        )
        self.told = False
        reason = due(
            self.schedule,
            step=self.steps,
            last_step=self.steps - 1,
            seconds_since_save=self.now - self.saved_at,
            cost_seconds=self.cost.seconds,
        )
        self.due = self.due or reason is not None
        if self.due and self.now >= self.written_at and self.steps % self.window == 0:
            self.due = False
            self.save()

    def intervals(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.saved, self.saved[1:], strict=False)]


def overhead(percent: float) -> Schedule:
    return Schedule(overhead_percent=percent)


# -- the usual step ---------------------------------------------------------------------------------------------------


def usual(*seconds: float) -> float | None:
    learnt = Usual()
    for each in seconds:
        learnt.add(each)
    return learnt.seconds


def test_without_a_step_nothing_is_usual() -> None:
    assert usual() is None


def test_a_few_steps_are_better_than_none() -> None:
    assert usual(2.0, 4.0, 3.0, 3.0) == 3.0


def test_slow_steps_at_the_start_are_not_usual() -> None:
    assert usual(*[10.0] * BLOCK_STEPS, *[1.0] * 4) == 1.0
    assert usual(*[10.0] * BLOCK_STEPS, *[1.0] * BLOCK_STEPS, *[2.0] * BLOCK_STEPS) == 2.0  # from here on the median


def test_steps_of_two_kinds_count_as_often_as_they_come() -> None:
    assert usual(*[1.0, 1.0, 1.0, 5.0] * 100) == 2.0  # their median would be 1


def test_a_rare_long_step_is_not_usual() -> None:
    assert usual(*[*[1.0] * 100, 500.0] * 5) == 1.0


def test_what_was_usual_is_forgotten() -> None:
    assert usual(*[1.0] * 1000, *[2.0] * 100) == 2.0


def test_short_steps_are_put_together_until_a_block_says_something() -> None:
    learnt = Usual()
    assert not any(learnt.add(0.001) for _ in range(10 * BLOCK_STEPS))
    assert learnt.seconds == pytest.approx(0.001)


# -- one save ---------------------------------------------------------------------------------------------------------


def measured(training: Training, *, steps: int = 20) -> float:
    """The cost as known after one save beside so many steps."""
    training.start()
    training.train(100)
    training.save()
    training.train(steps)
    assert training.cost.measured_seconds is not None
    return training.cost.measured_seconds


def test_the_cost_is_the_wait_and_the_slower_steps() -> None:
    training = Training()
    assert measured(training) == pytest.approx(0.5 + 3 * 0.5)
    assert training.costs[-1] == pytest.approx(0.5 + 3 * 0.5)


def test_steps_that_are_no_slower_cost_nothing() -> None:
    assert measured(Training(slower=0.0)) == pytest.approx(0.5)


def test_steps_that_seem_faster_beside_a_save_do_not_make_it_cheaper_than_its_wait() -> None:
    training = Training(slower=0.0, step=lambda number: 0.5 if 100 <= number < 108 else 1.0)
    assert measured(training) == pytest.approx(0.5)


def test_an_evaluation_between_two_steps_beside_a_save_is_no_cost_of_it() -> None:
    training = Training(slower=0.0, write=lambda save: 100.0)
    training.start()
    training.train(20)
    training.save()
    training.train(5)
    training.elsewhere(50.0)
    training.train(200)
    assert training.cost.measured_seconds == pytest.approx(0.5)


def test_a_long_pause_that_nobody_told_of_is_not_taken_for_a_cost() -> None:
    training = Training(slower=0.0, step=lambda number: 1.0 if number != 101 else 1000.0)
    assert measured(training) == pytest.approx(0.5)


def test_whatever_happens_beside_a_save_it_costs_at_most_the_time_that_it_took() -> None:
    training = Training(slower=0.0, step=lambda number: {100: 3.9, 101: 5.0}.get(number, 1.0))
    assert measured(training) == pytest.approx(0.5 + 4.5)


def test_what_a_step_waited_for_a_save_is_counted_once() -> None:
    training = Training(slower=0.0)
    training.start()
    training.train(20)
    training.save()
    training.now += 0.75  # in a hook before the optimizer's step
    training.stalled += 0.75
    training.train(20)
    assert training.cost.measured_seconds == pytest.approx(0.5 + 0.75)


def steps_until_known(training: Training) -> int:
    steps = 0
    while training.cost.seconds is None:
        training.train(1)
        steps += 1
    return steps


def test_the_cost_is_not_known_before_there_are_steps_to_compare_with() -> None:
    training = Training()
    training.start()
    assert steps_until_known(training) == 1 + STEPS_TO_COMPARE  # the first step may do things once
    assert training.cost.seconds == 0.5
    assert training.cost.measured_seconds is None


@pytest.mark.parametrize(("step", "write", "beside"), [(0.01, 0.005, BLOCK_STEPS), (20.0, 1.0, 1), (1.0, 30.0, 30)])
def test_a_save_is_watched_until_it_is_written_and_long_enough_to_meet_all_kinds_of_steps(
    step: float, write: float, beside: int
) -> None:
    training = Training(step=lambda number: step, write=lambda save: write, slower=0.0)
    training.start()
    training.train(20)
    training.save()
    assert steps_until_known(training) == beside + STEPS_TO_COMPARE


def test_the_window_of_accumulation_in_which_a_save_is_written_counts_as_a_whole() -> None:
    training = Training(step=lambda number: 40.0 if number % 8 == 7 else 10.0, write=lambda save: 12.0, window=8)
    training.start()
    training.train(400)
    training.save()
    training.train(20)
    assert training.cost.measured_seconds == pytest.approx(training.costs[-1])
    assert training.costs[-1] == pytest.approx(0.5 + 5.0)


def test_a_save_that_follows_while_one_is_written_ends_the_measuring_of_the_first() -> None:
    training = Training(slower=0.0, write=lambda save: 100.0)
    training.start()
    training.train(20)
    for _ in range(3):
        training.save()
        training.train(2)
    assert training.cost.measured_seconds == pytest.approx(0.5)


def test_saves_at_every_step_have_nothing_to_compare_with_and_count_what_is_certain() -> None:
    training = Training()
    training.start()
    for _ in range(5):
        training.save()
        training.train(1)
    assert training.cost.measured_seconds == pytest.approx(0.5)


# -- several saves ----------------------------------------------------------------------------------------------------


def test_a_first_save_that_was_dear_is_paid_for_and_soon_forgotten() -> None:
    training = Training(stall=lambda save: 20.0 if save == 1 else 1.0, slower=0.0, schedule=overhead(5))
    training.start()
    training.train(3000)
    intervals = training.intervals()
    assert intervals[0] == pytest.approx(20 / 0.05, abs=3)
    assert intervals[1] == pytest.approx((20 + 2 * 1) / 3 / 0.05, abs=3)
    assert intervals[10:] == pytest.approx([1 / 0.05] * len(intervals[10:]), abs=3)


def test_one_save_in_ten_that_is_dear_is_paid_for_too() -> None:
    # Unchanged files are linked, and written anew once in ten saves: a median would never see that.
    training = Training(stall=lambda save: 10.0 if save % 10 == 0 else 0.5, slower=0.0, schedule=overhead(2))
    training.start()
    training.train(20_000)
    assert 0.018 < sum(training.costs) / (training.now - 1000) <= 0.02


def test_noise_does_not_add_up_to_a_cost() -> None:
    drawn = random.Random(1)
    training = Training(step=lambda number: drawn.gauss(1, 0.2), write=lambda save: 50.0, slower=0.0)
    training.start()
    training.train(100)
    costs = []
    for _ in range(200):
        training.save()
        training.train(80)
        costs.append(training.cost.measured_seconds or 0.0)
    # Fifty steps scatter by 1.4 s; counting only those saves that seem to have made them slower would give 1.25 s.
    assert 0.5 <= sum(costs) / len(costs) < 1.0


def test_after_a_resume_a_save_comes_soon_and_tells_its_cost() -> None:
    training = Training(schedule=overhead(5))
    training.resume()
    training.train(1000)
    assert training.saved[0] - 1000 == pytest.approx(STEPS_TO_COMPARE + 1, abs=1)
    assert training.intervals()[0] == pytest.approx(2 / 0.05, abs=2)


def test_a_first_measurement_among_steps_that_warm_up_is_put_right_when_more_is_known() -> None:
    # Of the steps before the first save all are slow, so that those beside it seem to be fast.
    training = Training(step=lambda number: 10.0 if number < 5 else 1.0, schedule=overhead(5))
    training.resume()
    training.train(15)
    assert training.cost.measured_seconds == pytest.approx(0.5)
    training.train(50)
    assert training.saves <= 10  # the first still counts
    assert training.cost.measured_seconds == pytest.approx(2.0, rel=0.1)


def test_steps_that_become_longer_are_not_taken_for_the_cost_of_saves_for_ever() -> None:
    training = Training(step=lambda number: 1.0 if number < 2000 else 4.0, slower=0.0, schedule=overhead(5))
    training.start()
    training.train(6000)
    assert training.cost.measured_seconds == pytest.approx(0.5)


# -- the share --------------------------------------------------------------------------------------------------------

log_seconds = st.floats(-3.0, 1.5).map(lambda exponent: 10**exponent)


def realised(
    *,
    step: float,
    stall: float,
    write: float,
    slower: float,
    noise: float,
    kinds: int,
    window: int,
    first: float,
    percent: float,
    resumed: bool,
    seed: int,
) -> float:
    """What saving cost in eight epochs of 500 steps, each with an evaluation behind it, over what it might have cost.

    Without the last saves, which are not paid for yet. Every `kinds` steps one takes three times as long, and the
    first save costs `first` times what the others do.
    """
    drawn = random.Random(seed)

    def step_seconds(number: int) -> float:
        return step * (3.0 if (number + 1) % kinds == 0 else 1.0) * drawn.lognormvariate(0, noise)

    training = Training(
        step=step_seconds,
        stall=lambda save: stall * drawn.lognormvariate(0, noise) * (first if save <= 1 else 1.0),
        write=lambda save: write * drawn.lognormvariate(0, noise),
        slower=slower,
        schedule=overhead(percent),
        window=window,
    )
    if resumed:
        training.resume()
    else:
        training.start()
    began = training.now
    for _ in range(8):
        training.train(500)
        training.elsewhere(100 * step)
    paid = sum(training.costs) - 2 * max(training.costs, default=0.0)
    return paid / (percent / 100 * (training.now - began))


WITHOUT_SHRINKING = (Phase.explicit, Phase.generate)  # which takes minutes, and tells little

trainings: dict[str, st.SearchStrategy[Any]] = {
    "step": log_seconds,
    "stall": st.floats(-3.0, 1.0).map(lambda exponent: 10**exponent),
    "write": log_seconds,
    "slower": st.floats(0.0, 1.0),
    "first": st.sampled_from([0.2, 1.0, 10.0]),
    "percent": st.sampled_from([0.5, 2.0, 5.0, 20.0]),
    "resumed": st.booleans(),
    "seed": st.integers(0, 2**32),
}


@given(noise=st.floats(0.0, 0.1), kinds=st.sampled_from([1, 4, 16]), **trainings)
@settings(max_examples=60, phases=WITHOUT_SHRINKING)
def test_saving_costs_at_most_its_share(kinds: int, **training: Any) -> None:
    """Within a tenth, with accumulation too, whose slow steps are those at which a save may be taken."""
    assert realised(kinds=kinds, window=kinds, **training) <= 1.1


@given(noise=st.floats(0.0, 0.3), kinds=st.sampled_from([1, 4]), **trainings)
@settings(max_examples=60, phases=WITHOUT_SHRINKING)
def test_among_much_noise_saving_still_costs_about_its_share(kinds: int, **training: Any) -> None:
    """At most twice where steps scatter by a third, and every fourth waits for the loader, three times as long."""
    assert realised(kinds=kinds, window=1, **training) <= 2.0


@given(
    step=st.floats(0.05, 2.0),
    stall=st.floats(0.5, 2.0),
    write=st.floats(1.0, 5.0),
    slower=st.floats(0.0, 0.5),
    percent=st.sampled_from([1.0, 2.0, 5.0]),
    noise=st.floats(0.0, 0.1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25)
def test_saves_come_as_often_as_the_share_allows(
    *, step: float, stall: float, write: float, slower: float, percent: float, noise: float, seed: int
) -> None:
    """Where steps are short against the interval, the realised share is at least 0.75 of the stated one."""
    drawn = random.Random(seed)
    training = Training(
        step=lambda number: step * drawn.lognormvariate(0, noise),
        stall=lambda save: stall,
        write=lambda save: write,
        slower=slower,
        schedule=overhead(percent),
    )
    training.start()
    began = training.now
    while training.saves < 25:
        training.train(100)
    share = sum(training.costs[:-1]) / (training.saved[-1] - began)
    assert 0.75 * percent / 100 <= share <= 1.1 * percent / 100
