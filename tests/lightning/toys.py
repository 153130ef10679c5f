"""Data and modules of a few hundred numbers, each with one habit that Lightning's users have; knows no kill."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from tests.tiny import draw_from_all_streams

BATCH = 4
TRAIN_SAMPLES = 36  # nine batches
VALIDATION_SAMPLES = 12  # three batches
FEATURES, CLASSES = 6, 3

Sample = dict[str, Tensor]
Schedule = Callable[[torch.optim.Optimizer], dict[str, Any]]


# ---- data


def sample(index: int) -> Sample:
    """A sample that is nothing but its index."""
    own = torch.Generator().manual_seed(index)
    return {"x": torch.randn(FEATURES, generator=own), "y": torch.tensor(index % CLASSES)}


def augmented(index: int) -> Sample:
    """The same with noise from each of the global streams."""
    noise = torch.randn(FEATURES) * 0.1 + float(numpy.random.rand()) + random.random()
    return {"x": sample(index)["x"] + noise, "y": torch.tensor(index % CLASSES)}


class Samples(Dataset[Sample]):
    """Map-style."""

    def __init__(self, length: int = TRAIN_SAMPLES, start: int = 0, make: Callable[[int], Sample] = augmented) -> None:
        self.length, self.start, self.make = length, start, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return self.make(self.start + index)


class Stream(IterableDataset[Sample]):
    """Without a length, and in an order that it draws."""

    def __iter__(self) -> Iterator[Sample]:
        for _ in range(TRAIN_SAMPLES):
            yield augmented(random.randrange(1000))


class StatefulStream(IterableDataset[Sample]):
    """Goes on from where its state says, within an epoch and from one to the next."""

    def __init__(self) -> None:
        self.position = self.given = 0

    def __iter__(self) -> Iterator[Sample]:
        while self.given < TRAIN_SAMPLES:
            self.given += 1
            self.position += 7
            yield augmented(self.position)
        self.given = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.given = state["position"], state["given"]


class Turns(Sampler[int]):
    """Every index depends on how many this sampler gave before, which it tells. It has no length."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[int]:
        for _ in range(9 * BATCH):
            self.given += 1
            yield self.given**2 // 5 % (9 * BATCH)

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class MeasuredTurns(Turns):
    """The same with a length."""

    def __len__(self) -> int:
        return 9 * BATCH


def training(**options: Any) -> DataLoader[Sample]:
    """Shuffled and augmented."""
    return DataLoader(Samples(), BATCH, shuffle=True, **options)


def validation(start: int = 1000, **options: Any) -> DataLoader[Sample]:
    """In order, augmented too."""
    return DataLoader(Samples(VALIDATION_SAMPLES, start), BATCH, **options)


class Counting(pl.LightningDataModule):
    """Its state is how many batches were trained on, and each batch is scaled by that."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def train_dataloader(self) -> Any:
        return training()

    def val_dataloader(self) -> Any:
        return validation()

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        if self.trainer is not None and self.trainer.training:
            self.count += 1
        return {"x": batch["x"] * (1 + self.count / 10), "y": batch["y"]}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


# ---- modules


def parts(batch: Any) -> Iterator[Sample]:
    """The batches of all loaders in what a CombinedLoader gave; a loader that is over gives None."""
    if isinstance(batch, Mapping) and "x" in batch:
        yield batch
    elif batch is not None:
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from parts(part)


class Net(pl.LightningModule):
    """Dropout, BatchNorm, AdamW, and the schedule given."""

    def __init__(self, schedule: Schedule | None = None, **log: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
        )
        self.schedule = schedule
        self.how_to_log = {"on_step": True, "on_epoch": True} | log

    def loss(self, batch: Any) -> Tensor:
        losses = [nn.functional.cross_entropy(self.body(part["x"]), part["y"]) for part in parts(batch)]
        return torch.stack(losses).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, batch_size=BATCH, **self.how_to_log)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), batch_size=BATCH)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)} if self.schedule else optimizer


class Duel(Net):
    """Manual optimization: two optimizers with a schedule each; the second steps after every third batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(FEATURES, CLASSES)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        first.step()
        distance = (self.other(batch["x"]) - self.body(batch["x"]).detach()).square().mean()
        self.manual_backward(distance)
        if (batch_idx + 1) % 3 == 0:
            self.clip_gradients(second, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            second.step()
            second.zero_grad()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.log_dict({"loss": loss, "distance": distance}, on_step=True, on_epoch=True, batch_size=BATCH)

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.AdamW(self.body.parameters(), lr=0.02),
            torch.optim.SGD(self.other.parameters(), lr=0.1, momentum=0.9),
        ]
        return optimizers, [torch.optim.lr_scheduler.StepLR(each, 5, 0.5) for each in optimizers]


class Drawing(Net):
    """Every hook draws from the global streams, and what it drew is a buffer that the loss is scaled by."""

    drawn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.zeros((), dtype=torch.float64))

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) * (1 + self.drawn.float().cos() / 2)

    def draw(self, *_: Any) -> None:
        self.drawn += sum(draw_from_all_streams())

    on_fit_start = on_train_start = on_train_epoch_start = on_train_epoch_end = draw
    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = on_before_zero_grad = draw
    on_validation_start = on_validation_epoch_start = on_validation_batch_start = draw
    on_validation_batch_end = on_validation_epoch_end = on_validation_end = draw


class Measuring(Net):
    """Logs in every way that is summed up over an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(CLASSES)
        self.validated = torchmetrics.classification.MulticlassAccuracy(CLASSES)
        self.mean = torchmetrics.MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self.body(batch["x"])
        loss = nn.functional.cross_entropy(outputs, batch["y"])
        for how in ("mean", "sum", "max", "min"):
            self.log(f"epoch_{how}", loss, on_step=False, on_epoch=True, reduce_fx=how, batch_size=1 + batch_idx % 3)
        self.accuracy(outputs, batch["y"])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.mean.update(loss.detach())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("norm", self.body[0].weight.norm(), on_step=False, on_epoch=True, batch_size=BATCH)

    def on_train_epoch_end(self) -> None:
        self.log("own_mean", self.mean.compute())
        self.mean.reset()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.validated(self.body(batch["x"]), batch["y"])
        self.log("validated", self.validated, on_step=False, on_epoch=True)


class Remembering(Net):
    """Keeps what it needs in no tensor of its own, but in what it adds to a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {"losses": [], "mean": torch.zeros(2), "by epoch": {}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx) * (1 + self.memory["mean"][1])
        self.memory["losses"] = [*self.memory["losses"], loss.item()][-5:]
        self.memory["mean"] = self.memory["mean"] * 0.9 + loss.detach() * 0.1
        self.memory["by epoch"][self.current_epoch] = (batch_idx, self.global_step)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["memory"] = self.memory

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.memory = checkpoint["memory"]


class Reloading(Net):
    """Makes its loader anew for an epoch: other samples, and more of them."""

    def train_dataloader(self) -> Any:
        epoch = self.current_epoch
        return DataLoader(Samples(TRAIN_SAMPLES - BATCH * (2 - epoch), 100 * epoch), BATCH, shuffle=True)

    def val_dataloader(self) -> Any:
        return validation(1000 + self.current_epoch)


class Parametrised(Net):
    """Its size and its rate are hyper-parameters, nested as configuration files make them."""

    def __init__(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body[-1] = nn.Linear(model["widths"][-1], CLASSES)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), **self.hparams["optimizer"])
