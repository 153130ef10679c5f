"""Training programs that are killed at named instants and rerun, and end with the bits of one that never was.

Every launch is a real process that dies of a real signal. Kills are chosen by a seed made of the scenario's name, and
each is asserted to have landed where it says.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.client import Bench, Launch, killed, shared_lab, signalled
from tests.lab.compare import differences

NewBench = Callable[..., Bench]

# Scenario and number of its steps, for those that need nothing but three kills.
SCENARIOS = {
    "workers": 20,
    "batch_norm": 20,
    "mixup_in_collate": 20,
    "weighted_sampler": 20,
    "user_sampler": 18,
    "user_batch_sampler": 20,
    "subset": 20,
    "zipped_loaders": 20,
    "iterable_replayed": 20,
    "iterable_stateful": 20,
    "plain_iterable": 20,
    "stateful_data_loader": 20,
    "accelerate_loop": 20,
    "two_cadences": 30,
    "step_at_head": 30,
    "gan_zeroing_after_step": 30,
    "plateau_and_best": 50,
    "old_style_scheduler": 30,
    "leaves_epochs_early": 34,
    "two_passes": 48,
    "bf16_autocast": 20,
    "ema": 20,
    "everything_registered": 30,
    "no_outer_loop": 30,
    "stale_gradients": 30,
    "containers": 20,
    "carried_language_model": 30,
    "carried_by_functions": 40,
}


@pytest.fixture
def bench(folder: Path) -> NewBench:
    """Makes a bench for one scenario in this test's own folder."""
    return lambda scenario, **options: Bench(shared_lab(), folder, scenario, **options)


def kills(seed: str, steps: int, count: int = 3, points: str = "step fetch save") -> list[Launch]:
    """Kills in order of their steps: in the midst of a step, before a fetch, and inside the phases of a save."""
    choose = random.Random(seed)
    launches = []
    for number, step in enumerate(sorted(choose.sample(range(1, steps - 6), count))):
        point = points.split()[number % len(points.split())]
        if point == "save":
            point += choose.choice([".capture", ".blob", ".manifest", ".published"])
        delay = f"+{choose.uniform(0.0002, 0.004):.4f}" if point == "step" else ""
        launches.append(killed(f"{point}:{step}{delay}"))
    return launches


@pytest.mark.parametrize("scenario", ["grows_in_epochs", "grows_in_passes", "grows_in_steps"])
def test_objects_that_grow_and_are_unfrozen_resume_with_the_lines_that_the_hint_names(
    bench: NewBench, scenario: str
) -> None:
    # The checkpoint of step 20 stands between two epochs, before the head that changes the structure.
    points = ["step:10", "save.manifest:12", "step:18", "step:21", "save.blob:24", "step:26"]
    bench(scenario).crash_and_rerun([killed(point) for point in points])


def test_twenty_kills_of_the_base_loop_change_no_bit(bench: NewBench) -> None:
    points = [
        "save.capture:0",
        "save.manifest:0",
        "save.published:0",
        "fetch:1",
        "step:2",
        "step:3+0.0007",
        "save.capture:4",
        "save.blob:5",
        "save.published:8",
        "fetch:9",
        "evaluate:10",
        "epoch:10",
        "step:11+0.0013",
        "save.prune:8",
        "save.manifest:16",
        "step:17",
        "evaluate:20",
        "save.blob:21",
        "step:25+0.0021",
        "save.published:30",
    ]
    bench("base").crash_and_rerun([killed(point) for point in points])


def test_attempts_that_die_in_a_save_leave_one_unfinished_save_and_no_more(bench: NewBench) -> None:
    crashing = bench("base", config={"keep": {"last": 3, "best": None}})
    folder = crashing.path("run") / "checkpoints"
    for step in (9, 15, 21, 27):  # each attempt commits fewer than it keeps
        crashing.launch("run", killed(f"save.manifest:{step}"))
        names = [*folder.iterdir()]
        assert len([name for name in names if not (name / "manifest.json").exists()]) == 1
        assert len(names) <= 4
    crashing.launch("run")
    assert len([*folder.glob("*/manifest.json")]) == len([*folder.iterdir()]) == 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_three_kills_change_no_bit(bench: NewBench, scenario: str) -> None:
    bench(scenario).crash_and_rerun(kills(scenario, SCENARIOS[scenario]))


def test_a_training_that_is_taken_over_from_a_file_is_killed_and_changes_no_bit(bench: NewBench) -> None:
    points = ["save.manifest:20", "save.published:20", "step:22", "fetch:27", "evaluate:30", "save.blob:36"]
    ended = bench("taken_over").crash_and_rerun([killed(point) for point in points])
    assert "NEW" in ended[1].output  # the beginning was not committed
    assert all("RESUME  step=20 epoch=2" in launch.output for launch in ended[2:4])
    assert ended[2].batches.keys() == {"epoch 2 step 20 ", "epoch 2 step 21 "}


def test_kills_while_saves_are_put_off_change_no_bit(bench: NewBench) -> None:
    launches = [killed("step:7+0.0011"), killed("fetch:11"), killed("step:18")]
    bench("base", saves_in_turn=False).crash_and_rerun(launches)


def test_kills_of_a_loop_with_a_buffer_in_slabs_change_no_bit(bench: NewBench) -> None:
    disturbed = bench("replay_buffer")
    disturbed.crash_and_rerun([killed("save.blob:8"), killed("save.manifest:12")])
    for checkpoint in disturbed.open("crashed").checkpoints():
        checkpoint.verify()
        slabs = [blob for name, blob in checkpoint.manifest.blobs.items() if name.startswith("buffer.slabs-")]
        assert {blob.named > 1 for blob in slabs} == {True, False}


def test_a_kill_of_a_compiled_model_changes_no_bit(bench: NewBench) -> None:
    bench("compiled_by_name").crash_and_rerun([killed("step:9+0.001")])


def test_three_kills_within_an_endless_loader_change_no_bit(bench: NewBench) -> None:
    bench("cycle_in_steps").crash_and_rerun(kills("cycle", 25, points="step save step"))


def test_kills_of_a_loop_with_a_prefetched_batch_in_variables_change_no_bit(bench: NewBench) -> None:
    points = ["step:2", "save.published:8", "step:15+0.0007", "save.blob:24"]
    bench("carried_prefetch").crash_and_rerun([killed(point) for point in points])


def test_a_program_that_grows_and_shrinks_is_killed_at_each_side_of_its_first_saves(bench: NewBench) -> None:
    adopt, drop = {"adopt": ["best", "weights"]}, {"drop": ["best", "weights"]}

    def go_on(run: str, options: dict[str, object], points: list[str | None]) -> str:
        launches = [killed(point) if point else Launch() for point in points]
        return [growing.launch(run, Launch(each.kill, options, each.exit)).output for each in launches][-1]

    growing = bench("growing")
    for run, more in [("whole", False), ("crashed", True)]:
        go_on(run, {}, ["step:9"])
        refused = growing.launch(run, Launch(options={"grown": True}, exit=1)).output
        assert "adopt: [weights] in the config, or RESUMABLE_ADOPT='[\"weights\"]'" in refused
        points = ["step:10", "save.manifest:12", "save.published:12", "fetch:14"] if more else []
        output = go_on(run, {"grown": True, "config": adopt}, [*points, "step:17"])
        assert ("CHANGED" in output) is not more  # after the first save there is nothing to adopt
        refused = growing.launch(run, Launch(exit=1)).output
        assert "drop: [weights] in the config, or RESUMABLE_DROP='[\"weights\"]'" in refused
        points = ["step:18", "save.manifest:20", "save.published:20"] if more else []
        go_on(run, {"config": drop}, [*points, None])
        assert growing.open(run).latest().manifest.features == []
    assert not differences(growing.open("whole"), growing.open("crashed"))


def test_validation_changes_no_training_step(bench: NewBench) -> None:
    pair = bench("base")
    validated, plain = pair.launch("validated"), pair.launch("plain", Launch(options={"validates": False}))
    assert len(plain.batches) == 30
    assert plain.batches.items() <= validated.batches.items()


# -- workers ----------------------------------------------------------------------------------------------------------

NO_WORKERS = Launch(options={"workers": 0})


def test_two_workers_killed_three_times_give_the_bits_of_none(bench: NewBench) -> None:
    bench("workers", workers=2).crash_and_rerun(kills("two", 20), reference=NO_WORKERS)


def test_persistent_workers_killed_three_times_give_the_bits_of_none(bench: NewBench) -> None:
    bench("workers", workers=2, persistent=True).crash_and_rerun(kills("persistent", 20), reference=NO_WORKERS)


def test_the_number_of_workers_may_change_between_attempts(bench: NewBench) -> None:
    first, second, third = kills("changed", 20)
    disturbed = bench("workers", workers=0)
    launches = [
        Launch(first.kill, {"workers": 2}, first.exit),
        Launch(second.kill, {"workers": 0}, second.exit),
        Launch(third.kill, {"workers": 1, "persistent": True}, third.exit),
    ]
    disturbed.crash_and_rerun(launches, reference=Launch(options={"workers": 1}))


@pytest.mark.parametrize("registered", [False, True])
def test_a_sampler_that_follows_the_losses_goes_on_also_with_other_workers(bench: NewBench, registered: bool) -> None:
    first, second, third = kills("hard", 20, points="step save step")
    launches = [
        Launch(first.kill, {"workers": 2}, first.exit),
        Launch(second.kill, {"workers": 0}, second.exit),
        Launch(third.kill, {"workers": 1, "persistent": True}, third.exit),
    ]
    bench("hard_samples", registered=registered).crash_and_rerun(launches)


def test_a_stored_order_goes_on_whatever_the_loop_wrote_also_with_other_workers(bench: NewBench) -> None:
    first, second, third = kills("weighted", 20, points="step save step")
    launches = [
        Launch(first.kill, {"workers": 2}, first.exit),
        Launch(second.kill, {"workers": 0}, second.exit),
        Launch(third.kill, {"workers": 1, "persistent": True}, third.exit),
    ]
    bench("weighted_by_losses").crash_and_rerun(launches)


def test_the_state_of_a_map_style_dataset_goes_on(bench: NewBench) -> None:
    bench("wearing_dataset").crash_and_rerun(kills("wearing", 20))


def test_spawned_workers_killed_give_the_bits_of_none(bench: NewBench) -> None:
    launches = [killed("step:3+0.001"), killed("save.blob:9", workers=0), killed("fetch:14", workers=0)]
    bench("workers", workers=1, persistent=True, start="spawn").crash_and_rerun(launches, reference=NO_WORKERS)


@pytest.mark.parametrize("scenario", ["iterable_replayed", "iterable_stateful", "stateful_data_loader"])
def test_three_kills_change_no_bit_with_two_workers(bench: NewBench, scenario: str) -> None:
    bench(scenario, workers=2).crash_and_rerun(kills(f"{scenario} 2", 20))


def test_three_kills_change_no_bit_of_a_stream_with_a_shuffle_buffer(bench: NewBench) -> None:
    pytest.importorskip("datasets", reason="needs datasets")
    *_, last = bench("buffered_stream").crash_and_rerun(kills("buffered", 20))
    assert "its state_dict leaves out the shuffle buffer" in last.output


# -- gradients, signals -----------------------------------------------------------------------------------------------


def test_kills_inside_an_accumulation_window_change_no_bit(bench: NewBench) -> None:
    launches = [killed("step:6"), killed("save.published:9"), killed("fetch:15"), killed("step:22+0.001")]
    bench("accumulate_4").crash_and_rerun(launches)


def test_sigterm_inside_an_accumulation_window_saves_the_gradients(bench: NewBench) -> None:
    disturbed = bench("accumulate_4")
    first, second, _ = disturbed.crash_and_rerun([signalled("SIGTERM", 5), signalled("SIGUSR1", 14)])
    for ended, step in ((first, 6), (second, 15)):
        assert f"PREEMPT signal={'SIGTERM' if step == 6 else 'SIGUSR1'} step={step} saved=yes exit=75" in ended.output


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_the_step_and_saves_and_no_step_is_run_again(bench: NewBench, name: str) -> None:
    first, second = bench("signalled_once").crash_and_rerun([signalled(name, 6)])
    assert f"signal={name} step=7 saved=yes" in first.output
    assert "RESUME  step=7 epoch=0" in second.output
    assert not first.batches.keys() & second.batches.keys()


def test_validation_notices_a_signal_and_leaves(bench: NewBench) -> None:
    leaves = Launch(options={"signal_in_validation": 1, "signal": "SIGTERM"}, exit=75)
    first, _ = bench("signalled_once").crash_and_rerun([leaves])
    assert "PREEMPT signal=SIGTERM step=20" in first.output


def test_leave_saves_and_exits_as_a_signal_does(bench: NewBench) -> None:
    in_a_step = Launch(options={"signal_at": 6}, exit=75)
    in_validation = Launch(options={"signal_in_validation": 1}, exit=75)
    first, second, _ = bench("left_from_a_thread").crash_and_rerun([in_a_step, in_validation])
    assert "PREEMPT reason=leave() step=7 saved=yes exit=75" in first.output
    assert "PREEMPT reason=leave() step=20" in second.output
    assert not first.batches.keys() & second.batches.keys()


@pytest.mark.parametrize("second", ["at once", "while saving"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_leaves_at_once_and_tears_nothing(bench: NewBench, name: str, second: str) -> None:
    disturbed = bench("signalled_twice")
    first, rerun = disturbed.crash_and_rerun([signalled(name, 6, second=second)])
    assert "saved=yes" not in first.output
    assert re.search(r"RESUME  step=[04] epoch=0", rerun.output), rerun.output


def test_workers_do_not_act_on_a_signal_to_the_whole_group(bench: NewBench) -> None:
    bench("signalled_group", workers=2).crash_and_rerun([signalled("SIGTERM", 6), signalled("SIGINT", 13)])


# -- starts and ends --------------------------------------------------------------------------------------------------


def test_a_script_that_seeds_nothing_resumes_the_same_run_before_its_first_interval(bench: NewBench) -> None:
    disturbed = bench("seeds_nothing")
    start = disturbed.launch("whole", killed("save.published:0"))
    assert not start.batches
    shutil.copytree(disturbed.path("whole"), disturbed.path("crashed"))
    disturbed.crash_and_rerun([killed("step:3"), killed("step:5+0.001"), killed("fetch:14")])


def test_two_launches_of_a_script_that_seeds_nothing_differ(bench: NewBench) -> None:
    disturbed = bench("seeds_nothing")
    ended = [disturbed.launch(run) for run in ("one", "other")]
    assert ended[0].batches.keys() == ended[1].batches.keys()
    assert not set(ended[0].batches.values()) & set(ended[1].batches.values())


def test_a_stopped_run_killed_on_the_way_stops_at_the_same_step(bench: NewBench) -> None:
    ended = bench("early_stop").crash_and_rerun([killed("step:3"), killed("save.blob:7"), killed("step:9+0.001")])
    assert "NEW " in ended[0].output


def test_a_run_killed_in_its_final_save_finishes_on_the_next_launch(bench: NewBench) -> None:
    bench("base").crash_and_rerun([killed("save.blob:30"), killed("save.manifest:30")])


def test_a_finished_run_trains_nothing_more(bench: NewBench) -> None:
    finished = bench("base", epochs=2)
    finished.launch("run")
    before = finished.open("run").latest()
    again = finished.launch("run")
    after = finished.open("run").latest()
    assert not again.batches
    assert before.manifest.finished
    assert after.name == before.name


def test_a_finished_run_goes_on_to_a_larger_number_as_if_it_had_been_asked_for_it(bench: NewBench) -> None:
    extended = bench("base", epochs=4)
    first = extended.launch("extended", Launch(options={"epochs": 2}))
    second = extended.launch("extended", killed("step:27"))
    third = extended.launch("extended")
    whole = extended.launch("whole")
    extended.assert_equal("extended", "whole", [first, second, third], [whole])


def test_the_comparison_sees_one_flipped_bit(bench: NewBench) -> None:
    """The laboratory's own proof: another seed, another batch, and no test here would pass for lack of looking."""
    pair = bench("base", epochs=1)
    one = pair.launch("one")
    other = pair.launch("other", Launch(options={"epochs": 2}))
    with pytest.raises(AssertionError, match="never ran"):
        pair.assert_equal("one", "other", [one], [other])
    with pytest.raises(AssertionError, match=r"tensors\.model"):
        pair.assert_equal("one", "other", [other], [other])


# -- the wider product ------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_eight_kills_at_random_change_no_bit(bench: NewBench, scenario: str) -> None:
    steps = SCENARIOS[scenario]
    bench(scenario).crash_until_finished(
        *(kills(f"{scenario} {seed}", steps, count=8, points="step save fetch save step") for seed in range(3))
    )


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["workers", "mixup_in_collate", "user_sampler", "user_batch_sampler", "subset"])
def test_eight_kills_of_workers_give_the_bits_of_none(bench: NewBench, scenario: str) -> None:
    """In one run the workers begin anew each epoch, in the other they persist."""
    runs = []
    for persistent in (False, True):
        chosen = kills(f"{scenario} {persistent} fork", SCENARIOS[scenario], count=8, points="step save fetch")
        runs.append([Launch(each.kill, {"persistent": persistent}, each.exit) for each in chosen])
    bench(scenario, workers=2, start="fork").crash_until_finished(*runs, reference=NO_WORKERS)


@pytest.mark.matrix
@pytest.mark.timeout(600)
# Samplers stay in the main process, so what is spawned is the same with each of them.
@pytest.mark.parametrize("scenario", ["workers", "mixup_in_collate", "subset"])
def test_kills_of_spawned_workers_give_the_bits_of_none(bench: NewBench, scenario: str) -> None:
    """One launch each dies with workers that begin anew each epoch and with those that persist: each imports torch."""
    first, second = kills(f"{scenario} spawn", SCENARIOS[scenario], count=2, points="step save fetch")
    launches = [Launch(first.kill, {"persistent": False}, first.exit), Launch(second.kill, {}, second.exit)]
    disturbed = bench(scenario, workers=2, persistent=True, start="spawn")
    disturbed.crash_until_finished(launches, reference=NO_WORKERS)


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_twenty_kills_at_random_change_no_bit_of_the_base_loop(bench: NewBench) -> None:
    points = "step save fetch save step save"
    bench("base").crash_until_finished(*(kills(f"base {seed}", 30, count=20, points=points) for seed in range(4)))


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_sigterm_after_any_batch_of_an_accumulation_changes_no_bit(bench: NewBench) -> None:
    bench("accumulate_4").crash_until_finished(
        *([signalled("SIGTERM", step), signalled("SIGINT", step + 2)] for step in range(1, 26))
    )
