"""What the callback for Lightning adds to a step of five milliseconds, beside a fit without it; knows no checkpoint.

Two fits, with the callback and without, train side by side in two threads and take turns batch by batch, so that what
else the machine does meets both alike; one waits while the other trains. A step keeps one core busy with as many
matrix products as make it `STEP_SECONDS` long in a fit without the callback. It lasts from where a fit has its turn
until the end of its next batch, so neither the start of a fit nor its checkpoint of step 0 takes part; none is saved on
the way. Steps are summed up in blocks, since not every step does the same, and of the differences between two blocks
that were trained side by side the median counts. `outside` is the same less the products, which are equal in both;
`cpu` is the processor time of the thread that trains.
Measured over tensors, from which reading draws nothing, and over a dataset that draws each sample, so that its streams
are set and put back around each batch.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from resumable.lightning import Resume

STEP_SECONDS = 0.005
BLOCK = 16
UNCOUNTED = 16  # batches at the start of a fit
BATCHES = UNCOUNTED + 8 * BLOCK
WIDTH = 256
_MATRIX = torch.full((WIDTH, WIDTH), 1 / WIDTH)
_PRODUCT = torch.empty_like(_MATRIX)  # kept: new memory for each would cost now much, now little


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


@dataclass(frozen=True)
class Step:
    """What one batch took."""

    seconds: float
    outside_seconds: float
    cpu_seconds: float


class Stopwatch(pl.Callback):
    """Times each batch; what `between` does after each is not counted."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.steps: list[Step] = []
        self._between = between
        self._began: tuple[float, float] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        ended, cpu_ended = time.perf_counter(), time.thread_time()
        if self._began is not None:
            seconds = ended - self._began[0]
            self.steps.append(Step(seconds, seconds - module.busy_seconds, cpu_ended - self._began[1]))
        self._between()
        self._began = time.perf_counter(), time.thread_time()

    def blocks(self, what: str) -> list[float]:
        """The mean step of each block."""
        counted = [getattr(step, what) for step in self.steps[UNCOUNTED - 1 :]]
        return [fmean(counted[first : first + BLOCK]) for first in range(0, len(counted), BLOCK)]


class Turns:
    """Lets one of two threads run at a time; once one of them is through, the other runs on alone."""

    def __init__(self) -> None:
        self._mine = (threading.Semaphore(0), threading.Semaphore(0))
        self._alone = False

    def begin(self, me: int) -> None:
        self._mine[me].release()

    def take(self, me: int, train: Callable[[], None]) -> None:
        """Train when it is my turn."""
        self._mine[me].acquire()
        try:
            train()
        finally:
            self._alone = True
            self._mine[1 - me].release()

    def next(self, me: int) -> None:
        """Wait until the other has trained a batch."""
        if not self._alone:
            self._mine[1 - me].release()
            self._mine[me].acquire()


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """A step without the callback and with it, and what it adds to it, pair by pair of fits."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others would still be spinning for the one fit while the other trains
    try:
        return _measure(pairs, folder)
    finally:
        torch.set_num_threads(threads)


def _measure(pairs: int, folder: Path) -> dict[str, Any]:
    products = _products()
    kinds = (("", TensorDataset(torch.randn(BATCHES * 4, 8))), (", random data", Noisy(BATCHES * 4)))
    found: dict[str, Any] = {}
    for suffix, data in kinds:
        found |= _compare(pairs, products, data, folder, suffix)
    return found


def _compare(pairs: int, products: int, data: Any, folder: Path, suffix: str) -> dict[str, Any]:
    both = [_side_by_side(products, data, folder, first=pair % 2) for pair in range(pairs)]
    extra = {what: [_extra(ours, plain, what) for ours, plain in both] for what in Step.__annotations__}
    wall = [median(plain.blocks("seconds")) for _, plain in both]
    cpu = [median(plain.blocks("cpu_seconds")) for _, plain in both]
    return {
        f"plain{suffix}": {"step_seconds": wall, "step_cpu_seconds": cpu},
        f"with Resume{suffix}": {
            "step_seconds": [median(ours.blocks("seconds")) for ours, _ in both],
            "extra_percent": [100 * more / step for more, step in zip(extra["seconds"], wall, strict=True)],
            "extra_cpu_percent": [100 * more / step for more, step in zip(extra["cpu_seconds"], cpu, strict=True)],
            "extra_outside_microseconds": [1e6 * more for more in extra["outside_seconds"]],
            "extra_cpu_microseconds": [1e6 * more for more in extra["cpu_seconds"]],
        },
    }


def _extra(ours: Stopwatch, plain: Stopwatch, what: str) -> float:
    return median(one - none for one, none in zip(ours.blocks(what), plain.blocks(what), strict=True))


class Noisy(Dataset[Any]):
    """Each sample is drawn anew."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (torch.randn(8),)


def _side_by_side(products: int, data: Any, folder: Path, *, first: int) -> tuple[Stopwatch, Stopwatch]:
    """With the callback and without it; neither in the main thread, whose memory is handed out in another way."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    resume = Resume({"run": str(folder / "run"), "every": {"steps": None, "minutes": 10}, **_QUIET})
    turns = Turns()
    ours, plain = (Stopwatch(partial(turns.next, me)) for me in (0, 1))
    fits = (partial(_fit, products, data, [ours, resume]), partial(_fit, products, data, [plain]))
    with ThreadPoolExecutor(max_workers=2) as threads:
        running = [threads.submit(turns.take, me, fit) for me, fit in enumerate(fits)]
        turns.begin(first)
    for each in running:
        each.result()
    return ours, plain


_QUIET = {"progress": "never", "signals": []}


def _fit(products: int, data: Any, callbacks: list[Any]) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, enable_model_summary=False, **quiet)
    trainer.fit(Busy(products), DataLoader(data, batch_size=4, shuffle=True))


def _products() -> int:
    """How many products fill up a step of a plain fit to `STEP_SECONDS` on this machine."""
    data = TensorDataset(torch.randn(BATCHES * 4, 8))
    watch = Stopwatch()
    for each in (Stopwatch(), watch):  # the first one warms up
        _fit(0, data, [each])
    product_seconds = min(_multiply(20) for _ in range(20)) / 20
    return max(round((STEP_SECONDS - median(watch.blocks("cpu_seconds"))) / product_seconds), 1)


def _multiply(products: int) -> float:
    began = time.perf_counter()
    for _ in range(products):
        torch.matmul(_MATRIX, _MATRIX, out=_PRODUCT)
    return time.perf_counter() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10, Path(place)), indent=1))
