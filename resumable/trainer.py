"""The public face of a training run. The loops, and what happens between their turns, are in `loop`."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resumable.audit.names.live_names import LiveNames
from resumable.config.config import Config
from resumable.data.forgotten_preparer import ForgottenPreparer
from resumable.errors import ConfigError, LoopError
from resumable.loop.beginning import checked_beginning
from resumable.loop.carried.carried_variables import CarriedVariables
from resumable.loop.iteration.loop_iterator import LoopIterator, LoopTurns
from resumable.loop.launch import Launch
from resumable.loop.launch_checks import refuse_config_keys, refuse_several_processes, refuse_while_building
from resumable.loop.loop_exit import LoopExit
from resumable.loop.loops import Loops
from resumable.loop.metrics import named_once
from resumable.loop.passes.cycle import Cycle
from resumable.state.objects.plain.parts import taken_apart
from resumable.utils.events import show_events, warn

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Trainer:
    """Make a training loop resumable: the same command, run again after any crash, continues at the exact batch.

    The newest checkpoint is found and verified at once, so that a mismatch is refused before anything is trained or
    deleted. It is a context manager: leaving the `with` block closes it.

    Args:
        config: The folder or URL of the run, the path of a YAML file, a mapping or a `Config`.
        **objects: Everything that changes while training, by name: modules, optimizers, schedulers and anything else
            with `state_dict` and `load_state_dict`; `torch.Generator`, `numpy.random.Generator` and `random.Random`;
            dicts, lists and deques of plain values, and of any of these; tensors and arrays; and what `attributes`
            returns for a plain object. All of them are filled in place. An `Accelerator` of Accelerate or a `Fabric`
            is one of them: `accelerator=accelerator`.

    Raises:
        ConfigError: `config` or the environment is not valid, this is one of several processes, or an `Accelerator` or
            `Fabric` shards the state.
        StateError: An object cannot be stored.
        RunMismatchError: The checkpoint does not fit the objects.
        CheckpointError: No checkpoint of the run is whole, or its format is newer.
        StorageError: The run cannot be read or written.
    """

    def __init__(self, config: str | Path | Mapping[str, Any] | Config | None = None, /, **objects: Any) -> None:
        refuse_while_building()
        show_events()
        if config is None:
            raise ConfigError(
                "Trainer(...): no config was given",
                'it comes first and without a name: Trainer("runs/digits", model=model, ...)',
            )
        refuse_config_keys(objects)
        refuse_several_processes()
        self.config = Config.load(config)
        given = taken_apart(objects).targets
        self._launch = launch = Launch(self.config, objects, restored_elsewhere=given.values())
        audit, checkpointer = self.config.audit, launch.checkpointer
        carried = CarriedVariables.of(self.config, checkpointer)
        names = LiveNames(
            audit.mode,
            ignore=audit.ignore,
            given=[*objects.values(), *given.values()],
            noted=lambda: checkpointer.resumed.notes if checkpointer.resumed else None,
            carried=lambda: carried.names,
        )
        self._loops = Loops(launch, ForgottenPreparer(given, warn), names, carried)
        self._exit = loop_exit = LoopExit(launch, self._loops)
        self._finalizer = weakref.finalize(self, _close, launch, self._loops, loop_exit)
        launch.start(idle=lambda: loop_exit.idle, close=self._finalizer)

    # -- where the run stands -----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps completed in the whole run, also before the first loop."""
        self._loops.settle()
        return self._loops.step

    @property
    def epoch(self) -> int:
        """Epochs completed, which is the number of the one in progress."""
        return self._loops.epoch

    @property
    def resumed_from(self) -> str | None:
        """The name of the checkpoint from which this attempt resumed; None for a new run."""
        resumed = self._launch.checkpointer.resumed
        return resumed.name if resumed else None

    @property
    def run_id(self) -> str:
        """The identity of the run, the same in every launch: 32 hexadecimal digits, drawn when the run began.

        Pass it to a tracker, so that each launch continues one curve. A copy of the run's folder has the same identity.
        """
        return self._launch.checkpointer.run_id

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the newest boundary, as a checkpoint of it holds them: nothing that the body logged since.

        They are empty at the beginning of a run, and those of the checkpoint after a resume. Behind the loop they are
        those of the final checkpoint, also where an earlier launch finished the run. The head of an epoch has those of
        the epoch before; where it runs again, because the run resumes inside its epoch, it has those of the checkpoint.
        Reading waits for devices.
        """
        return MappingProxyType(self._loops.metrics)

    @property
    def resuming(self) -> bool:
        """True from the launch until the first fetch of a pass that is resumed in its middle.

        At the head of an epoch it says that this head has run before the checkpoint: what is in no object of the
        Trainer belongs behind `if not trainer.resuming`. It is False for a new run, a resume between two epochs, a
        finished run and `steps()`. Passes without `epochs()` are counted by the program's own `for`, so there it is
        also True at the heads of all passes that are finished.
        """
        return self._loops.resuming

    def begin_at(self, *, epoch: int | None = None, step: int | None = None) -> None:
        """Begin a new run where another program's training stands, whose file is loaded already.

        Counters, addresses of batches, random streams and the numbers of `epochs(n)` and `steps(n)` begin there, and so
        does the first checkpoint. No-op in a launch that resumes: the same command is run again, and the checkpoint
        decides. A loop whose `n` is not larger trains nothing.

        Args:
            epoch: The number of completed epochs; not needed for `steps(n)`, which counts none.
            step: The number of completed steps.

        Raises:
            LoopError: A loop has begun, `step` is missing, a number is not a whole one from 0 on, or the run resumes
                from a checkpoint that is older. At the loop, where it counts epochs and `epoch` is missing.
        """
        self._ours.begin_at(checked_beginning(step, epoch))

    def carry(self, *names: str) -> None:
        """Save variables of the calling function, or of the module, with every checkpoint, and put them back.

        They are put back when the outermost loop begins, and in the middle of an epoch once more right before the first
        batch, in place of what the head of the epoch computed. Tensors come back on the device of what the name is
        bound to, or else where they were. Exact for a `for`; with `next()` an expression may have read a variable.

        Call it before the outermost loop; a variable that a loop binds later may be named. A function that the loop
        calls, and that has a `for` over `batches` of its own, calls it for its own variables before that one. Called
        again with other names it adds them.

        Args:
            *names: The names, as text: numbers, texts, tensors and arrays, and containers of these.

        Raises:
            LoopError: There is no such variable, no loop of the function binds it, the function is not part of the
                loop, or this is another thread.
            StateError: A value cannot be stored, or it is an object to pass to the Trainer instead.
            RunMismatchError: The checkpoint does not hold a name, and the config does not `adopt` it. At the loop, if
                the checkpoint holds a name that is not carried, and the config does not `drop` it.
        """
        self._refuse_closed()
        self._ours.carry(names, sys._getframe(1))

    # -- the loops ----------------------------------------------------------------------------------------------------

    def epochs(self, n: int) -> LoopIterator[int]:
        """Iterate over the epochs of the run that remain. The end of each epoch is a boundary.

        Args:
            n: The number of epochs of the whole run; a larger one continues a finished run.

        Returns:
            The epoch numbers below `n`, from the current one on.

        Raises:
            LoopError: `n` is not a whole number, another loop runs, or the run was trained with another kind of loop.
        """
        return self._iterator("epochs", self._ours.epochs(n))

    def steps(self, n: int) -> LoopIterator[int]:
        """Iterate over the steps of the run that remain, for loops without a loader.

        Args:
            n: The number of steps of the whole run; a larger one continues a finished run.

        Returns:
            The step numbers below `n`, from the current one on.

        Raises:
            LoopError: `n` is not a whole number, another loop runs, or the run was trained with another kind of loop.
        """
        return self._iterator("steps", self._ours.steps(n))

    @overload
    def batches(self, loader: Iterable[T]) -> LoopIterator[T]: ...
    @overload
    def batches(self, loader: Iterable[A], second: Iterable[B], /) -> LoopIterator[tuple[A, B]]: ...
    @overload
    def batches(
        self, loader: Iterable[A], second: Iterable[B], third: Iterable[C], /
    ) -> LoopIterator[tuple[A, B, C]]: ...
    @overload
    def batches(
        self, loader: Iterable[T], second: Iterable[T], third: Iterable[T], fourth: Iterable[T], /, *more: Iterable[T]
    ) -> LoopIterator[tuple[T, ...]]: ...
    def batches(self, loader: Iterable[Any], *more: Iterable[Any]) -> LoopIterator[Any]:
        """Iterate over the batches of one pass, after a resume from the exact batch on. Each batch is a step.

        `len()` is the number of batches that remain, so that `tqdm(trainer.batches(loader))` shows the remaining time.
        Python's own `enumerate` around it would count from 0 again after a resume: use `trainer.enumerate`.

        Args:
            loader: A `DataLoader` or any other iterable that yields the same items in each launch.
            *more: Further loaders, side by side as in `zip`: the shortest one ends the pass.

        Returns:
            The items of `loader`, or tuples of one item of each loader.

        Raises:
            LoopError: Passes are nested, or data, order or loaders are not those of the checkpoint.
        """
        loop = self._ours.batches(loader, *more)
        return self._iterator("batches", LoopTurns((batch for _, batch in loop.turns), loop.remaining))

    @overload
    def enumerate(self, loader: Iterable[T]) -> LoopIterator[tuple[int, T]]: ...
    @overload
    def enumerate(self, loader: Iterable[A], second: Iterable[B], /) -> LoopIterator[tuple[int, tuple[A, B]]]: ...
    @overload
    def enumerate(
        self, loader: Iterable[A], second: Iterable[B], third: Iterable[C], /
    ) -> LoopIterator[tuple[int, tuple[A, B, C]]]: ...
    @overload
    def enumerate(
        self, loader: Iterable[T], second: Iterable[T], third: Iterable[T], fourth: Iterable[T], /, *more: Iterable[T]
    ) -> LoopIterator[tuple[int, tuple[T, ...]]]: ...
    def enumerate(self, loader: Iterable[Any], *more: Iterable[Any]) -> LoopIterator[tuple[int, Any]]:
        """Iterate as `batches` does, with the index of the batch in its pass, also after a resume.

        Args:
            loader: As for `batches`.
            *more: As for `batches`.

        Returns:
            Tuples of the index, from 0 on, and what `batches` returns.
        """
        return self._iterator("batches", self._ours.batches(loader, *more))

    def cycle(self, loader: Iterable[T], *, name: str | None = None) -> Cycle[T]:
        """Create an endless iterator for `next()` inside another loop; its position is saved with that loop's.

        Args:
            loader: As for `batches`; it is iterated over again and again.
            name: Identifies the cycle in checkpoints; by default cycles are numbered in the order of creation.

        Returns:
            The iterator, at the position of the checkpoint.

        Raises:
            LoopError: A loop runs, or the name is used.
        """
        return self._ours.cycle(loader, name)

    def evaluate(self, loader: Iterable[T]) -> LoopIterator[T]:
        """Iterate over the batches of `loader` for validation: counts no step, and restores the global RNG streams.

        Args:
            loader: As for `batches`; a pass always begins with its first batch.

        Returns:
            The items of `loader`.
        """
        return self._iterator("evaluate", self._ours.evaluate(loader), refuse=self._launch.claim.refuse_lost)

    # -- what the loop's body may call --------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, float | Tensor] | None = None, /, **more: float | Tensor) -> None:
        """Record metrics of this step, or of this epoch when called after its batches.

        Args:
            metrics: Numbers or tensors of one element, by name, for names that are no keywords: `{"loss/train": loss}`.
                Tensors are detached and copied at once, without waiting for a device.
            **more: The same as keywords.

        Raises:
            StateError: A value is not one number, or a name is given twice.
        """
        self._ours.log(named_once({} if metrics is None else metrics, more))

    def golden(self, batch: Any, *, model: str | None = None) -> None:
        """Store a golden input, and the live module's output for it, in every checkpoint from now on.

        The module is run once now, so that a mismatch shows at once, and once per save, in eval mode and without
        gradients. That leaves no trace: no bit of the training depends on it. A second call replaces the input. Best
        called before the loop.

        Args:
            batch: A tensor for `model(x)`, a tuple of tensors for `model(*batch)`, or a dict of tensors for
                `model(**batch)`.
            model: The name of the module among the objects; needed where there are several modules.

        Raises:
            ConfigError: `model` does not name a module, or is missing among several.
            StateError: The module does not accept the input, or returns no tensor.
        """
        self._refuse_closed()
        self._launch.checkpointer.set_golden_input(batch, model=model)

    def stop(self) -> None:
        """End all loops at the next boundary, write the final checkpoint and mark the run finished.

        The loops end by themselves. A `break` or `return` after it is a boundary, too: the step counts as complete,
        and its state is saved before the code behind the loop runs. After an exception nothing is saved.

        Raises:
            LoopError: No loop has begun.
        """
        self._ours.stop()

    def request_save(self) -> None:
        """Request a save at the next boundary, whatever the policy decides."""
        self._launch.claim.refuse_lost()
        self._launch.boundary.save_requested = True

    def leave(self) -> None:
        """Save at the next boundary, and exit with code 75 by raising `Preempted`, as after SIGTERM.

        For notices of a preemption that are no signals. Any thread may call it, and more than once. `evaluate` and a
        replay exit at once, with the last checkpoint. A call before the loop takes effect when the loop begins. Behind
        the loop only `evaluate` exits, and after `close()` nothing does.

        Raises:
            LoopError: A later launch of this program has taken the run over.
        """
        self._launch.claim.refuse_lost()
        self._launch.preemption.leave()

    def restore(self) -> None:
        """Restore the objects now instead of when the first loop starts. No-op for a new run."""
        self._ours.restore_early()

    def close(self) -> None:
        """Wait until the last save is durable, and release the run. Safe to call twice.

        Logs a warning for steps that were trained and are in no checkpoint.
        """
        owed = self._finalizer()
        if owed is not None:
            raise owed

    def __repr__(self) -> str:
        return f"Trainer(run={self.config.location!r}, step={self._loops.step}, epoch={self._loops.epoch})"

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owed = self._finalizer()
        if owed is not None and error is None:
            raise owed

    @property
    def _ours(self) -> Loops:
        """The loops. Raises `LoopError` where a later launch of this program has taken the run over."""
        self._launch.claim.refuse_lost()
        return self._loops

    def _iterator(self, name: str, loop: LoopTurns[T], *, refuse: Callable[[], None] | None = None) -> LoopIterator[T]:
        # The bound method holds the trainer: one that nothing else holds would be closed under its own loop.
        refuse = refuse or self._refuse_closed
        entered, left = partial(self._exit.entered, name), partial(self._exit.left, name)
        return LoopIterator(loop, entered=entered, refuse=refuse, left=left)

    def _refuse_closed(self) -> None:
        self._launch.claim.refuse_lost()
        if not self._finalizer.alive:
            raise LoopError(
                "this trainer is closed: it has released the run",
                "loop inside the `with` block, and before close()",
            )


def _close(launch: Launch, loops: Loops, loop_exit: LoopExit) -> BaseException | None:
    """Release everything; returns what could not be raised where a loop was left. Does nothing in a forked child."""
    if not launch.is_owner:
        return None
    owed = loop_exit.close()
    launch.close(trained=loops.trained, keep=loop_exit.keep)
    return owed
