"""A small training with Accelerate, in this very process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer
from tests.tiny import Crash

BATCHES, EPOCHS = 6, 3  # a window of 4 is cut short by the end of each epoch


def forget_accelerate() -> None:
    """As in a fresh program."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Program:
    """What one launch of a script makes; each launch makes the same. `options` are for the `Accelerator`."""

    def __init__(self, *, scaler: bool = False, **options: Any) -> None:
        forget_accelerate()
        torch.manual_seed(1)
        self.accelerator = Accelerator(cpu=True, **(options or {"gradient_accumulation_steps": 4}))
        if scaler:  # Accelerate makes one for fp16 on a GPU only
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2), torch.nn.Linear(2, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        self.plain = DataLoader(TensorDataset(torch.arange(4.0 * BATCHES).reshape(-1, 2)), batch_size=2, shuffle=True)
        self.model, self.optimizer, self.scheduler, self.loader = self.accelerator.prepare(
            model, optimizer, StepLR(optimizer, 2), self.plain
        )
        self.factor = 1.0
        self.ends: list[bool] = []

    @property
    def updated(self) -> dict[str, Any]:
        """What every script passes."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def train(
        self,
        run: Path,
        objects: Mapping[str, Any],
        *,
        crash_at: int | None = None,
        loader: Any = None,
        each: Callable[[Trainer], None] = lambda trainer: None,
    ) -> list[bool]:
        """Train with a save at every boundary. Returns where windows ended."""
        config = {"run": str(run), "data_seed": 7, "every": {"steps": None, "minutes": None}}
        with Trainer(config, **objects) as trainer:
            for _ in trainer.epochs(EPOCHS):
                for [x] in trainer.batches(loader or self.loader):
                    self.step(x)
                    each(trainer)
                    trainer.request_save()
                    if trainer.step == crash_at:
                        raise Crash
        return self.ends

    def step(self, x: torch.Tensor) -> None:
        """One batch."""
        self.optimizer.zero_grad()  # of what the window before left, which its flag decides
        with self.accelerator.accumulate(self.model):
            self.accelerator.backward(self.model(x / 16).square().mean() * self.factor)
            self.optimizer.step()
            self.scheduler.step()
        self.ends.append(self.accelerator.sync_gradients)
