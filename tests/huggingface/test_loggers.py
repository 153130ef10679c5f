"""After crashes and reruns TensorBoard shows one curve, the one of a run that was never interrupted."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness.place import killed
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


def test_tensorboard_shows_one_curve(tmp_path: Path) -> None:
    place = Place(tmp_path, "tests.huggingface.programs:points", report_to=["tensorboard"], logging_steps=1)
    place.crash_and_rerun(killed("update:3", saved=2), killed("evaluate:8", saved=6))
    whole = curves(tmp_path / "whole")
    assert [step for step, _ in whole["train/loss"]] == list(range(1, 16))
    assert curves(tmp_path / "here") == whole
