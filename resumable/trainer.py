"""The public face of a training run; the loops themselves, and what happens between their turns, are elsewhere."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.config.config import Config
from resumable.data.accelerate import AccumulationCheck
from resumable.data.open_passes import Data
from resumable.errors import ConfigError, LoopError
from resumable.loop.boundary import Boundary
from resumable.loop.claims import Claim
from resumable.loop.cycle import Cycle
from resumable.loop.launch import announce, refuse_several_processes, refuse_while_building, skipping, tell_unsaved
from resumable.loop.loop_exit import Leaving
from resumable.loop.loops import Loops
from resumable.loop.preemption import Preemption
from resumable.loop.progress_bar import TrainingBar
from resumable.loop.turns import Loop, Turns
from resumable.utils.events import show_events, warn

T = TypeVar("T")


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
        self._claim = Claim(self.config)
        self._checkpointer = Checkpointer(self.config, objects)
        resumed = self._checkpointer.resumed
        self._bar = TrainingBar(self.config.progress, resumed_from=resumed.step if resumed else None)
        self._preemption = Preemption(self.config.signals, warn)
        self._boundary = Boundary(self.config, self._checkpointer, self._preemption)
        self._data = Data(
            self._checkpointer.data_seed,
            signals=self._preemption.numbers,
            warn=warn,
            skipping=skipping(self._bar, self._boundary),
            generator_rule=self._checkpointer.generator_rule,
            restored_elsewhere=objects.values(),
        )
        accumulation = AccumulationCheck(objects, warn)
        self._loops = Loops(self._checkpointer, self._boundary, self._data, self._preemption, self._bar, accumulation)
        self._leaving = leaving = Leaving(self._loops)
        parts = (self._loops, leaving, self._checkpointer, self._data, self._preemption, self._bar, self._claim)
        self._finalizer = weakref.finalize(self, _close, os.getpid(), *parts)
        self._claim.hold(self._checkpointer.attempt.number, idle=lambda: leaving.idle, let_go=self._finalizer)
        announce(self.config, self._checkpointer)

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
        return self._checkpointer.resumed.name if self._checkpointer.resumed else None

    # -- the loops ----------------------------------------------------------------------------------------------------

    def epochs(self, n: int) -> Turns[int]:
        """Epoch numbers below `n`, from where the run stands; the end of each turn is a boundary."""
        return self._turns("epochs", self._ours.epochs(n))

    def steps(self, n: int) -> Turns[int]:
        """Step numbers below `n`, from where the run stands, for loops without a loader."""
        return self._turns("steps", self._ours.steps(n))

    def batches(self, loader: Any, *more: Any) -> Turns[Any]:
        """The batches of one pass, from the exact batch on; with several loaders tuples, as `zip`.

        Its `len()` is what is left, where the loaders have a length; so `tqdm(trainer.batches(loader))` shows the time.
        Python's own `enumerate` around it would count from 0 again after a resume: use `trainer.enumerate`.
        """
        loop = self._ours.batches(loader, *more)
        return self._turns("batches", Loop((batch for _, batch in loop.turns), loop.remaining))

    def enumerate(self, loader: Any, *more: Any) -> Turns[tuple[int, Any]]:
        """As `batches`, with the index of the batch in its pass, also after a resume."""
        return self._turns("batches", self._ours.batches(loader, *more))

    def cycle(self, loader: Any, *, name: str | None = None) -> Cycle:
        """An endless iterator for `next()` inside another loop; its position is saved with that loop's.

        `name` tells several cycles apart in the checkpoint; by default they are counted in the order of creation.
        """
        return self._ours.cycle(loader, name)

    def evaluate(self, loader: Any) -> Turns[Any]:
        """The batches of `loader` for validation: counts no step and leaves the global RNG streams as they were."""
        return self._turns("evaluate", self._ours.evaluate(loader), refuse=self._claim.refuse_lost)

    # -- what the loop's body may say ---------------------------------------------------------------------------------

    def log(self, **metrics: Any) -> None:
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
        self._checkpointer.set_golden_input(batch, model=model)

    def stop(self) -> None:
        """End all loops at the next boundary, write the final checkpoint and mark the run finished.

        The loops end by themselves. A `break` or `return` after it is a boundary, too: the step counts as complete,
        and its state is saved before the code behind the loop runs. After an exception nothing is saved.
        """
        self._ours.stop()

    def request_save(self) -> None:
        """Save at the next boundary, whatever the policy says."""
        self._claim.refuse_lost()
        self._boundary.save_requested = True

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
        self._claim.refuse_lost()
        return self._loops

    def _turns(self, name: str, loop: Loop[T], *, refuse: Callable[[], None] | None = None) -> Turns[T]:
        # The bound method holds the trainer: one that nobody holds would be closed under its own loop.
        refuse = refuse or self._refuse_closed
        entered, left = partial(self._leaving.entered, name), partial(self._leaving.left, name)
        return Turns(loop, entered=entered, refuse=refuse, left=left)

    def _refuse_closed(self) -> None:
        self._claim.refuse_lost()
        if not self._finalizer.alive:
            raise LoopError(
                "this trainer is closed: it has let go of the run",
                "loop inside the `with` block, and before close()",
            )


def _close(
    owner: int,
    loops: Loops,
    leaving: Leaving,
    checkpointer: Checkpointer,
    data: Data,
    preemption: Preemption,
    bar: TrainingBar,
    claim: Claim,
) -> BaseException | None:
    """Let go of everything; returns what could not be raised where a loop was left."""
    if os.getpid() != owner:
        return None  # a forked child that ends normally owns neither the run nor the loader workers
    owed = leaving.close()
    bar.stop()
    preemption.uninstall()
    data.close()
    checkpointer.close()
    claim.release()
    tell_unsaved(checkpointer, trained=loops.trained, keep="call trainer.stop() before a break or a return")
    return owed
