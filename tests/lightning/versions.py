"""A fit with one of Lightning's packages, undisturbed and killed: `python -m tests.lightning.versions PACKAGE`.

One process imports the package, and forks each launch. It prints the version, what each launch printed, and whether the
ends are equal. Imports no `pytorch_lightning` itself: `lightning` is the same library under another name.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.tiny import until_written

PACKAGE = importlib.import_module(sys.argv[1])
# After it: the callback belongs to the package that is imported already.
Resume = importlib.import_module("resumable.lightning").Resume
KILLED_AT, SAVE_EVERY = 13, 3


class Noisy(Dataset[Tensor]):
    """Samples with random augmentation."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        return index / 40 + 0.1 * torch.randn(8)


class Module(PACKAGE.LightningModule):  # type: ignore[misc, name-defined]
    """Dropout, a metric by epoch, a validation and a scheduler by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 1))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = self.net(batch).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val_loss", self.net(batch).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


class Kill(PACKAGE.Callback):  # type: ignore[misc, name-defined]
    """Ends the program in a step; until then it waits in each for the save in flight, so that none is put off."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        until_written()
        if trainer.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(run: Path, *callbacks: Any) -> None:
    """Fit into `run`, and write a digest of the weights and of the random stream beside it."""
    torch.manual_seed(3)
    config = {"run": str(run), "every": {"steps": SAVE_EVERY, "minutes": None}, "data_seed": 5}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    module = Module()
    trainer = PACKAGE.Trainer(max_epochs=2, accelerator="cpu", callbacks=[Resume(config), *callbacks], **quiet)
    trainer.fit(module, DataLoader(Noisy(), 4, shuffle=True), DataLoader(Noisy(), 8))
    tensors = [*module.state_dict().values(), torch.get_rng_state()]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors))
    run.with_suffix(".digest").write_text(digest.hexdigest())


def launched(*arguments: Any) -> int:
    """Fit in a child, and return its exit code as `subprocess` does."""
    child = os.fork()
    if child == 0:
        try:
            fit(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Launch, and print what came of it."""
    torch.set_num_threads(1)
    whole, killed = Path("whole"), Path("killed")
    codes = [launched(whole), launched(killed, Kill()), launched(killed)]
    ends = {run.with_suffix(".digest").read_text() for run in (whole, killed)}
    print(PACKAGE.__name__, PACKAGE.__version__, codes, "equal" if len(ends) == 1 else "different")


if __name__ == "__main__":
    main()
