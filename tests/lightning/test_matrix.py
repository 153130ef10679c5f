"""Every way of using Lightning: a run that is killed and rerun leaves the bits of one that was left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.harness.folders import quick_folder
from tests.lightning.changing import ALL
from tests.lightning.running import Bench, assert_equal_ends

# What the default run keeps: one death of each of these, and every other one with `-m matrix`.
TELLING = {
    "automatic": 1,
    "manual": 1,
    "accumulation_saved_inside_the_window": 1,
    "plateau_per_step_on_the_last_validation": 2,
    "validation_every_third_batch_where_saves_fall": 0,
    "combined_max_size_cycle": 0,
    "stream": 1,
    "sampler_with_state": 1,  # it is the start of an epoch, where storing the position opens the pass
    "sampler_with_state_and_no_length": 0,
    "persistent_workers": 1,
    "hooks_that_draw": 1,
    "metrics_of_the_epoch_with_validation_within": 1,
    "averaging_before_resume": 5,
    "averaging_without_batch_norm": 1,
    "finetuning_part_by_part": 2,
    "optimizer_replaced": 1,
    "pruning": 2,
}

# Some that end with other optimizers or schedulers than they begin with.
REBUILT = ("averaging", "averaging_before_resume", "optimizer_replaced", "several_callbacks_that_change")


# Programs with more places than these go through one mechanism, so each dies in every other place, turn and turn about.
FEW_PLACES = 4


def _others(name: str) -> list[str]:
    """The places of death in the wider matrix: all but the one of the default run."""
    places = ALL[name].places
    turn = list(ALL).index(name) % 2
    return [
        place
        for number, place in enumerate(places)
        if number != TELLING.get(name) and (len(places) <= FEW_PLACES or number % 2 == turn)
    ]


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    """One bench per case, so that the uninterrupted run is made once."""
    with quick_folder() as folder:
        yield {name: Bench(folder / name, name) for name in ALL}


@pytest.fixture
def bench(benches: dict[str, Bench], name: str) -> Bench:
    if ALL[name].needs_cuda and not torch.cuda.is_available():
        pytest.skip("GradScaler is for CUDA, and this machine has none")
    return benches[name]


@pytest.mark.parametrize("name", TELLING)
def test_a_run_that_is_killed_and_rerun_leaves_the_same_bits(bench: Bench, name: str) -> None:
    bench.crash_and_rerun(ALL[name].places[TELLING[name]])


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALL)
def test_a_run_that_is_killed_anywhere_and_rerun_leaves_the_same_bits(bench: Bench, name: str) -> None:
    """In each place a run of its own, and in the first one two more deaths; all against one that was left alone."""
    first = ALL[name].places[0]
    dies_again = len(ALL[name].places) <= FEW_PLACES or name in REBUILT
    if dies_again:
        bench.crash_and_rerun(first, "on_train_batch_end:4", "on_train_batch_end:5")
    for place in _others(name):
        if place != first or not dies_again:
            bench.crash_and_rerun(place)


@pytest.mark.parametrize(
    "name",
    ["automatic", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("metrics_of_the_epoch", *REBUILT))],
)
def test_a_finished_run_that_is_started_again_trains_nothing_and_stands_where_it_ended(bench: Bench) -> None:
    whole = bench.whole
    with bench.afresh("again"):
        bench.launch()
        again = bench.launch()
        assert again.notes == []
        assert_equal_ends(again.end, whole.end)


@pytest.mark.parametrize("name", ["automatic", pytest.param("metrics_of_the_epoch", marks=pytest.mark.matrix)])
def test_a_finished_run_goes_on_when_asked_for_more_epochs(bench: Bench) -> None:
    with bench.afresh("longer"):
        whole = bench.launch("--max-epochs", "3")
    with bench.afresh("continued"):
        before = bench.launch("--max-epochs", "2")
        after = bench.launch("--max-epochs", "3")
        assert before.notes + after.notes == whole.notes
        assert_equal_ends(after.end, whole.end)


def test_every_telling_case_is_there() -> None:
    assert all(0 <= number < len(ALL[name].places) for name, number in TELLING.items())


def test_every_case_dies_in_three_places() -> None:
    assert all(len(set(case.places)) >= 3 for case in ALL.values())
