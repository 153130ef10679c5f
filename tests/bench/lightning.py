"""What the callback for Lightning adds to a step of five milliseconds, beside a fit without it; knows no checkpoint.

Both kinds of fit take turns, short and many, with the same module, data and trainer. A step keeps one core busy with
as many matrix products as make it `STEP_SECONDS` long in a fit without the callback. Counted is what passes between the
ends of two batches, from the second batch on, so neither the start of a fit nor its checkpoint of step 0 takes part;
none is saved on the way. `outside` is the same less the products, which are equal in both, and so far less noisy.
Measured over tensors, from which reading draws nothing, and over a dataset that draws each sample, so that its streams
are set and put back around each batch.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from resumable.lightning import Resume
from tests.bench.timing import rounds

STEP_SECONDS = 0.005
BATCHES = 80
FITS_PER_PAIR = 3
WIDTH = 256


class Busy(pl.LightningModule):
    """Trains one layer, and multiplies matrices as often as it is told."""

    def __init__(self, products: int) -> None:
        super().__init__()
        self.products = products
        self.busy_seconds = 0.0
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.busy_seconds = _multiply(self.products)
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Stopwatch(pl.Callback):
    """The end of each batch, and how long its products took."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.busy: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.ends.append(time.perf_counter())
        self.busy.append(module.busy_seconds)

    def step_seconds(self) -> float:
        """The median, for one batch in which the system did something else says nothing."""
        return median(late - early for early, late in pairwise(self.ends[1:]))

    def outside_seconds(self) -> float:
        steps = zip(pairwise(self.ends[1:]), self.busy[2:], strict=True)
        return median(late - early - busy for (early, late), busy in steps)


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """A step without the callback and with it, and what it adds to it, pair by pair: in percent of it, and outside."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    products = _products()
    kinds = (("", TensorDataset(torch.randn(BATCHES * 4, 8))), (", random data", Noisy(BATCHES * 4)))
    found: dict[str, Any] = {}
    for suffix, data in kinds:
        found |= _compare(pairs, products, data, folder, suffix)
    return found


def _compare(pairs: int, products: int, data: Any, folder: Path, suffix: str) -> dict[str, Any]:
    plain: list[Stopwatch] = []
    ours: list[Stopwatch] = []
    for turn in rounds(("plain", "ours"), pairs * FITS_PER_PAIR):
        for who in turn:
            (ours if who == "ours" else plain).append(_fit(products, data, folder if who == "ours" else None))
    both = list(zip(plain, ours, strict=True))
    return {
        f"plain{suffix}": {"step_seconds": [watch.step_seconds() for watch in plain]},
        f"with Resume{suffix}": {
            "step_seconds": [watch.step_seconds() for watch in ours],
            "extra_percent": [100 * (one.step_seconds() / none.step_seconds() - 1) for none, one in both],
            "extra_outside_microseconds": [
                1e6 * (one.outside_seconds() - none.outside_seconds()) for none, one in both
            ],
        },
    }


class Noisy(Dataset[Any]):
    """Each sample is drawn anew."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (torch.randn(8),)


def _fit(products: int, data: Any, folder: Path | None) -> Stopwatch:
    watch = Stopwatch()
    callbacks: list[Any] = [watch]
    if folder is not None:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        every = {"steps": None, "minutes": 10}
        callbacks.append(Resume({"run": str(run), "every": every, "progress": "never"}))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, enable_model_summary=False, **quiet)
    trainer.fit(Busy(products), DataLoader(data, batch_size=4, shuffle=True))
    return watch


def _products() -> int:
    """How many products fill up a step of a plain fit to `STEP_SECONDS` on this machine."""
    data = TensorDataset(torch.randn(BATCHES * 4, 8))
    _fit(1, data, None)  # warms up
    lightning_seconds = _fit(0, data, None).step_seconds()
    product_seconds = median(_multiply(20) for _ in range(9)) / 20
    return max(round((STEP_SECONDS - lightning_seconds) / product_seconds), 1)


def _multiply(products: int) -> float:
    began = time.perf_counter()
    matrix = torch.full((WIDTH, WIDTH), 1 / WIDTH)
    for _ in range(products):
        matrix = matrix @ matrix
    return time.perf_counter() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10, Path(place)), indent=1))
