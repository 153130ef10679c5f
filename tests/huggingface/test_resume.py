"""Trainings by `transformers.Trainer`, killed three times and rerun, against the undisturbed one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness.place import Launch, killed
from tests.huggingface.launches import Place

PROGRAMS = "tests.huggingface.programs"


def test_killed_in_an_epoch_in_a_window_and_in_an_evaluation(tmp_path: Path) -> None:
    place = Place(tmp_path, f"{PROGRAMS}:points")
    whole, ended = place.crash_and_rerun(
        killed("update:3", saved=2), killed("batch:7", saved=6, seed=1), killed("evaluate:12", saved=10, seed=2)
    )
    assert "steps=updates" in whole.output
    assert [launch.resumed_from for launch in ended] == [None, 2, 6, 10]


@dataclass(frozen=True)
class Case:
    """A program, its options, and the launches that are killed."""

    program: str
    launches: list[Launch]
    options: dict[str, Any] = field(default_factory=dict)


USUAL = [killed("update:3", saved=2), killed("batch:7", saved=6, seed=1), killed("evaluate:12", saved=10, seed=2)]
CASES = {
    "two workers": Case("points", USUAL, {"dataloader_num_workers": 2}),
    "persistent workers": Case("points", USUAL, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}),
    "no accumulation": Case(
        "points", [killed("update:9", saved=8), killed("evaluate:20", saved=18)], {"gradient_accumulation_steps": 1}
    ),
    "evaluation by epoch": Case(
        "points",
        [killed("update:3", saved=2), killed("evaluate:5", saved=4), killed("update:6", saved=4)],
        {"eval_strategy": "epoch"},
    ),
    "evaluation at the start": Case(
        "points", [killed("update:1", saved=0), killed("update:5", saved=4)], {"eval_on_start": True}
    ),
    "early stopping": Case(
        "stopping",
        [killed("update:7", saved=6), killed("evaluate:28", saved=26), killed("update:29", saved=28)],
        {"patience": 4, "eval_steps": 2, "num_train_epochs": 20},
    ),
    "short epochs": Case("short_epochs", [killed("update:4", saved=2), killed("update:8", saved=6)]),
    "a stream": Case("stream", [killed("update:3", saved=2), killed("update:9", saved=8)], {"count": 20}),
    "bf16": Case("points", USUAL, {"bf16": True}),
    "a plateau": Case(
        "points", USUAL, {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss"}
    ),
    "a language model": Case("language", USUAL),
    "by length": Case("language", USUAL, {"train_sampling_strategy": "group_by_length"}),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", CASES)
def test_is_exact(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    Place(tmp_path, f"{PROGRAMS}:{case.program}", **case.options).crash_and_rerun(*case.launches)
