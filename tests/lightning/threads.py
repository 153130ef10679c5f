"""The programs of threads that users filed about Lightning, made small; knows of no crash and of nothing that saves.

Each is `(callbacks, **options)`: a LightningModule, its data, and a `pl.Trainer` with these callbacks that fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = dict[str, Tensor]


class Noisy(Dataset[Batch]):
    """Samples that know their number, and are made noisy anew whenever they are read."""

    def __init__(self, length: int, *, first: int = 0) -> None:
        self.length = length
        self.first = first

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        number = self.first + index
        return {"number": torch.tensor(number), "x": torch.sin(number * torch.arange(1.0, 5.0)) + torch.randn(4) / 10}


class Tiny(pl.LightningModule):
    """Two layers with dropout, a loss that is logged for each step and as a mean of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.layers(batch["x"]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.layers(batch["x"]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(length: int, *, first: int = 0, **settings: Any) -> DataLoader[Batch]:
    return DataLoader(Noisy(length, first=first), batch_size=2, **settings)


def trainer(callbacks: list[pl.Callback], **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(
        callbacks=callbacks, **{"enable_checkpointing": False, "num_sanity_val_steps": 0} | quiet | settings
    )


# -- order: 19764, 5325 -----------------------------------------------------------------------------------------------


def shuffled(callbacks: list[pl.Callback]) -> None:
    """Two epochs of 10 shuffled batches."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=2).fit(Tiny(), loader(20, shuffle=True))


# -- schedulers: 4655, 1772 -------------------------------------------------------------------------------------------


class Scheduled(Tiny):
    """As in 4655: a learning rate of 100 that falls to 10 at epoch 4 (`epoch`); or other schedulers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) / 10_000

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=100)
        if self.kind == "epoch":
            return [optimizer], [MultiStepLR(optimizer, milestones=[4], gamma=0.1)]
        if self.kind == "every epoch":
            return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]
        if self.kind == "step":
            cycle = OneCycleLR(optimizer, 100, total_steps=12)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]
        plateau = ReduceLROnPlateau(optimizer, patience=1)
        return [optimizer], [{"scheduler": plateau, "monitor": "val_loss"}]


def scheduled(callbacks: list[pl.Callback], kind: str) -> None:
    """Six epochs of 2 batches."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=6).fit(Scheduled(kind), loader(4), loader(2))


# -- validation: 20277, 11504, 19549 ----------------------------------------------------------------------------------


def validated(callbacks: list[pl.Callback], **settings: Any) -> None:
    """Two epochs of 6 batches, three batches to validate with."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=2, **settings).fit(Tiny(), loader(12, shuffle=True), loader(6, first=100))


# -- counting: 19367, 19403 -------------------------------------------------------------------------------------------


def counted(callbacks: list[pl.Callback], batches: int, epochs: int, **settings: Any) -> None:
    """So many epochs of so many batches, with Lightning's own checkpoints beside."""
    pl.seed_everything(1, verbose=False)
    own = pl.callbacks.ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=batches)
    beside = {"enable_checkpointing": True, **settings}
    trainer([*callbacks, own], max_epochs=epochs, **beside).fit(Tiny(), loader(2 * batches), loader(4))


# -- early stopping: 1463, 1464, 18727 --------------------------------------------------------------------------------


class Scripted(Tiny):
    """Its validation loss in each epoch is given."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.losses[self.current_epoch])


def stopping(callbacks: list[pl.Callback], losses: list[float], patience: int) -> None:
    """As many epochs of 3 batches as EarlyStopping lets it."""
    pl.seed_everything(1, verbose=False)
    early = pl.callbacks.EarlyStopping("val_loss", patience=patience)
    trainer([*callbacks, early], max_epochs=len(losses)).fit(Scripted(losses), loader(6), loader(2))


# -- loaders made anew: 21514 -----------------------------------------------------------------------------------------


class Staged(Tiny):
    """As in 21492: other data from a later epoch on, for which the loader must be asked for again in time."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.stage_epochs = epochs

    def train_dataloader(self) -> DataLoader[Batch]:
        return loader(6, first=1000 * (self.trainer.current_epoch // self.stage_epochs), shuffle=True)


def staged(callbacks: list[pl.Callback]) -> None:
    """Six epochs of 3 batches; every second one has new data."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=6, reload_dataloaders_every_n_epochs=2).fit(Staged(2))


# -- what broke fault tolerance: 12285, 10358, 11349, 9714, 8835, 13843 -----------------------------------------------


def workers(callbacks: list[pl.Callback], **settings: Any) -> None:
    """Two epochs of 5 batches that two processes read."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=2).fit(Tiny(), loader(10, shuffle=True, num_workers=2, **settings))


class Unmeasured(Dataset[Batch]):
    """As Lhotse's: it gives whole batches for lists of numbers, and has no length."""

    def __getitem__(self, numbers: list[int]) -> Batch:
        samples = [Noisy(1000)[number] for number in numbers]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


class Groups(Sampler[list[int]]):
    """Groups of numbers in an order of its own for each epoch, and no length."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(7, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter([[number, 100 + number] for number in order])


def unmeasured(callbacks: list[pl.Callback]) -> None:
    """Two epochs of 7 batches, which nobody knows before."""
    pl.seed_everything(1, verbose=False)
    samples = DataLoader(Unmeasured(), batch_size=None, sampler=Groups())
    trainer(callbacks, max_epochs=2).fit(Tiny(), samples)


class Several(Tiny):
    """Trains on unlabelled and on labelled data at once."""

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> Tensor:
        losses = [self.layers(each["x"]).square().mean() for each in batch.values()]
        return torch.stack(losses).sum()


def several(callbacks: list[pl.Callback]) -> None:
    """Two epochs over a loader of 7 batches and one of 3, which begins again."""
    pl.seed_everything(1, verbose=False)
    both = {"unlabelled": loader(14, shuffle=True), "labelled": loader(6, first=100, shuffle=True)}
    trainer(callbacks, max_epochs=2).fit(Several(), both, [loader(4), loader(2, first=50)])


def longer(callbacks: list[pl.Callback], epochs: int) -> None:
    """So many epochs of 4 batches, with validation."""
    pl.seed_everything(1, verbose=False)
    trainer(callbacks, max_epochs=epochs).fit(Tiny(), loader(8, shuffle=True), loader(4))


# -- loggers ----------------------------------------------------------------------------------------------------------


class Talkative(Tiny):
    """Logs by steps, by epochs, in validation, and one value that it begins to log in the second epoch."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def on_train_epoch_start(self) -> None:
        self.log("from_the_start", float(self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("of_epoch", loss * 2, on_step=False, on_epoch=True)
        if self.current_epoch > 0:
            self.log("a_late_one", loss * 3)
        return loss


def logged(callbacks: list[pl.Callback], loggers: list[str], rates: str | None = "step", **settings: Any) -> None:
    """Three epochs of 6 batches with two validations each, and with loggers as users make them."""
    pl.seed_everything(1, verbose=False)
    kinds = {"csv": pl.loggers.CSVLogger, "tensorboard": pl.loggers.TensorBoardLogger}
    trainer(
        [*callbacks, pl.callbacks.LearningRateMonitor(rates)],
        logger=[kinds[name](save_dir=f"logs/{name}") for name in loggers],
        max_epochs=3,
        val_check_interval=3,
        **settings,
    ).fit(Talkative(), loader(12, shuffle=True), loader(4))
