"""Trainings by `transformers.Trainer`, killed three times and rerun, against the undisturbed one."""

from __future__ import annotations

from pathlib import Path

from tests.harness.place import killed
from tests.transformers.launches import Place

POINTS = "tests.transformers.programs:points"


def test_killed_in_an_epoch_in_a_window_and_in_an_evaluation(tmp_path: Path) -> None:
    place = Place(tmp_path, POINTS)
    whole, ended = place.crash_and_rerun(
        killed("update:3", saved=2), killed("batch:7", saved=6, seed=1), killed("evaluate:12", saved=10, seed=2)
    )
    assert "steps=updates" in whole.output
    assert [launch.resumed_from for launch in ended] == [None, 2, 6, 10]
