"""Trainings by `transformers.Trainer`, killed three times and rerun, against the undisturbed one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Run
from tests.harness.place import Launch, killed
from tests.huggingface.launches import Place
from tests.huggingface.programs import IS_NEW

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


IN_A_WINDOW = [killed("batch:7", saved=6, seed=1)]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "adafactor": {"optim": "adafactor"},
    "fused AdamW": {"optim": "adamw_torch_fused"},
    "SGD with momentum": {"optim": "sgd", "optim_args": "momentum=0.9"},
    "RMSprop": {"optim": "rmsprop"},
    "strong clipping": {"max_grad_norm": 0.01},
    "no clipping": {"max_grad_norm": 0.0},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "tokens averaged by device": {"average_tokens_across_devices": False},
    "noise in embeddings": {"neftune_noise_alpha": 5.0},
    "restarts": {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
    "warm-up": {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 4},
    "a plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "last batch dropped": {"dataloader_drop_last": True, "logging_first_step": True},
    "counted tokens": {"include_num_input_tokens_seen": "all"},
    **({"a greedy schedule": {"lr_scheduler_type": "greedy", "metric_for_best_model": "eval_loss"}} if IS_NEW else {}),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_change_nothing(tmp_path: Path, name: str) -> None:
    """Train a small GPT-2 that is killed in a window of accumulation."""
    Place(tmp_path, f"{PROGRAMS}:language", **ARGUMENTS[name]).crash_and_rerun(*IN_A_WINDOW)


@pytest.mark.matrix
def test_losses_that_are_not_finite_are_logged_as_they_were(tmp_path: Path) -> None:
    """Hugging Face replaces them by a mean in its log, and weights are as they were."""
    place = Place(tmp_path, f"{PROGRAMS}:blind", updates=list(range(1, 15)))
    place.crash_and_rerun(killed("batch:7", saved=6, seed=1), killed("update:9", saved=8))


@pytest.mark.matrix
def test_losses_that_are_not_finite_are_logged_unfiltered(tmp_path: Path) -> None:
    place = Place(tmp_path, f"{PROGRAMS}:blind", updates=[6], logging_nan_inf_filter=False)
    place.crash_and_rerun(killed("batch:7", saved=6, seed=1), killed("update:9", saved=8))


@pytest.mark.matrix
def test_a_scaler_that_skips_updates(tmp_path: Path) -> None:
    """Accelerate makes none on a CPU, but uses the one that it has."""
    place = Place(tmp_path, f"{PROGRAMS}:scaled")
    whole, _ = place.crash_and_rerun(killed("update:7", saved=6))
    weights = [line.split()[2] for line in whole.events if line.startswith("update ")]
    assert len(set(weights)) < len(weights), "no update was skipped"
    assert Run(str(place.here / "run")).latest().load("scaler")["scale"] < 2.0**127


@pytest.mark.matrix
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_fp16_on_a_gpu(tmp_path: Path) -> None:
    Place(tmp_path, f"{PROGRAMS}:scaled", fp16=True).crash_and_rerun(killed("batch:7", saved=6))


@pytest.mark.matrix
@pytest.mark.parametrize("name", CASES)
def test_is_exact(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    Place(tmp_path, f"{PROGRAMS}:{case.program}", **case.options).crash_and_rerun(*case.launches)
