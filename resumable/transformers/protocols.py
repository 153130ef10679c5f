"""Protocols for the parts of Hugging Face's objects that this package uses.

Names with a leading underscore are private to transformers: only `private` uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

import torch

Method: TypeAlias = Callable[..., Any]
"""A method of the trainer that is replaced for one fit; each has arguments of its own."""


class Arguments(Protocol):
    """The `TrainingArguments`."""

    device: torch.device
    n_gpu: int
    max_steps: int
    num_train_epochs: float
    gradient_accumulation_steps: int
    logging_steps: float
    eval_steps: float | None
    save_steps: float
    output_dir: str
    auto_find_batch_size: bool
    optim: Any


class TrainerState(Protocol):
    """The counters and the log of a trainer."""

    epoch: float | None
    global_step: int
    max_steps: int
    best_model_checkpoint: str | None
    log_history: list[dict[str, Any]]
    stateful_callbacks: Any

    def compute_steps(self, args: Arguments, max_steps: int) -> None: ...


class StatefulCallback(Protocol):
    """A callback, or the control, with a state that Hugging Face exports."""

    def state(self) -> dict[str, Any]: ...


class CallbackHandler(Protocol):
    """The list of callbacks of a trainer."""

    callbacks: list[Any]


class Accelerator(Protocol):
    """Accelerate's object, which prepared model, optimizer and loaders."""

    scaler: Any
    non_blocking: bool


class Trainer(Protocol):
    """A `transformers.Trainer`."""

    args: Arguments
    state: TrainerState
    control: StatefulCallback
    model: torch.nn.Module
    optimizer: Any
    lr_scheduler: Any
    accelerator: Accelerator
    callback_handler: CallbackHandler
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor: ...
    def get_train_dataloader(self) -> Iterable[object]: ...
    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Iterable[object]: ...
    def get_batch_samples(self, epoch_iterator: Iterator[object], *args: Any, **kwargs: Any) -> Any: ...
