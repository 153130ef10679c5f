"""Hooks that put other optimizers and schedulers in place: noted when they do, and called again on a resume.

Only the hook knows what it builds: which functions a scheduler has, and who else holds it. So a resume calls it once
more, with the counters, metrics and learning rates of then, and the restore behind it puts every value right.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import torch

from resumable.errors import LoopError, RunMismatchError
from resumable.lightning import private
from resumable.utils.messages import quoted

# Those that come as training goes on; of those that get the index of a batch, how many arguments come before it.
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
# Those that Lightning calls in every launch, so that nobody else has to.
_OF_EVERY_LAUNCH = ("on_fit_start", "on_train_start", "on_sanity_check_start", "on_sanity_check_end")
_OWNERS = ("[Callback]", "[LightningModule]")

Profile = Callable[[str], AbstractContextManager[Any]]


class Standing(NamedTuple):
    """The optimizers and schedulers of one moment, held so that no other object gets the identity of one of them."""

    objects: list[Any]
    groups: list[list[tuple[int, int]]]  # of each optimizer: how many parameters a group has, and which is the first

    def is_same(self, other: Standing) -> bool:
        return list(map(id, self.objects)) == list(map(id, other.objects)) and self.groups == other.groups


class Changes:
    """Every call of a hook in this run that changed which optimizers and schedulers there are, in order.

    A hook is known by Lightning's own name of it. With it is noted how long a pass over the loader is and what is
    accumulated, where a hook changes that: weight averaging adds a pass that learns nothing.
    """

    def __init__(self, trainer: Any) -> None:
        self.made: list[dict[str, Any]] = []
        self.pending = False  # whether a resume has yet to make them again
        self._repeated: list[tuple[str, int]] = []  # hooks that Lightning itself called again meanwhile, and the epoch
        self._trainer = trainer
        self._watched: dict[str, bool] = {}  # by Lightning's name of a hook
        self._gone: list[weakref.ref[Any]] = []  # taken out before the checkpoint, so their state is in none
        self.known = standing(trainer)

    def watching(self, profile: Profile) -> Profile:
        """The profiler's `profile`, which Lightning opens around each call of a hook, with a look before and after."""

        def watched(action: str) -> AbstractContextManager[Any]:
            wanted = self._watched.get(action)
            if wanted is None:
                wanted = self._watched[action] = self._may_change(action)
            return self._watch(action, profile) if wanted else profile(action)

        return watched

    def _may_change(self, action: str) -> bool:
        hook = _hook(action)
        if hook in _OF_EVERY_LAUNCH or _HOOKS.get(hook, 0) is None:
            return action.startswith(_OWNERS)
        # Those of each batch have to cost nothing where nobody has one: Lightning's own change nothing.
        return hook in _HOOKS and not all(map(private.is_own, self._named(action)))

    @contextmanager
    def _watch(self, action: str, profile: Profile) -> Iterator[None]:
        before, batches = standing(self._trainer), private.batches(self._trainer)
        rates = _rates(self._trainer)  # which the hook may be about to read, and to change
        with profile(action):
            yield
        after = standing(self._trainer)
        if before.is_same(after) and batches == private.batches(self._trainer):
            return
        if before.is_same(self.known):
            self.known = after
        self._refuse_returned(action)
        if _hook(action) not in _HOOKS or self._trainer.sanity_checking:
            return
        if not self.pending:
            self._note(action, rates)
        elif before.is_same(after):  # before version 2.6 an epoch that goes on begins with its hooks
            self._repeated.append((action, self._trainer.current_epoch))

    def _note(self, action: str, rates: list[Any]) -> None:
        trainer = self._trainer
        metrics = private.callback_metrics(trainer)
        change = {
            "hook": action,
            "progress": trainer.fit_loop.state_dict(),
            "metrics": {name: _kept(value) for name, value in metrics.items()},
            "rates": rates,
            "standing": described(trainer),
        }
        twin = self.made[-1] if self.made else {}
        if twin.get("hook") == action and twin["progress"] == change["progress"]:
            self.made.pop()  # of two callbacks under one name, which are called again together
        self.made.append(change)

    def refuse_unseen(self) -> None:
        """Raise `LoopError` where something is other than the hooks have left it."""
        if not standing(self._trainer).is_same(self.known):
            raise LoopError(
                "the optimizers, their parameter groups or the schedulers were changed, and not in a hook that a "
                "resume can call again",
                f"change them in one of {', '.join(_HOOKS)} of a callback or of the module",
            )

    def _refuse_returned(self, action: str) -> None:
        if any(gone() is each for gone in self._gone for each in self.known.objects):
            raise LoopError(
                f"{_shown(action)} put back an optimizer or a scheduler that was not in use when the checkpoint was "
                "taken, so that its state is in no checkpoint",
                "keep it among `trainer.optimizers` or the schedulers all the time, or make another one",
            )

    # -- on a resume --------------------------------------------------------------------------------------------------

    def make_again(self) -> None:
        """Call each of those hooks again. What it does to counters, metrics and weights is left to be put right.

        Raises `RunMismatchError` where a hook is not there, fails, or does not do what it did.
        """
        self.pending = False
        seen = list(self.known.objects)
        for change in self.made:
            if (change["hook"], change["progress"]["epoch_progress"]["current"]["completed"]) in self._repeated:
                continue
            with private.inside(self._trainer, _hook(change["hook"])), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were shown when it was called first
                self._call(change)
            seen += standing(self._trainer).objects
        if self.made and described(self._trainer) != self.made[-1]["standing"]:
            raise self._mismatch(
                self.made[-1], f"left {self.made[-1]['standing']} then, and {described(self._trainer)} now"
            )
        self.known = standing(self._trainer)
        for each in seen:
            if not any(each is held for held in self.known.objects):
                with suppress(TypeError):  # some kinds of objects cannot be referred to weakly
                    self._gone.append(weakref.ref(each))

    def _call(self, change: dict[str, Any]) -> None:
        trainer = self._trainer
        trainer.fit_loop.load_state_dict(change["progress"])
        private.set_callback_metrics(trainer, change["metrics"])
        for optimizer, groups in zip(trainer.optimizers, change["rates"], strict=False):
            for group, values in zip(optimizer.param_groups, groups, strict=False):
                group.update((name, _kept(value)) for name, value in values.items())
        hooks = self._named(change["hook"])
        if not hooks:
            raise self._mismatch(change, "is not there now")
        arguments = _arguments(_hook(change["hook"]), trainer.fit_loop.epoch_loop.batch_idx)
        if change["hook"].startswith("[Callback]"):
            arguments = (trainer, trainer.lightning_module, *arguments)
        for hook in hooks:
            try:
                hook(*arguments)
            except Exception as error:
                raise self._mismatch(change, f"raised {type(error).__name__}: {quoted(error)}") from error

    def _named(self, action: str) -> list[Callable[..., Any]]:
        """The hooks that Lightning has this name for; callbacks of one kind may share one."""
        module, hook = self._trainer.lightning_module, _hook(action)
        owners = [(f"[LightningModule]{type(module).__name__}", module)]
        owners += [(f"[Callback]{callback.state_key}", callback) for callback in self._trainer.callbacks]
        found = (getattr(owner, hook) for name, owner in owners if f"{name}.{hook}" == action)
        return [each for each in found if callable(each)]

    def _mismatch(self, change: dict[str, Any], what: str) -> RunMismatchError:
        return RunMismatchError(
            f"{_shown(change['hook'])} changed optimizers or schedulers before the checkpoint was taken; when it was "
            f"called again it {what}",
            "have it depend on nothing but the trainer's counters, the logged metrics and its own state, and on no "
            "batch; or name another folder in `run` for a new run",
        )


def standing(trainer: Any) -> Standing:
    """What is in place now."""
    optimizers = trainer.optimizers
    return Standing(
        [*optimizers, *(config.scheduler for config in trainer.lr_scheduler_configs)],
        [[_outline(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers],
    )


def described(trainer: Any) -> list[str]:
    """The same in words that tell what was built from what should have been."""
    sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    return [
        *(f"{type(each).__name__}{size}" for each, size in zip(trainer.optimizers, sizes, strict=True)),
        *(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs),
    ]


def _rates(trainer: Any) -> list[list[dict[str, Any]]]:
    """What else than parameters there is in the groups of each optimizer: a schedule is often made from that."""
    return [
        [{name: _kept(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]


def _outline(parameters: list[Any]) -> tuple[int, int]:
    return len(parameters), id(parameters[0]) if parameters else 0


def _hook(action: str) -> str:
    return action.rpartition(".")[2]


def _shown(action: str) -> str:
    return action.partition("]")[2]


def _arguments(hook: str, batch: int) -> tuple[Any, ...]:
    others = _HOOKS[hook]
    return () if others is None else (*[None] * others, batch)


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
