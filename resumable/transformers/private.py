"""Every private name of transformers and trl that exact resume needs, checked for the versions in `CHECKED`.

No other module of this package reads or writes an attribute of theirs with a leading underscore.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from resumable.drivers.patches import Patches
from resumable.drivers.state import SavedState, State
from resumable.transformers.protocols import Trainer

CHECKED = ("4.57", "5.24")

_DRIVEN = "_driven_by_resumable"

# What the trainer would read of a checkpoint of its own, besides the file with its counters.
_LOADS = ("_load_optimizer_and_scheduler", "_load_scaler", "_load_rng_state")

# Partial sums of what is logged, and the counters that the last entry of a log is computed from.
_SUMS = (
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
    "_initial_global_step",
    "_initial_num_input_tokens_seen",
    "current_flos",
)

# What each launch computes by itself, and what is data.
_OF_LAUNCH = (
    "current_gradient_accumulation_steps",
    "is_in_train",
    "_attn_mask_causal_checked",
    "_mixed_mesh_grads",
    "train_dataset",
    "eval_dataset",
)


def package() -> ModuleType:
    """Return the package `transformers`.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError("resumable.transformers needs transformers: pip install transformers accelerate") from error


def version() -> str:
    """Return the version of transformers."""
    return str(package().__version__)


# -- the loop ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One call of a trainer's loop."""

    trainer: Trainer
    resume_from_checkpoint: str | None
    trial: object
    run: Callable[[str | None], object]
    """Train, as if resuming from the folder that is passed."""


def drive(driver: Callable[[Request], object]) -> None:
    """Have `driver` run every loop of `transformers.Trainer` from now on. Only the first call has an effect.

    A callback is not given its trainer. Here the trainer is at hand, whatever its class and however the callback was
    added to it.
    """
    kind = package().Trainer
    loop = kind._inner_training_loop
    if hasattr(loop, _DRIVEN):
        return

    @functools.wraps(loop)
    def driven(*args: Any, **kwargs: Any) -> object:
        call = inspect.signature(loop).bind(*args, **kwargs)

        def run(folder: str | None) -> object:
            call.arguments["resume_from_checkpoint"] = folder
            return loop(*call.args, **call.kwargs)

        passed = call.arguments
        return driver(Request(passed["self"], passed.get("resume_from_checkpoint"), passed.get("trial"), run))

    setattr(driven, _DRIVEN, True)
    kind._inner_training_loop = driven


def load_nothing(trainer: Trainer, patches: Patches) -> None:
    """Have a trainer that believes that it resumes load no state, skip no batch and evaluate nothing at its start."""
    for name in _LOADS:
        patches.set(trainer, name, _nothing)
    module = importlib.import_module("transformers.trainer")
    patches.set(module, "skip_first_batches", _unskipped)
    patches.set(trainer.args, "ignore_data_skip", False)  # so that it counts the batches that are skipped
    patches.set(trainer.args, "eval_on_start", False)  # that was before the checkpoint


def before_loading_the_best(trainer: Trainer, patches: Patches, call: Callable[[], None]) -> None:
    """Call `call` before the trainer replaces its weights by those of its best checkpoint."""
    load: Callable[[], None] = trainer._load_best_model  # type: ignore[attr-defined]

    def load_best_model() -> None:
        call()
        load()

    patches.set(trainer, "_load_best_model", load_best_model)


def _nothing(*args: object, **kwargs: object) -> None:
    return None


def _unskipped(dataloader: object, num_batches: int = 0) -> object:
    return dataloader


# -- its state --------------------------------------------------------------------------------------------------------


def sums(trainer: Trainer) -> State:
    """Return the partial sums of what is logged."""
    return {name: getattr(trainer, name) for name in _SUMS if hasattr(trainer, name)}


def set_sums(trainer: Trainer, saved: SavedState) -> None:
    """Set what `sums` returned."""
    device = trainer.args.device
    for name in _SUMS:
        if name in saved:
            setattr(trainer, name, _placed(saved[name], device))


def attributes(trainer: Trainer) -> dict[str, Any]:
    """Return the attributes of a trainer that are neither partial sums nor data."""
    return {name: value for name, value in vars(trainer).items() if name not in (*_SUMS, *_OF_LAUNCH)}


def keeps_generated(trainer: Trainer) -> bool:
    """Return whether a trainer of trl keeps generated data for several updates."""
    return "_buffered_inputs" in vars(trainer)


def _placed(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def keep_loss_sum(trainer: Trainer, patches: Patches) -> None:
    """Give a trainer of transformers 4 the sum of losses that is a local variable of its loop."""
    if hasattr(trainer, "_tr_loss"):
        return
    log: Callable[..., None] = trainer._maybe_log_save_evaluate  # type: ignore[attr-defined]

    def log_save_evaluate(tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        log(tr_loss, *args, **kwargs)
        trainer._tr_loss = tr_loss  # type: ignore[attr-defined]  # as it is at the boundary that comes next

    patches.set(trainer, "_tr_loss", torch.tensor(0.0, device=trainer.args.device))
    patches.set(trainer, "_maybe_log_save_evaluate", log_save_evaluate)


def carry_loss_sum(trainer: Trainer, patches: Patches) -> None:
    """Have the loop of transformers 4 continue the restored sum: the first loss that it adds is the sum with it."""
    if "_maybe_log_save_evaluate" not in vars(trainer):
        return
    step: Callable[..., torch.Tensor] = trainer.training_step
    carried: list[torch.Tensor] = [trainer._tr_loss]  # type: ignore[attr-defined]

    def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(*args, **kwargs)
        return _sum_with(trainer, carried.pop(), loss) if carried else loss

    patches.set(trainer, "training_step", training_step)


def _sum_with(trainer: Any, before: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Return the sum as the loop computes it, which replaces a loss that is not finite by the mean of those before."""
    if trainer.args.logging_nan_inf_filter and not bool(torch.isfinite(loss)):
        updates: int = trainer.state.global_step - trainer._globalstep_last_logged
        return before + before / (1 + updates)
    return before + loss
