"""Programs with a `transformers.Trainer`. Options of a launch change their arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

SAMPLES = 37


class Points(Dataset[dict[str, torch.Tensor]]):
    """Points with noise that is drawn wherever a sample is read: in a worker, if there are any."""

    def __init__(self) -> None:
        self.x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index] + 0.1 * torch.randn(4), "labels": self.x[index].sum().reshape(1)}


class Net(torch.nn.Module):
    """Two layers with dropout; returns a loss, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = self.second(torch.dropout(torch.relu(self.first(x)), 0.2, self.training))
        return {"loss": torch.nn.functional.mse_loss(y, labels), "logits": y}


def arguments(**options: Any) -> TrainingArguments:
    """Return arguments for a training of 15 updates in 3 epochs of 10 batches, in windows of 2."""
    chosen: dict[str, Any] = {
        "output_dir": "hf",
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "report_to": [],
        "logging_steps": 3,
        "disable_tqdm": True,
        "use_cpu": True,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "no",
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.05,
    }
    return TrainingArguments(**chosen | options)


def points(callbacks: list[Any], *, seed: int = 0, patience: int | None = None, **options: Any) -> None:
    """Train on noisy points. Another `seed` in a later launch must not change a bit."""
    torch.manual_seed(0)
    model = Net()
    torch.manual_seed(seed)
    stopping = [] if patience is None else [EarlyStoppingCallback(patience)]
    data = Points()
    Trainer(
        model=model,
        args=arguments(**options),
        train_dataset=data,
        eval_dataset=Subset(data, range(12)),
        callbacks=[*callbacks, *stopping],
    ).train()
