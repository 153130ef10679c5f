"""What callbacks and the user's own arguments do beside `Resume` is what they do without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from resumable import Run
from resumable.lightning import Resume
from tests.data.kinds import Indices

SAMPLES, BATCH_SIZE = 20, 4


class Module(pl.LightningModule):
    """Notes the samples of each epoch."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fails_at = fails_at
        self.samples: dict[int, list[int]] = {}

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.fails_at:
            raise OSError("a disk went away")
        self.samples.setdefault(self.current_epoch, []).extend(batch.tolist())
        loss: torch.Tensor = self.layer(batch[:, None].float()).square().mean()
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", batch.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class Configured(Module):
    """Takes its settings as OmegaConf gives them, and notes what a checkpoint says of them."""

    def __init__(self, settings: Any, fails_at: int | None = None) -> None:
        super().__init__(fails_at)
        self.save_hyperparameters("settings")
        self.told: Any = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.told = checkpoint["hyper_parameters"]


class Peeking(pl.Callback):
    """Has a look at a batch of both loaders, as those do that log images."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        next(iter(trainer.train_dataloader))

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        next(iter(trainer.train_dataloader))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        next(iter(trainer.val_dataloaders))


def fit(folder: Path, module: Module, *callbacks: pl.Callback, epochs: int = 2, **arguments: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = DataLoader(Indices(SAMPLES), BATCH_SIZE, shuffle=True)
    trainer.fit(module, loader, DataLoader(Indices(SAMPLES), BATCH_SIZE), **arguments)
    return trainer


def resume(folder: Path) -> Resume:
    return Resume({"run": str(folder / "run"), "every": {"steps": 2}, "progress": "never"})


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and samplers


def test_a_callback_that_looks_at_a_batch_changes_no_epoch(tmp_path: Path) -> None:
    module = Module()
    fit(tmp_path, module, Peeking(), resume(tmp_path))
    assert {epoch: sorted(samples) for epoch, samples in module.samples.items()} == {
        epoch: list(range(SAMPLES)) for epoch in range(2)
    }


def test_a_new_run_begins_where_the_users_own_checkpoint_ends(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(tmp_path / "own", monitor="val_loss", save_on_train_epoch_end=False)
    fit(tmp_path, Module(), saving)
    module = Module()
    trainer = fit(tmp_path, module, resume(tmp_path), epochs=4, ckpt_path=saving.best_model_path)
    alone = fit(tmp_path, Module(), epochs=4, ckpt_path=saving.best_model_path)
    assert trainer.global_step == alone.global_step == 4 * SAMPLES // BATCH_SIZE


@pytest.mark.alarms("model.fails_at")
def test_a_fit_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    line = resume(tmp_path)
    with pytest.raises(OSError, match="a disk went away"):
        fit(tmp_path, Module(fails_at=5), line)
    trainer = fit(tmp_path, Module(), line)
    assert trainer.global_step == 2 * SAMPLES // BATCH_SIZE
    fit_loop = trainer.fit_loop
    assert not {"setup_data", "process_dataloader", "on_train_end"} & (
        vars(fit_loop).keys() | vars(trainer.strategy).keys()
    )


@pytest.mark.alarms("model.fails_at")
def test_settings_of_omegaconf_come_back_as_plain_containers(tmp_path: Path) -> None:
    def settings() -> Any:
        return OmegaConf.create({"rate": 0.1, "sizes": [1, 2], "net": {"depth": "${..rate}"}})

    with pytest.raises(OSError, match="a disk went away"):
        fit(tmp_path, Configured(settings(), fails_at=5), resume(tmp_path))
    module = Configured(settings())
    fit(tmp_path, module, resume(tmp_path))
    assert module.told == {"settings": {"rate": 0.1, "sizes": [1, 2], "net": {"depth": 0.1}}}
    assert type(module.told["settings"]) is dict
    assert type(module.told["settings"]["sizes"]) is list
    assert OmegaConf.is_config(module.hparams.settings), "the module's own stay as they are"


def test_the_weights_of_a_run_fill_a_module_without_a_fit(tmp_path: Path) -> None:
    trained = Module()
    fit(tmp_path, trained, resume(tmp_path))
    served = Module()
    loaded = Run(str(tmp_path / "run")).latest().load_into(served)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in served.state_dict().items())
