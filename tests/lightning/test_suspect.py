"""What a module logs with `self.log` makes checkpoints suspect, and saves better values, as `trainer.log` does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from resumable import Run
from resumable.lightning import Resume
from tests.data.kinds import Indices
from tests.tiny import until_written

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and samplers


class Module(pl.LightningModule):
    """Logs a loss that is NaN from step `nan_from` on, and a score of each validation, infinite in epoch 2 alone."""

    def __init__(self, *, nan_from: int = 1000, fails_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_from = nan_from
        self.fails_at = fails_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        until_written()
        if self.global_step == self.fails_at:
            raise OSError("a disk went away")
        loss: torch.Tensor = self.layer(batch[:, None].float()).square().mean()
        self.log("loss", loss.detach() if self.global_step + 1 < self.nan_from else torch.tensor(math.nan))
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("score", torch.tensor(math.inf if self.current_epoch == 2 else 1.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(folder: Path, module: Module, *, keep: dict[str, Any]) -> None:
    resume = Resume({"run": str(folder / "run"), "every": {"steps": 2}, "progress": "never", "keep": keep})
    trainer = pl.Trainer(
        max_epochs=4,
        callbacks=[resume],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    torch.manual_seed(1)
    trainer.fit(module, DataLoader(Indices(20), 4, shuffle=True), DataLoader(Indices(4), 4))


def marks(folder: Path) -> dict[int, tuple[Any, Any, Any]]:
    found = {}
    for checkpoint in Run(str(folder / "run")).checkpoints():
        position = checkpoint.manifest.position
        witnesses = json.loads(position["witnesses"])["metrics"]
        found[checkpoint.step] = position.get("suspect"), position.get("suspect_since"), witnesses
    return found


def test_the_newest_finite_checkpoint_stays(tmp_path: Path) -> None:
    fit(tmp_path, Module(nan_from=13), keep={"last": 1, "best": None})
    found = {step: mark[:2] for step, mark in marks(tmp_path).items()}
    assert found == {12: (None, None), 20: ("loss", 13)}
    assert Run(str(tmp_path / "run")).finite().step == 12


@pytest.mark.alarms("model.fails_at")
def test_marks_are_the_same_after_crashes(tmp_path: Path) -> None:
    keep = {"last": 1000, "best": None}
    fit(tmp_path / "whole", Module(nan_from=9), keep=keep)
    for fails_at in (5, 11, 17):
        with pytest.raises(OSError, match="a disk went away"):
            fit(tmp_path / "crashed", Module(nan_from=9, fails_at=fails_at), keep=keep)
    fit(tmp_path / "crashed", Module(nan_from=9), keep=keep)
    whole, crashed = marks(tmp_path / "whole"), marks(tmp_path / "crashed")
    assert {step: crashed[step] for step in whole.keys() & crashed.keys()} == {
        step: whole[step] for step in whole.keys() & crashed.keys()
    }
    assert whole[20] == ("loss", 9, {"loss": 9, "score": False})
    assert whole.keys() & crashed.keys() >= {0, 2, 8, 10, 14, 20}
