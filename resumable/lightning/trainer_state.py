"""Lightning's own checkpoint, and what Lightning keeps beside it, as one object of ours; knows no loop and no storage.

Three parts. `between` is what Lightning holds between two batches and what exactness hangs on: it is proved after each
restore like any other object. `checkpoint` is what `Trainer.save_checkpoint` would write, with whatever hooks add to
it: it goes through the same hooks again, which may do with it what they like, so nothing of it is proved. And `beside`:
where the files of others stand, loggers' and `ModelCheckpoint`'s, which is no state of the training.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

from resumable.errors import StateError
from resumable.lightning import checkpoint_files, loggers, private, results
from resumable.run.checkpoint import Checkpoint
from resumable.state.codec.encoder import encode
from resumable.state.objects.adapter import Plain, taking
from resumable.state.objects.tree_copies import Own, moved
from resumable.state.tensors.facts import same_place
from resumable.utils.events import warn
from resumable.utils.location import location

NAME = "lightning"
MODEL = "model"
BESIDE = "beside"

_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
_LEFT_OUT = ("pytorch-lightning_version", "optimizer_states", "lr_schedulers", "hparams_type")
_LIVE = "$live"


class LightningState(Plain):
    """A Lightning trainer's state as an object of a checkpoint."""

    kind = "stateful"

    def __init__(self, trainer: Any, *, run: str, requests: dict[str, Any], changes: list[dict[str, Any]]) -> None:
        """Look at one trainer.

        Args:
            trainer: Lightning's.
            run: Where checkpoints go.
            requests: In which state the loaders were requested; the session fills it.
            changes: What `Changes` has noted, and is given back.
        """
        super().__init__(NAME, trainer)
        self.type = "lightning.Trainer"  # of either package
        self.limits_before: dict[str, Any] = {}  # of the checkpoint that was restored
        self._accumulated_before = 1
        self._run = run
        self._requests = requests
        self._changes = changes
        self._told = False

    def capture(self) -> dict[str, Any]:
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
                "loggers": loggers.capture(trainer.loggers),
                "files": checkpoint_files.capture(trainer),
                "callbacks": {key: _plain(state) for key, state in callbacks.items() if key in writers},
            },
        }

    def limits(self) -> dict[str, Any]:
        """How much training was asked for."""
        seconds = [private.seconds_allowed(part) for part in self.target.callbacks if hasattr(part, "time_remaining")]
        return {
            "max_epochs": self.target.max_epochs,
            "max_steps": self.target.max_steps,
            "max_seconds": min((most for most in seconds if most is not None), default=None),
        }

    def comparable(self, document: Any) -> Any:
        return document["between"]

    def places(self) -> Mapping[str, Any]:
        return {}  # nothing is filled in place, and it is taken whether it seems to differ or not

    def _between(self) -> dict[str, Any]:
        trainer = self.target
        return {
            "progress": trainer.fit_loop.state_dict(),
            "counters": private.counters(trainer),
            "logged": private.logged(trainer),
            "results": results.capture(trainer),
            "requests": dict(self._requests),
        }

    def _restore(self, tree: Any, own: Own) -> None:
        trainer, between = self.target, own(tree["between"], None)
        self.limits_before = dict(tree[BESIDE]["limits"])
        self._accumulated_before = tree["accumulate_grad_batches"]
        self._changes[:] = own(tree.get("changes", []), None)  # which earlier versions did not note
        trainer.fit_loop.load_state_dict(between["progress"])
        private.set_counters(trainer, between["counters"])
        private.set_logged(trainer, between["logged"])
        results.restore(trainer, between["results"])
        self._requests.clear()
        self._requests.update(between["requests"])

    def go_on_accumulating(self) -> None:
        """As many batches as a schedule had set; not before training began, for the schedule would refuse it."""
        if any("GradientAccumulationScheduler" in map(_name, type(part).__mro__) for part in self.target.callbacks):
            self.target.accumulate_grad_batches = self._accumulated_before

    # -- Lightning's checkpoint ---------------------------------------------------------------------------------------

    def _stored(self, name: str, value: Any, weights: Mapping[str, Any]) -> Any:
        if name in _HYPER_PARAMETERS:
            return {key: self._hyper_parameter(str(key), item) for key, item in _plain(value).items()}
        if isinstance(value, Mapping) and value and _is_live(value, weights):
            return {_LIVE: MODEL}  # these tensors are in the module's own blob
        return _plain(value)

    def _hyper_parameter(self, name: str, value: Any) -> Any:
        # A record for readers: nothing is ever restored from it, so what has no plain form is only described.
        try:
            encode(value, key_of=".".join, where=name)
        except StateError as error:
            if not self._told:
                warn(f"hyper-parameters are stored as plain values; of others only a description: {error.message}")
                self._told = True
            return {"repr": repr(value)[:1000]}
        return value

    def load(self, stored: Checkpoint) -> None:
        """Hand Lightning's checkpoint to everything that has a say in loading it, in Lightning's own order.

        The hooks get a whole checkpoint. What they do to weights and optimizers is put right by the restore after it.
        """
        trainer = self.target
        module, datamodule = trainer.lightning_module, trainer.datamodule
        with taking(NAME):
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

    def _whole(self, stored: Checkpoint) -> dict[str, Any]:
        tree = moved(stored.tree(NAME))
        checkpoint: dict[str, Any] = tree["checkpoint"]
        checkpoint["callbacks"] = {**checkpoint["callbacks"], **tree[BESIDE]["callbacks"]}
        checkpoint["pytorch-lightning_version"] = private.version_of(self.target)
        if not self._somebody_looks():
            return checkpoint
        for name, value in checkpoint.items():
            if isinstance(value, dict) and value.keys() == {_LIVE}:
                checkpoint[name] = stored.load(value[_LIVE])
        trees = {name: stored.tree(name) for name in stored.manifest.objects if name.startswith(("optim", "sched"))}
        checkpoint["optimizer_states"] = [_numbered(tree) for name, tree in trees.items() if name.startswith("optim")]
        checkpoint["lr_schedulers"] = [tree for name, tree in trees.items() if name.startswith("sched")]
        return checkpoint

    def _somebody_looks(self) -> bool:
        """Whether any hook gets to see the checkpoint: the weights are read for it only then."""
        return any(
            not private.is_own(type(part).on_load_checkpoint)
            or type(part).on_load_checkpoint.__qualname__.startswith("WeightAveraging.")
            for part in (self.target.lightning_module, *self.target.callbacks)
        )


def _name(kind: type) -> str:
    return kind.__name__


def place(run: str) -> str:
    """Where a run is; a copy of it is elsewhere, and has no business in the files of the original's loggers."""
    return location(run) if "://" in run else os.path.abspath(run)


def objects_of(trainer: Any) -> dict[str, Any]:
    """What of a Lightning trainer is an object of its own, so that it is stored, compared and exported as such."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        MODEL: trainer.lightning_module,
        **_numbered_names("optimizer", trainer.optimizers),
        **_numbered_names("scheduler", schedulers),
        **_numbered_names("replaced", _left_behind(schedulers, trainer.optimizers)),
    }


def _left_behind(schedulers: list[Any], optimizers: list[Any]) -> list[Any]:
    """Optimizers that were replaced while a scheduler, which reads its rates from them, stayed."""
    known = {id(optimizer) for optimizer in optimizers}
    found = [getattr(scheduler, "optimizer", None) for scheduler in schedulers]
    left = {id(each): each for each in found if isinstance(each, torch.optim.Optimizer) and id(each) not in known}
    return list(left.values())


def _numbered_names(what: str, objects: list[Any]) -> dict[str, Any]:
    return {what if len(objects) == 1 else f"{what}_{number}": item for number, item in enumerate(objects)}


def _is_live(value: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    return value.keys() == weights.keys() and all(_is_same(value[key], weights[key]) for key in weights)


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    alike = hasattr(one, "untyped_storage") and hasattr(other, "untyped_storage")
    return alike and one.shape == other.shape and same_place(one) == same_place(other)


def _plain(value: Any) -> Any:
    """Containers of OmegaConf and subclasses of dict as plain ones."""
    if type(value).__module__.startswith("omegaconf."):
        return sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=True)
    if isinstance(value, dict):
        kind: Any = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
        known = type(value) in (collections.Counter, collections.defaultdict)
        return value if known else kind((key, _plain(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _numbered(tree: Mapping[str, Any]) -> Any:
    """An optimizer's stored tree as its `state_dict`: parameters by number instead of by name."""
    if "groups" not in tree:
        return tree
    names = [name for group in tree["groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        **tree["rest"],
        "state": {**{numbers[name]: state for name, state in tree["state"].items()}, **tree["extra"]},
        "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in tree["groups"]],
    }
