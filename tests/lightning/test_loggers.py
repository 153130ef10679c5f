"""After crashes and reruns a logger shows one curve, the one of a run that was never interrupted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resumable.lightning import loggers
from tests.harness.place import Launch, killed
from tests.lightning.launches import Place

STEPS = 18
CRASHES = (killed("train:5", saved=3), killed("validate:9", saved=6), killed("train:14", saved=12))
AROUND_EPOCHS = (killed("train:1", saved=0), killed("train:6", saved=3), killed("train:7", saved=6))

Curve = list[tuple[int, float]]


def place(folder: Path, *loggers: str, **settings: Any) -> Place:
    options = {"loggers": list(loggers), "log_every_n_steps": 1, **settings}
    return Place(folder, "tests.lightning.threads:logged", **options)


def versions(run: Path, logger: str) -> list[str]:
    return sorted(path.name for path in (run / "logs" / logger / "lightning_logs").iterdir())


def written(run: Path, version: str = "version_0") -> dict[str, bytes]:
    """The files of a CSVLogger."""
    folder = run / "logs" / "csv" / "lightning_logs" / version
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(run: Path, column: str) -> list[int]:
    """The steps for which a CSVLogger has a value of this name, in order."""
    text = written(run)["metrics.csv"].decode()
    return [int(row["step"]) for row in csv.DictReader(text.splitlines()) if row[column]]


def curves(run: Path, version: str = "version_0") -> dict[str, Curve]:
    """What TensorBoard shows."""
    shown = EventAccumulator(
        str(run / "logs" / "tensorboard" / "lightning_logs" / version), size_guidance={"scalars": 0}
    )
    shown.Reload()
    return {
        name: [(event.step, event.value) for event in shown.Scalars(name)] for name in sorted(shown.Tags()["scalars"])
    }


# -- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [CRASHES, AROUND_EPOCHS], ids=["within epochs", "around epochs"])
def test_after_three_crashes_the_csv_file_has_the_bytes_of_an_uninterrupted_run(
    folder: Path, crashes: tuple[Launch, ...]
) -> None:
    crashed = place(folder, "csv")
    crashed.crash_and_rerun(*crashes)
    assert versions(crashed.here, "csv") == ["version_0"]
    assert written(crashed.here) == written(folder / "whole")
    assert rows(crashed.here, "loss_step") == list(range(STEPS))
    assert rows(crashed.here, "lr-Adam") == list(range(STEPS))
    assert rows(crashed.here, "of_epoch") == [5, 11, 17]
    assert rows(crashed.here, "val_loss") == [2, 5, 8, 11, 14, 17]
    assert rows(crashed.here, "a_late_one") == list(range(6, STEPS))


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_the_truncated_csv_file_keeps_its_permissions(tmp_path: Path) -> None:
    def logger() -> CSVLogger:
        return CSVLogger(tmp_path, version=0)

    before = logger()
    for step in range(4):
        before.log_metrics({"loss": 1.0}, step)
    saved = loggers.capture_loggers([before])
    before.log_metrics({"loss": 2.0}, 4)
    before.save()
    file = Path(before.log_dir) / "metrics.csv"
    file.chmod(0o604)
    after = [logger()]
    loggers.cut_back(after, saved, loggers.continue_versions(after, saved), keep=False)
    assert len(file.read_text().splitlines()) == 1 + 4
    assert file.stat().st_mode & 0o777 == 0o604


def test_a_logger_that_logs_each_fourth_step_goes_on_in_its_rhythm(folder: Path) -> None:
    crashed = place(folder, "csv", log_every_n_steps=4)
    crashed.crash_and_rerun(*CRASHES)
    assert written(crashed.here) == written(folder / "whole")
    assert rows(crashed.here, "loss_step") == [3, 7, 11, 15]


@pytest.mark.parametrize("rates", ["epoch", None])
def test_learning_rates_that_are_logged_as_an_epoch_begins_are_not_logged_again(
    folder: Path, rates: str | None
) -> None:
    crashed = place(folder, "csv", rates=rates)
    crashed.crash_and_rerun(killed("train:5", saved=3), killed("train:11", saved=9), killed("train:13", saved=12))
    assert written(crashed.here) == written(folder / "whole")


def test_the_files_of_earlier_runs_stay_as_they_are(folder: Path) -> None:
    """A CSVLogger that opens the folder of another run deletes what is there."""
    crashed = place(folder, "csv")
    earlier = crashed.here / "logs" / "csv" / "lightning_logs" / "version_0"
    earlier.mkdir(parents=True)
    (earlier / "metrics.csv").write_text("step,loss\n0,1.0\n")
    for launch in (*CRASHES, Launch()):
        crashed.launch(launch)
    assert versions(crashed.here, "csv") == ["version_0", "version_1"]
    assert written(crashed.here) == {"metrics.csv": b"step,loss\n0,1.0\n"}
    crashed.keep_as("crashed")
    crashed.launch()
    assert written(crashed.here) == written(folder / "crashed", "version_1")


def test_a_crash_while_a_launch_starts_costs_nothing_of_the_curve(folder: Path) -> None:
    """A CSVLogger that opens the folder of its run again deletes what is there, long before anything is restored."""
    crashed = place(folder, "csv", "tensorboard")
    crashed.launch()
    crashed.keep_as("whole")
    for launch in (
        killed("train:8", saved=6),
        Launch("setup"),
        killed("train:14", saved=12),
        Launch("setup"),
        Launch(),
    ):
        crashed.launch(launch)
    assert written(crashed.here) == written(folder / "whole")
    assert curves(crashed.here) == curves(folder / "whole")


def test_running_a_finished_run_again_leaves_its_curve_alone(folder: Path) -> None:
    finished = place(folder, "csv", "tensorboard")
    finished.launch()
    before = written(finished.here), curves(finished.here)
    finished.launch()
    assert [versions(finished.here, name) for name in ("csv", "tensorboard")] == [["version_0"], ["version_0"]]
    assert (written(finished.here), curves(finished.here)) == before


# -- TensorBoard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [CRASHES, AROUND_EPOCHS], ids=["within epochs", "around epochs"])
def test_after_three_crashes_tensorboard_shows_the_curves_of_an_uninterrupted_run(
    folder: Path, crashes: tuple[Launch, ...]
) -> None:
    crashed = place(folder, "tensorboard")
    crashed.crash_and_rerun(*crashes)
    assert versions(crashed.here, "tensorboard") == ["version_0"]
    shown = curves(crashed.here)
    assert shown == curves(folder / "whole")
    assert [step for step, _ in shown["loss_step"]] == list(range(STEPS))
    assert [step for step, _ in shown["val_loss"]] == [2, 5, 8, 11, 14, 17]


def test_two_loggers_at_once_continue_both(folder: Path) -> None:
    crashed = place(folder, "csv", "tensorboard")
    crashed.crash_and_rerun(*CRASHES)
    assert written(crashed.here) == written(folder / "whole")
    assert curves(crashed.here) == curves(folder / "whole")
