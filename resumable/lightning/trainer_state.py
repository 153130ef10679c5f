"""The state of a Lightning trainer, as one object of a checkpoint.

It has three parts. `between` is the state between two batches on which exactness depends: like any other object it is
compared after each restore. `checkpoint` is what `Trainer.save_checkpoint` would write, with the entries of hooks. The
same hooks load it again and may change it, so it is not compared. `beside` holds the positions in the files of loggers
and of `ModelCheckpoint`, which are not a state of the training.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from resumable.drivers.state import BESIDE, MODEL, FrameworkState, SavedState, State
from resumable.errors import StateError
from resumable.lightning import checkpoint_files, loggers, private, results
from resumable.lightning.protocols import Trainer
from resumable.run.checkpoint import Checkpoint
from resumable.state.codec.encoder import encode
from resumable.state.objects.adapter import mismatch_on_error
from resumable.state.objects.tree_copies import Own, moved
from resumable.state.tensors.facts import same_place
from resumable.utils.events import warn

NAME = "lightning"

_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
_LEFT_OUT = ("pytorch-lightning_version", "optimizer_states", "lr_schedulers", "hparams_type")
_LIVE = "$live"


class LightningState(FrameworkState):
    """A Lightning trainer's state as an object of a checkpoint."""

    def __init__(self, trainer: Trainer, *, run: str, requests: State, changes: list[State]) -> None:
        """Wrap one trainer.

        Args:
            trainer: Lightning's trainer.
            run: The location of the run.
            requests: The state at each request of loaders; `Requests` fills it, a restore replaces it.
            changes: The recorded calls of `OptimizerChanges`; a restore replaces them.
        """
        super().__init__(NAME, trainer)
        self.type = "lightning.Trainer"  # of either package
        self._accumulated_before = 1
        self._run = run
        self._requests = requests
        self._changes = changes
        self._warned = False

    def capture(self) -> State:
        """Return the three parts, with live tensors."""
        trainer = self.target
        checkpoint = {name: value for name, value in private.dump(trainer).items() if name not in _LEFT_OUT}
        weights = trainer.lightning_module.state_dict()
        writers = {callback.state_key for callback in checkpoint_files.checkpoint_callbacks(trainer)}
        callbacks = checkpoint.pop("callbacks")
        checkpoint["callbacks"] = {key: state for key, state in callbacks.items() if key not in writers}
        return {
            "between": self._between(),
            "checkpoint": {name: self._stored(name, value, weights) for name, value in checkpoint.items()},
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "changes": [dict(change) for change in self._changes],
            BESIDE: {
                "run": self._run,
                "limits": self.limits(),
                "loggers": loggers.capture_loggers(trainer.loggers),
                "files": checkpoint_files.capture_files(trainer),
                "callbacks": {key: _plain(state) for key, state in callbacks.items() if key in writers},
            },
        }

    def limits(self) -> State:
        """Return how much training the trainer is set to do: epochs, steps and seconds; None for no limit."""
        seconds = [private.seconds_allowed(part) for part in self.target.callbacks if hasattr(part, "time_remaining")]
        return {
            "max_epochs": self.target.max_epochs,
            "max_steps": self.target.max_steps,
            "max_seconds": min((most for most in seconds if most is not None), default=None),
        }

    def _between(self) -> State:
        trainer = self.target
        return {
            "progress": trainer.fit_loop.state_dict(),
            "counters": private.counters(trainer),
            "logged": private.logged(trainer),
            "results": results.capture_results(trainer),
            "requests": dict(self._requests),
        }

    def _restore(self, tree: Any, own: Own) -> None:
        trainer, between = self.target, own(tree["between"], None)
        self._accumulated_before = tree["accumulate_grad_batches"]
        self._changes[:] = own(tree.get("changes", []), None)  # earlier versions did not record them
        trainer.fit_loop.load_state_dict(between["progress"])
        private.set_counters(trainer, between["counters"])
        private.set_logged(trainer, between["logged"])
        results.restore_results(trainer, between["results"])
        self._requests.clear()
        self._requests.update(between["requests"])

    def restore_accumulation(self) -> None:
        """Set the accumulation of a schedule, once training has begun: before that, the schedule would refuse it."""
        if any("GradientAccumulationScheduler" in map(_name, type(part).__mro__) for part in self.target.callbacks):
            self.target.accumulate_grad_batches = self._accumulated_before

    # -- Lightning's checkpoint ---------------------------------------------------------------------------------------

    def _stored(self, name: str, value: object, weights: SavedState) -> object:
        if name in _HYPER_PARAMETERS:
            return {key: self._hyper_parameter(str(key), item) for key, item in _plain(value).items()}
        if isinstance(value, Mapping) and value and _is_live(value, weights):
            return {_LIVE: MODEL}  # the module's own blob has these tensors
        return _plain(value)

    def _hyper_parameter(self, name: str, value: object) -> object:
        # For readers only: nothing is restored from it, so a value without a plain form is only described.
        try:
            encode(value, key_of=".".join, where=name)
        except StateError as error:
            if not self._warned:
                warn(f"hyper-parameters are stored as plain values, others only as a description: {error.message}")
                self._warned = True
            return {"repr": repr(value)[:1000]}
        return value

    def load(self, stored: Checkpoint) -> None:
        """Pass Lightning's checkpoint to every hook that loads it, in Lightning's own order.

        The hooks get a complete checkpoint. The restore after it corrects what they do to weights and optimizers.
        """
        trainer = self.target
        module, datamodule = trainer.lightning_module, trainer.datamodule
        with mismatch_on_error(NAME):
            checkpoint = self._whole(stored)
            if datamodule is not None and type(datamodule).__qualname__ in checkpoint:
                datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
            module.on_load_checkpoint(checkpoint)
            for callback in trainer.callbacks:
                callback.on_load_checkpoint(trainer, module, checkpoint)
            for callback in trainer.callbacks:
                state = checkpoint["callbacks"].get(callback.state_key)
                if state:
                    callback.load_state_dict(state)
            precision = trainer.precision_plugin
            precision.on_load_checkpoint(checkpoint)
            if type(precision).__qualname__ in checkpoint:
                precision.load_state_dict(checkpoint[type(precision).__qualname__])

    def _whole(self, stored: Checkpoint) -> State:
        tree = moved(stored.tree(NAME))
        checkpoint: State = tree["checkpoint"]
        checkpoint["callbacks"] = {**checkpoint["callbacks"], **tree[BESIDE]["callbacks"]}
        checkpoint["pytorch-lightning_version"] = private.version_of(self.target)
        if not self._is_read_by_a_hook():
            return checkpoint
        for name, value in checkpoint.items():
            if isinstance(value, dict) and value.keys() == {_LIVE}:
                checkpoint[name] = stored.load(value[_LIVE])
        trees = {name: stored.tree(name) for name in stored.manifest.objects if name.startswith(("optim", "sched"))}
        checkpoint["optimizer_states"] = [_numbered(tree) for name, tree in trees.items() if name.startswith("optim")]
        checkpoint["lr_schedulers"] = [tree for name, tree in trees.items() if name.startswith("sched")]
        return checkpoint

    def _is_read_by_a_hook(self) -> bool:
        """Return whether any hook reads the checkpoint: only then are the weights loaded into it."""
        return any(
            not private.is_lightnings(type(part).on_load_checkpoint)
            or type(part).on_load_checkpoint.__qualname__.startswith("WeightAveraging.")
            for part in (self.target.lightning_module, *self.target.callbacks)
        )


def _name(kind: type) -> str:
    return kind.__name__


def objects_of(trainer: Trainer) -> dict[str, Any]:
    """Return the module, optimizers and schedulers by name: each is stored, compared and exported as an object."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        MODEL: trainer.lightning_module,
        **_numbered_names("optimizer", trainer.optimizers),
        **_numbered_names("scheduler", schedulers),
        **_numbered_names("replaced", _left_behind(schedulers, trainer.optimizers)),
    }


def _left_behind(
    schedulers: Sequence[object], optimizers: Sequence[torch.optim.Optimizer]
) -> list[torch.optim.Optimizer]:
    """Return the replaced optimizers from which a remaining scheduler still reads its rates."""
    used = {id(optimizer) for optimizer in optimizers}
    found = [getattr(scheduler, "optimizer", None) for scheduler in schedulers]
    left = {id(each): each for each in found if isinstance(each, torch.optim.Optimizer) and id(each) not in used}
    return list(left.values())


def _numbered_names(what: str, objects: Sequence[object]) -> dict[str, Any]:
    return {what if len(objects) == 1 else f"{what}_{number}": item for number, item in enumerate(objects)}


def _is_live(value: SavedState, weights: SavedState) -> bool:
    return value.keys() == weights.keys() and all(_is_same(value[key], weights[key]) for key in weights)


def _is_same(one: object, other: object) -> bool:
    if one is other:
        return True
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    return one.shape == other.shape and same_place(one) == same_place(other)


def _plain(value: Any) -> Any:
    """Return containers of OmegaConf and subclasses of dict as plain ones."""
    if type(value).__module__.startswith("omegaconf."):
        return sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=True)
    if isinstance(value, dict):
        kind: Any = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
        stored_as_is = type(value) in (collections.Counter, collections.defaultdict)
        return value if stored_as_is else kind((key, _plain(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _numbered(tree: SavedState) -> SavedState:
    """Return the stored tree of an optimizer as its `state_dict`: parameters by number instead of by name."""
    if "groups" not in tree:
        return tree
    names = [name for group in tree["groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        **tree["rest"],
        "state": {**{numbers[name]: state for name, state in tree["state"].items()}, **tree["extra"]},
        "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in tree["groups"]],
    }
