"""Record the hooks that replace optimizers and schedulers, and call them again on a resume.

Only the hook knows what it builds: the functions of a scheduler, and the other owners of the objects. So a resume calls
it again, with the counters, metrics and learning rates of that time, and then restores every value.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

import torch

from resumable.drivers.state import State
from resumable.errors import LoopError, RunMismatchError
from resumable.lightning import private
from resumable.lightning.protocols import Hook, Profile, Trainer
from resumable.utils.messages import quoted

# Hooks that run while training; for those that get the index of a batch, the number of arguments before it.
_HOOKS: dict[str, int | None] = {
    "on_train_epoch_start": None,
    "on_train_epoch_end": None,
    "on_train_batch_start": 1,
    "on_train_batch_end": 2,
    "on_validation_start": None,
    "on_validation_end": None,
    "on_validation_epoch_start": None,
    "on_validation_epoch_end": None,
    "on_train_end": None,
}
# Hooks that Lightning calls in every launch, so a resume need not call them.
_OF_EVERY_LAUNCH = ("on_fit_start", "on_train_start", "on_sanity_check_start", "on_sanity_check_end")
_OWNERS = ("[Callback]", "[LightningModule]")


class Optimization(NamedTuple):
    """The optimizers and schedulers at one moment, referenced so that no new object gets the `id` of one of them."""

    objects: list[object]
    groups: list[
        list[tuple[int, int]]
    ]  # of each optimizer: the number of parameters of each group, and the `id` of the first

    def is_same(self, other: Optimization) -> bool:
        """Return whether these are the same objects with the same groups."""
        return list(map(id, self.objects)) == list(map(id, other.objects)) and self.groups == other.groups


class OptimizerChanges:
    """Every call of a hook in this run that replaced optimizers or schedulers, in order.

    A hook is identified by Lightning's name for it. A change of the length of a pass or of the accumulation counts,
    too: weight averaging adds a pass without backward.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.made: list[State] = []
        self.pending = False  # whether a resume still has to repeat them
        self._repeated: list[tuple[str, int]] = []  # hooks that Lightning itself has repeated since, and the epoch
        self._trainer = trainer
        self._watched: dict[str, bool] = {}  # by Lightning's name for a hook
        self._gone: list[weakref.ref[object]] = []  # dropped before the checkpoint, which lacks their state
        self.current = optimization(trainer)

    def watching(self, profile: Profile) -> Profile:
        """Wrap the profiler's `profile`, which Lightning opens around each hook, to compare before and after."""

        def watched(action: str) -> AbstractContextManager[object]:
            wanted = self._watched.get(action)
            if wanted is None:
                wanted = self._watched[action] = self._may_change(action)
            return self._watch(action, profile) if wanted else profile(action)

        return watched

    def _may_change(self, action: str) -> bool:
        hook = _hook(action)
        if hook in _OF_EVERY_LAUNCH or _HOOKS.get(hook, 0) is None:
            return action.startswith(_OWNERS)
        # Hooks of each batch must cost nothing if no program defines one: Lightning's own change nothing.
        return hook in _HOOKS and not all(map(private.is_lightnings, self._named(action)))

    @contextmanager
    def _watch(self, action: str, profile: Profile) -> Iterator[None]:
        before, batches = optimization(self._trainer), private.pass_settings(self._trainer)
        rates = _rates(self._trainer)  # the hook may read and change them
        with profile(action):
            yield
        after = optimization(self._trainer)
        if before.is_same(after) and batches == private.pass_settings(self._trainer):
            return
        if before.is_same(self.current):
            self.current = after
        self._refuse_returned(action)
        if _hook(action) not in _HOOKS or self._trainer.sanity_checking:
            return
        if not self.pending:
            self._note(action, rates)
        elif before.is_same(after):  # before version 2.6 a resumed epoch begins with its hooks
            self._repeated.append((action, self._trainer.current_epoch))

    def _note(self, action: str, rates: list[list[State]]) -> None:
        trainer = self._trainer
        metrics = private.callback_metrics(trainer)
        change = {
            "hook": action,
            "progress": trainer.fit_loop.state_dict(),
            "metrics": {name: _kept(value) for name, value in metrics.items()},
            "rates": rates,
            "standing": described(trainer),
        }
        previous = self.made[-1] if self.made else {}
        if previous.get("hook") == action and previous["progress"] == change["progress"]:
            self.made.pop()  # two callbacks with one name, which are called again together
        self.made.append(change)

    def refuse_unseen(self) -> None:
        """Raise `LoopError` if optimizers or schedulers differ from those that the hooks left."""
        if not optimization(self._trainer).is_same(self.current):
            raise LoopError(
                "the optimizers, their parameter groups or the schedulers were changed, and not in a hook that a "
                "resume can call again",
                f"change them in one of {', '.join(_HOOKS)} of a callback or of the module",
            )

    def _refuse_returned(self, action: str) -> None:
        if any(gone() is each for gone in self._gone for each in self.current.objects):
            raise LoopError(
                f"{_shown(action)} put back an optimizer or a scheduler that was not in use when the checkpoint was "
                "taken, so that its state is in no checkpoint",
                "keep it among `trainer.optimizers` or the schedulers all the time, or make another one",
            )

    # -- on a resume --------------------------------------------------------------------------------------------------

    def repeat(self) -> None:
        """Call each of those hooks again. The caller restores counters, metrics and weights afterwards.

        Raises:
            RunMismatchError: A hook does not exist, fails, or builds other objects than before.
        """
        self.pending = False
        seen = list(self.current.objects)
        for change in self.made:
            if (change["hook"], change["progress"]["epoch_progress"]["current"]["completed"]) in self._repeated:
                continue
            with private.inside(self._trainer, _hook(change["hook"])), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were shown at the first call
                self._call(change)
            seen += optimization(self._trainer).objects
        if self.made and described(self._trainer) != self.made[-1]["standing"]:
            raise self._mismatch(
                self.made[-1], f"left {self.made[-1]['standing']} then, and {described(self._trainer)} now"
            )
        self.current = optimization(self._trainer)
        for each in seen:
            if not any(each is used for used in self.current.objects):
                with suppress(TypeError):  # some kinds of objects have no weak references
                    self._gone.append(weakref.ref(each))

    def _call(self, change: State) -> None:
        trainer = self._trainer
        trainer.fit_loop.load_state_dict(change["progress"])
        private.set_callback_metrics(trainer, change["metrics"])
        for optimizer, groups in zip(trainer.optimizers, change["rates"], strict=False):
            for group, values in zip(optimizer.param_groups, groups, strict=False):
                group.update((name, _kept(value)) for name, value in values.items())
        hooks = self._named(change["hook"])
        if not hooks:
            raise self._mismatch(change, "did not exist")
        arguments = _arguments(_hook(change["hook"]), trainer.fit_loop.epoch_loop.batch_idx)
        if change["hook"].startswith("[Callback]"):
            arguments = (trainer, trainer.lightning_module, *arguments)
        for hook in hooks:
            try:
                hook(*arguments)
            except Exception as error:
                raise self._mismatch(change, f"raised {type(error).__name__}: {quoted(error)}") from error

    def _named(self, action: str) -> list[Hook]:
        """Return the hooks with this name of Lightning's; callbacks of one class may share one."""
        module, hook = self._trainer.lightning_module, _hook(action)
        owners: list[tuple[str, object]] = [(f"[LightningModule]{type(module).__name__}", module)]
        owners += [(f"[Callback]{callback.state_key}", callback) for callback in self._trainer.callbacks]
        found = (getattr(owner, hook) for name, owner in owners if f"{name}.{hook}" == action)
        return [each for each in found if callable(each)]

    def _mismatch(self, change: State, what: str) -> RunMismatchError:
        return RunMismatchError(
            f"{_shown(change['hook'])} changed optimizers or schedulers before the checkpoint was taken; when it was "
            f"called again it {what}",
            "have it depend on nothing but the trainer's counters, the logged metrics and its own state, and on no "
            "batch; or name another folder in `run` for a new run",
        )


def optimization(trainer: Trainer) -> Optimization:
    """Return the optimizers and schedulers in use."""
    optimizers = trainer.optimizers
    return Optimization(
        [*optimizers, *(config.scheduler for config in trainer.lr_scheduler_configs)],
        [[_outline(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers],
    )


def described(trainer: Trainer) -> list[str]:
    """Describe the optimizers and schedulers in use, for errors and for comparison across launches."""
    sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    return [
        *(f"{type(each).__name__}{size}" for each, size in zip(trainer.optimizers, sizes, strict=True)),
        *(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs),
    ]


def _rates(trainer: Trainer) -> list[list[State]]:
    """Return the options of all parameter groups: schedules are often computed from them."""
    return [
        [{name: _kept(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]


def _outline(parameters: list[torch.nn.Parameter]) -> tuple[int, int]:
    return len(parameters), id(parameters[0]) if parameters else 0


def _hook(action: str) -> str:
    return action.rpartition(".")[2]


def _shown(action: str) -> str:
    return action.partition("]")[2]


def _arguments(hook: str, batch: int) -> tuple[object, ...]:
    others = _HOOKS[hook]
    return () if others is None else (*[None] * others, batch)


def _kept(value: object) -> object:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
