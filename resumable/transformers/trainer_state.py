"""The state of a Hugging Face trainer, as one object of a checkpoint.

`between` is the state between two updates on which exactness depends: it is compared after each restore. `attributes`
are those that have changed since the training began. `beside` holds what depends on other files, and the limits of the
training.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import torch

from resumable.drivers.limits import Limits
from resumable.drivers.state import BESIDE, FrameworkState, SavedState, State
from resumable.state.objects.generators import GENERATOR_TYPES
from resumable.state.objects.tree_copies import Own
from resumable.transformers import private
from resumable.transformers.attributes import Attributes
from resumable.transformers.loggers import capture_loggers
from resumable.transformers.protocols import StatefulCallback, Trainer
from resumable.transformers.tracked_runs import capture_metrics, capture_runs

NAME = "huggingface"

# Fields of `TrainerState` that each launch computes from its arguments.
_BY_ARGUMENTS = (
    "max_steps",
    "num_train_epochs",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "train_batch_size",
    "is_local_process_zero",
    "is_world_process_zero",
    "is_hyper_param_search",
    "trial_name",
    "trial_params",
    "stateful_callbacks",
)
_BEST = "best_model_checkpoint"


class HuggingFaceState(FrameworkState):
    """A Hugging Face trainer's state as an object of a checkpoint."""

    def __init__(self, trainer: Trainer, attributes: Attributes, *, run: str) -> None:
        super().__init__(NAME, trainer)
        self.type = "transformers.Trainer"  # and its subclasses
        self._run = run
        self.attributes = attributes

    def capture(self) -> State:
        """Return the three parts, with live tensors."""
        trainer = self.target
        runs = capture_runs(trainer)
        return {
            "between": {
                "state": {name: value for name, value in _fields(trainer).items() if name != _BEST},
                "callbacks": [[type(each).__name__, each.state()["attributes"]] for each in _callbacks(trainer)],
                "sums": private.sums(trainer),
            },
            "attributes": self.attributes.changed(),
            BESIDE: {
                "run": self._run,
                "limits": dict(limits_of(trainer)),
                "accumulated": trainer.args.gradient_accumulation_steps,
                "tensorboard": capture_loggers(trainer),
                "runs": runs,
                "metrics": capture_metrics(runs),
                _BEST: trainer.state.best_model_checkpoint,
            },
        }

    def _restore(self, tree: Any, own: Own) -> None:
        trainer, between = self.target, own(tree["between"], None)
        for name, value in between["state"].items():
            setattr(trainer.state, name, value)
        best = tree[BESIDE][_BEST]
        trainer.state.best_model_checkpoint = best if best is not None and os.path.isdir(best) else None
        for callback, (name, attributes) in zip(_callbacks(trainer), between["callbacks"], strict=True):
            if type(callback).__name__ != name:
                raise ValueError(f"expected the callback {name}, found {type(callback).__name__}")
            for attribute, value in attributes.items():
                setattr(callback, attribute, value)
        private.set_sums(trainer, between["sums"])
        self.attributes.restore(tree["attributes"], own)


def objects_of(trainer: Trainer) -> dict[str, Any]:
    """Return what exists only once the loop has built it: optimizer, scheduler and a scaler for gradients, by name."""
    found = {
        "optimizer": trainer.optimizer,
        "scheduler": trainer.lr_scheduler,
        "scaler": getattr(trainer.accelerator, "scaler", None),
    }
    return {name: each for name, each in found.items() if each is not None} | _families(trainer) | _generators(trainer)


def _families(trainer: Any) -> dict[str, torch.nn.Module]:
    """Return the modules beside the model that change: losses with weights, averages, a synced reference (of trl)."""
    model = {id(parameter) for parameter in trainer.model.parameters()}
    trained = {id(each) for group in trainer.optimizer.param_groups for each in group["params"]} - model
    found = {
        name: each
        for name, each in _modules(trainer).items()
        if isinstance(each, torch.optim.swa_utils.AveragedModel)
        or any(id(part) in trained for part in each.parameters())
    }
    if getattr(trainer.args, "sync_ref_model", False):
        found["ref_model"] = trainer.ref_model
    return {name: each for name, each in found.items() if each is not None}


def _generators(trainer: Any) -> dict[str, Any]:
    """Return the random generators among the attributes of a trainer, each once."""
    found = {id(each): (name, each) for name, each in vars(trainer).items() if isinstance(each, GENERATOR_TYPES)}
    return dict(found.values())


def _modules(trainer: Any) -> dict[str, torch.nn.Module]:
    """Return the modules among the attributes of a trainer, and in dicts of them, without its model."""
    found = dict(vars(trainer))
    for name, several in vars(trainer).items():
        if isinstance(several, dict):
            found |= {f"{name}_{_identifier(key)}": each for key, each in several.items()}
    own = (trainer.model, trainer.model_wrapped)
    return {name: each for name, each in found.items() if isinstance(each, torch.nn.Module) and each not in own}


def _identifier(key: object) -> str:
    return re.sub(r"\W", "_", str(key))


def limits_of(trainer: Trainer) -> Limits:
    """Return how much the trainer is set to train."""
    args = trainer.args
    by_steps = args.max_steps > 0
    return {
        "max_steps": args.max_steps if by_steps else None,
        "num_train_epochs": None if by_steps else args.num_train_epochs,
    }


def exported(trainer: Trainer) -> Any:
    """Return the states of callbacks as the trainer's own files have them."""
    return type(trainer.state)(stateful_callbacks=[*_callbacks(trainer), trainer.control]).stateful_callbacks  # type: ignore[call-arg]


def _callbacks(trainer: Trainer) -> list[StatefulCallback]:
    kind = private.package().trainer_callback.ExportableState
    return [each for each in trainer.callback_handler.callbacks if isinstance(each, kind)]


def _fields(trainer: Trainer) -> SavedState:
    state: Any = trainer.state
    names = [each.name for each in dataclasses.fields(state) if each.name not in _BY_ARGUMENTS]
    return {name: getattr(state, name) for name in names}
