"""Refuse, in words, a trainer whose training could not resume exactly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from resumable.errors import ConfigError
from resumable.loop.launch_checks import refuse_several_processes
from resumable.transformers import private
from resumable.transformers.protocols import Trainer

# Trainers that generate their data while they train, and keep it in buffers or in other processes.
_GENERATING = (
    "GRPOTrainer",
    "AsyncGRPOTrainer",
    "RLOOTrainer",
    "PPOTrainer",
    "OnlineDPOTrainer",
    "NashMDTrainer",
    "XPOTrainer",
    "A2POTrainer",
    "AsyncDistillationTrainer",
)

# Optimizers that step in hooks of the backward pass, and keep their state there.
_IN_HOOKS = ("layerwise", "lomo")

# Callbacks of trl that keep averaged weights to themselves.
_AVERAGING = ("BEMACallback",)


class Refusal(NamedTuple):
    """The finding, and the next thing to do."""

    what: str
    hint: str


def refuse(request: private.Request, *, callbacks: int) -> None:
    """Raise `ConfigError` for a loop that cannot resume exactly."""
    refuse_several_processes()
    trainer = request.trainer
    found = next(chain(_of_the_call(request, callbacks), _of_the_kind(trainer), _of_the_devices(trainer)), None)
    if found is not None:
        raise ConfigError(f"Resume: {found.what}", found.hint)


def refuse_own_loop(kind: str) -> ConfigError:
    """Return the error for a trainer of which the loop is its own."""
    return ConfigError(
        f"Resume: {kind} trains in a loop of its own, not in that of transformers.Trainer",
        "leave the callback out, and write the loop with resumable.Trainer to resume exactly",
    )


def _of_the_call(request: private.Request, callbacks: int) -> Iterator[Refusal]:
    if callbacks > 1:
        yield Refusal(f"{callbacks} of these callbacks in one trainer", "pass one, which names the run")
    if request.resume_from_checkpoint is not None:
        yield Refusal(
            f"train(resume_from_checkpoint={request.resume_from_checkpoint!r}) beside it",
            "leave the argument out: the callback continues the run by itself",
        )
    if request.trial is not None:
        yield Refusal(
            "hyperparameter_search() trains several runs", "search without it, then train the best run with it"
        )


def _of_the_kind(trainer: Trainer) -> Iterator[Refusal]:
    names = {kind.__name__ for kind in type(trainer).__mro__}
    generating = [name for name in _GENERATING if name in names]
    if generating or private.keeps_generated(trainer):
        yield Refusal(
            f"{[*generating, type(trainer).__name__][0]} generates its data while it trains, and keeps it where no "
            "checkpoint has it",
            "leave the callback out; this version refuses what it cannot resume exactly",
        )
    yield from _of_hidden_state(trainer)
    if trainer.args.auto_find_batch_size:
        yield Refusal("auto_find_batch_size begins again with another batch size", "set per_device_train_batch_size")
    if getattr(trainer.args, "enable_jit_checkpoint", False):
        yield Refusal(
            "enable_jit_checkpoint also handles SIGTERM", "set it to False: the callback saves when a signal comes"
        )


def _of_hidden_state(trainer: Trainer) -> Iterator[Refusal]:
    optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if optimizer.endswith(_IN_HOOKS):
        yield Refusal(
            f"optim={optimizer!r} steps in hooks of the backward pass, and keeps its state where no checkpoint has it",
            "choose an optimizer that steps by itself, such as adamw_torch",
        )
    for callback in trainer.callback_handler.callbacks:
        if any(kind.__name__ in _AVERAGING for kind in type(callback).__mro__):
            yield Refusal(
                f"{type(callback).__name__} keeps averaged weights, which are in no checkpoint",
                "average in a subclass of the trainer: its torch.optim.swa_utils.AveragedModel is saved",
            )


def _of_the_devices(trainer: Trainer) -> Iterator[Refusal]:
    one = "this version trains in one process on one device"
    if trainer.is_deepspeed_enabled:
        yield Refusal(f"DeepSpeed is enabled; {one}", "train without a `deepspeed` configuration")
    if trainer.is_fsdp_enabled or getattr(trainer, "is_fsdp_xla_enabled", False):
        yield Refusal(f"FSDP is enabled; {one}", "train without `fsdp`")
    if getattr(trainer, "is_distributed_loading_by_transformers", False) or getattr(trainer, "is_tp_enabled", False):
        yield Refusal(f"the model is sharded over devices; {one}", "load it without a distributed configuration")
    if trainer.args.n_gpu > 1:
        yield Refusal(
            f"DataParallel over {trainer.args.n_gpu} GPUs; {one}", "set CUDA_VISIBLE_DEVICES to one of the devices"
        )
    if trainer.args.device.type == "xla":
        yield Refusal(f"the device is {trainer.args.device}; XLA is untested", "train on a CPU or a GPU")
