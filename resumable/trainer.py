"""The public face of a training run. The loops, and what happens between their turns, are in `loop`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resumable.config.config import Config
from resumable.data.accelerate import AccumulationCheck
from resumable.errors import ConfigError, LoopError
from resumable.loop.cycle import Cycle
from resumable.loop.launch import Launch
from resumable.loop.launch_checks import refuse_several_processes, refuse_while_building
from resumable.loop.loop_exit import LoopExit
from resumable.loop.loop_iterator import Loop, LoopIterator
from resumable.loop.loops import Loops
from resumable.utils.events import show_events, warn

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Trainer:
    """Wraps a training loop so that the same command, run again after any crash, continues at the exact batch.

    `config` is the folder or URL of the run, the path of a YAML file, a mapping or a `Config`. `objects` is everything
    that changes while training: modules, optimizers, schedulers and anything else with `state_dict`/`load_state_dict`;
    `torch.Generator`, `numpy.random.Generator`, `random.Random`; plain dicts and lists, which are filled in place.

    Discovers and verifies the newest checkpoint at once, so that what does not fit is refused early. Raises the tree
    under `ResumableError`; nothing is trained and nothing is deleted before that.
    """

    def __init__(self, config: str | Path | Mapping[str, Any] | Config | None = None, /, **objects: Any) -> None:
        refuse_while_building()
        show_events()
        if config is None:
            raise ConfigError(
                "Trainer(...): no config was given",
                'it comes first and without a name: Trainer("runs/digits", model=model, ...)',
            )
        refuse_several_processes()
        self.config = Config.load(config)
        self._launch = launch = Launch(self.config, objects, restored_elsewhere=objects.values())
        self._loops = Loops(launch, AccumulationCheck(objects, warn))
        self._exit = loop_exit = LoopExit(self._loops)
        self._finalizer = weakref.finalize(self, _close, launch, self._loops, loop_exit)
        launch.start(idle=lambda: loop_exit.idle, close=self._finalizer)

    # -- where the run stands -----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps completed in the whole run; right from the first line after `Trainer(...)`."""
        self._loops.settle()
        return self._loops.step

    @property
    def epoch(self) -> int:
        """Epochs completed, which is the number of the one in progress."""
        return self._loops.epoch

    @property
    def resumed_from(self) -> str | None:
        """The name of the checkpoint where this attempt started; None for a fresh run."""
        resumed = self._launch.checkpointer.resumed
        return resumed.name if resumed else None

    # -- the loops ----------------------------------------------------------------------------------------------------

    def epochs(self, n: int) -> LoopIterator[int]:
        """Epoch numbers below `n`, from where the run stands; the end of each turn is a boundary."""
        return self._iterator("epochs", self._ours.epochs(n))

    def steps(self, n: int) -> LoopIterator[int]:
        """Step numbers below `n`, from where the run stands, for loops without a loader."""
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
        """The batches of one pass, from the exact batch on; with several loaders tuples, as `zip`.

        Its `len()` is what is left, where the loaders have a length; so `tqdm(trainer.batches(loader))` shows the time.
        Python's own `enumerate` around it would count from 0 again after a resume: use `trainer.enumerate`.
        """
        loop = self._ours.batches(loader, *more)
        return self._iterator("batches", Loop((batch for _, batch in loop.turns), loop.remaining))

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
        """As `batches`, with the index of the batch in its pass, also after a resume."""
        return self._iterator("batches", self._ours.batches(loader, *more))

    def cycle(self, loader: Iterable[T], *, name: str | None = None) -> Cycle[T]:
        """An endless iterator for `next()` inside another loop; its position is saved with that loop's.

        `name` tells several cycles apart in the checkpoint; by default they are counted in the order of creation.
        """
        return self._ours.cycle(loader, name)

    def evaluate(self, loader: Iterable[T]) -> LoopIterator[T]:
        """The batches of `loader` for validation: counts no step and leaves the global RNG streams as they were."""
        return self._iterator("evaluate", self._ours.evaluate(loader), refuse=self._launch.claim.refuse_lost)

    # -- what the loop's body may say ---------------------------------------------------------------------------------

    def log(self, **metrics: float | Tensor) -> None:
        """Record numbers or 0-d tensors of this step, or of this epoch when called after its batches.

        Tensors are detached and copied at once, without waiting for a device.
        """
        self._ours.log(metrics)

    def golden(self, batch: Any, *, model: str | None = None) -> None:
        """A known input: from here on each checkpoint carries it, and what the live module gives for it right then.

        `batch` is a tensor for `model(x)`, a tuple of tensors for `model(*batch)`, or a dict of them for
        `model(**batch)`; `model` is the name of the module, where there are several. It is run once now, so that what
        does not fit shows at once, and once per save, in eval mode and without gradients; that leaves no trace, and no
        bit of the training depends on it. A second call replaces the input. Best called before the loop.
        """
        self._refuse_closed()
        self._launch.checkpointer.set_golden_input(batch, model=model)

    def stop(self) -> None:
        """End all loops at the next boundary, write the final checkpoint and mark the run finished.

        The loops end by themselves. A `break` or `return` after it is a boundary, too: the step counts as complete,
        and its state is saved before the code behind the loop runs. After an exception nothing is saved.
        """
        self._ours.stop()

    def request_save(self) -> None:
        """Save at the next boundary, whatever the policy says."""
        self._launch.claim.refuse_lost()
        self._launch.boundary.save_requested = True

    def restore(self) -> None:
        """Restore the objects now instead of when the first loop starts; nothing to do for a fresh run."""
        self._ours.restore_early()

    def close(self) -> None:
        """Wait until the last save is durable and let go of the run; safe to call twice.

        Warns of steps that were trained and are in no checkpoint.
        """
        owed = self._finalizer()
        if owed is not None:
            raise owed

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
        """The loops, unless a later launch of this program has taken the run over."""
        self._launch.claim.refuse_lost()
        return self._loops

    def _iterator(self, name: str, loop: Loop[T], *, refuse: Callable[[], None] | None = None) -> LoopIterator[T]:
        # The bound method holds the trainer: one that nothing else holds would be closed under its own loop.
        refuse = refuse or self._refuse_closed
        entered, left = partial(self._exit.entered, name), partial(self._exit.left, name)
        return LoopIterator(loop, entered=entered, refuse=refuse, left=left)

    def _refuse_closed(self) -> None:
        self._launch.claim.refuse_lost()
        if not self._finalizer.alive:
            raise LoopError(
                "this trainer is closed: it has let go of the run",
                "loop inside the `with` block, and before close()",
            )


def _close(launch: Launch, loops: Loops, loop_exit: LoopExit) -> BaseException | None:
    """Release everything; returns what could not be raised where a loop was left. Does nothing in a forked child."""
    if not launch.is_owner:
        return None
    owed = loop_exit.close()
    launch.close(trained=loops.trained, keep="call trainer.stop() before a break or a return")
    return owed
