"""Programs with a `transformers.Trainer`. Options of a launch change their arguments."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch.utils.data import Dataset, IterableDataset, Subset
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from resumable.transformers import session
from tests.tiny import Crash, until_written

T = TypeVar("T", bound=Trainer)

SAMPLES = 37
IS_NEW = int(transformers.__version__.split(".")[0]) >= 5


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
    chosen |= options
    if not IS_NEW and chosen.pop("train_sampling_strategy", None) == "group_by_length":
        chosen["group_by_length"] = True
    return TrainingArguments(**chosen)


def trainer(callbacks: list[Any], data: Dataset[Any], *, seed: int = 0, kind: type[T] = Trainer, **options: Any) -> T:
    """Return a trainer on noisy points. Another `seed` in a later launch must not change a bit."""
    torch.manual_seed(0)
    model = Net()
    torch.manual_seed(seed)
    return kind(
        model=model,
        args=arguments(**options),
        train_dataset=data,
        eval_dataset=Subset(Points(), range(12)),
        callbacks=callbacks,
    )


def points(callbacks: list[Any], **options: Any) -> None:
    """Train on noisy points."""
    trainer(callbacks, Points(), **options).train()


def stopping(callbacks: list[Any], *, patience: int, **options: Any) -> None:
    """Stop early, and load the best model at the end."""
    stop = EarlyStoppingCallback(patience)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_strategy": "steps"}
    trainer([*callbacks, stop], Points(), **best, save_steps=options.get("eval_steps", 4), **options).train()


def tracked(callbacks: list[Any], *, mode: str, **options: Any) -> None:
    """Log to a library that keeps runs, on this disk alone."""
    os.environ.update(
        {
            "WANDB_MODE": mode,
            "WANDB_SILENT": "true",
            "MLFLOW_TRACKING_URI": Path("mlruns").absolute().as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }
    )
    points(callbacks, **options)


class Blind(Trainer):
    """Its first loss of the windows of some updates is not finite; weights do not notice."""

    updates: Collection[int] = ()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        step, ends = self.state.global_step, self.accelerator.sync_gradients
        return loss if ends or step not in self.updates else loss * (float("nan") if step % 2 else float("inf"))


def blind(callbacks: list[Any], *, updates: list[int], **options: Any) -> None:
    """Train with losses that are NaN or infinite, also the first one after a resume."""
    training = trainer(callbacks, Points(), kind=Blind, **options)
    training.updates = updates
    training.train()


def scaled(callbacks: list[Any], *, fp16: bool = False, **options: Any) -> None:
    """Train with scaled gradients, of which some overflow: in fp16 on a GPU, or on a CPU with a scaler in its place."""
    training = trainer(callbacks, Points(), fp16=fp16, use_cpu=not fp16, max_grad_norm=0.0, **options)
    device = training.args.device.type
    training.accelerator.scaler = torch.amp.GradScaler(device, init_scale=2.0**127, growth_interval=2)
    training.train()


def hasty(callbacks: list[Any], *, window_seconds: float, **options: Any) -> None:
    """Train where a signal may wait only so long for the end of a window."""
    session.WINDOW_SECONDS = window_seconds
    points(callbacks, **options)


def one_of_two(callbacks: list[Any], **options: Any) -> None:
    """Train in two processes, as torchrun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    os.environ.update({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    other = os.fork()
    os.environ.update(dict.fromkeys(("RANK", "LOCAL_RANK"), "0" if other else "1"))
    try:
        points(callbacks, ddp_backend="gloo", **options)
    finally:
        if not other:
            os._exit(0)
        os.waitpid(other, 0)


class Crashing(TrainerCallback):
    """Crashes at the end of this update; with 0 it does nothing."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        until_written()  # a save in flight would put off the next one

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.update:
            raise Crash


class CutShort(TrainerCallback):
    """Ends each epoch after its third update."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_epoch_stop = (state.global_step % 3) == 0


def short_epochs(callbacks: list[Any], **options: Any) -> None:
    """End epochs early by a callback."""
    trainer([*callbacks, CutShort()], Points(), **options).train()


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """The points in their order, without a length and without a state."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        points = Points()
        return (points[index] for index in range(self.count))


def stream(callbacks: list[Any], *, count: int, **options: Any) -> None:
    """Train on a stream without a length, for several of its epochs."""
    trainer(callbacks, Stream(count), **{"max_steps": 15, **options}).train()


class Rows(Dataset[dict[str, list[int]]]):
    """Rows of tokens of different lengths."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(2)
        lengths = torch.randint(2, 12, (SAMPLES,), generator=draw).tolist()
        self.rows = [torch.randint(1, 30, (length,), generator=draw).tolist() for length in lengths]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.rows[index]}


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return rows as one tensor, with labels."""
    most = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (most - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "labels": ids}


def gpt2() -> GPT2LMHeadModel:
    """Return a GPT-2 of one layer, the same each time."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    return GPT2LMHeadModel(config)


def language(callbacks: list[Any], *, seed: int = 0, **options: Any) -> None:
    """Train a small GPT-2 on rows of tokens."""
    train_on_rows(gpt2(), callbacks, seed=seed, **options)


def train_on_rows(model: Any, callbacks: list[Any], *, seed: int, **options: Any) -> None:
    """Train a language model on rows of tokens, from this seed on."""
    torch.manual_seed(seed)
    Trainer(
        model=model,
        args=arguments(**options),
        train_dataset=Rows(),
        eval_dataset=Subset(Rows(), range(12)),
        data_collator=padded,
        callbacks=callbacks,
    ).train()
