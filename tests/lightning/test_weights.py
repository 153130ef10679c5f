"""Weights of a Lightning run into a module: the trained ones, and the averaged ones beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.utils.data import DataLoader

from resumable import Run, load_weights
from resumable.lightning import Resume
from tests.data.kinds import Indices

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    # Lightning itself, beside the torch that tests run on.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch[:, None].float() / 20).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fitted(run: Path, *callbacks: pl.Callback, samples: int = 20) -> Module:
    module = Module()
    every = {"steps": None, "minutes": None, "epochs": 1}
    line = Resume({"run": str(run), "data_seed": 7, "every": every, "keep": {"last": 9}, "progress": "never"})
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, line],
    )
    trainer.fit(module, DataLoader(Indices(samples), batch_size=4))
    return module


def equal(module: torch.nn.Module, state: dict[str, Any]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_module_is_filled_from_a_run(tmp_path: Path) -> None:
    trained = fitted(tmp_path / "run")
    served = Module()
    loaded = load_weights(served, tmp_path / "run")
    assert loaded.tensors == 2
    assert equal(served, trained.state_dict())


def test_averaged_weights_are_reached_in_lightnings_own_object(tmp_path: Path) -> None:
    fitted(tmp_path / "run", WeightAveraging(), samples=400)
    # That of the end of the first epoch, or a few steps later where the writer was not done with something else.
    checkpoint = Run(str(tmp_path / "run")).checkpoints()[-2]
    assert 100 <= checkpoint.step < 200
    run = f"{tmp_path}/run@{checkpoint.step}"
    averaged = checkpoint.load("lightning")["checkpoint"]["state_dict"]
    served = Module()
    load_weights(served, run, name="lightning", rename={"checkpoint.state_dict.": ""})
    assert equal(served, averaged)
    load_weights(served, run)
    assert equal(served, checkpoint.load("model"))
    assert not equal(served, averaged)
