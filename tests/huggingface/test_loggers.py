"""After crashes and reruns TensorBoard shows one curve, the one of a run that was never interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness.place import killed, preempted
from tests.huggingface.launches import Place

Curve = list[tuple[int, float]]


def curves(run: Path) -> dict[str, Curve]:
    """Return what TensorBoard shows of a run in one folder, without measurements of time."""
    [folder] = (run / "hf" / "runs").iterdir()
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    shown.Reload()
    return {
        name: [(event.step, event.value) for event in shown.Scalars(name)]
        for name in sorted(shown.Tags()["scalars"])
        if not name.endswith(("runtime", "per_second"))
    }


@pytest.mark.matrix
def test_wandb_continues_the_run_offline(tmp_path: Path) -> None:
    """Each launch writes a folder of its own, and all of them are of one run."""
    pytest.importorskip("wandb")
    place = Place(tmp_path, "tests.huggingface.programs:tracked", report_to=["wandb"], logging_steps=1, mode="offline")
    place.crash_and_rerun(killed("update:5", saved=4), preempted("evaluate:8", saved=6))
    folders = list((tmp_path / "here" / "wandb").glob("offline-run-*"))
    assert len(folders) == 3
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1


def losses_of_mlflow(run: Path) -> list[tuple[int, str]]:
    """Return step and value of each logged loss, by step: the threads of MLflow write them in any order."""
    [losses] = (run / "mlruns").rglob("metrics/loss")
    rows = [line.split() for line in losses.read_text().splitlines()]
    return sorted((int(step), value) for _, value, step in rows)


@pytest.mark.matrix
def test_mlflow_shows_one_curve_in_its_files(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    place = Place(tmp_path, "tests.huggingface.programs:tracked", report_to=["mlflow"], logging_steps=1, mode="")
    place.crash_and_rerun(killed("update:5", saved=4), preempted("evaluate:8", saved=6))
    whole = losses_of_mlflow(tmp_path / "whole")
    assert [step for step, _ in whole] == list(range(1, 16))
    assert losses_of_mlflow(tmp_path / "here") == whole


def test_tensorboard_shows_one_curve(tmp_path: Path) -> None:
    place = Place(tmp_path, "tests.huggingface.programs:points", report_to=["tensorboard"], logging_steps=1)
    place.crash_and_rerun(killed("update:3", saved=2), killed("evaluate:8", saved=6))
    whole = curves(tmp_path / "whole")
    assert [step for step, _ in whole["train/loss"]] == list(range(1, 16))
    assert curves(tmp_path / "here") == whole
