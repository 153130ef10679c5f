"""Drive one call of `train()` under exact resume: open the run, restore at the first fetch, reach the boundaries.

The boundary is inside the fetch of the first batch of an update: the only instant after logging, a due evaluation and
the hooks of the update before. What is private to transformers is in `private`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.data.pass_base import length_of
from resumable.drivers.limits import is_raised
from resumable.drivers.loaders import TrainLoader, ValidationLoader
from resumable.drivers.patches import Patches
from resumable.errors import LoopError
from resumable.loop.boundary import Instant
from resumable.loop.launch import Launch
from resumable.transformers import private
from resumable.transformers.loaders import PreparedLoader, updates_of
from resumable.transformers.loggers import continue_loggers
from resumable.transformers.protocols import Method, Trainer
from resumable.transformers.tracked_runs import continue_runs
from resumable.transformers.trainer_state import (
    BESIDE,
    MODEL,
    NAME,
    HuggingFaceState,
    exported,
    limits_of,
    objects_of,
)
from resumable.utils import failpoints
from resumable.utils.events import emit
from resumable.utils.location import absolute_location

LOOP = "fit"
WINDOW_SECONDS = 5.0  # how long a signal waits for the end of a window: the grace of a preemption may be short
STATE_FILE = "trainer_state.json"


class Session:
    """One call of `train()`, as a context. Creating it opens the run and restores nothing yet."""

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.trainer = trainer
        self._patches = Patches()
        self._run = absolute_location(config.run)
        self._state = HuggingFaceState(trainer, run=self._run)
        self._launch = launch = Launch(config, {MODEL: trainer.model, NAME: self._state}, steps="updates")
        self._start, self._resumes = launch.progress.start, launch.progress.pending is not None
        self._folder = tempfile.TemporaryDirectory(prefix="resumable-") if self._resumes else None
        self._loader: PreparedLoader | None = None
        self._turns: Iterator[object] | None = None  # the iterator that the loop reads from
        self._evaluating: list[ValidationLoader] = []
        self._place = (-1, self._start.epoch)  # (step, epoch) of the last boundary
        self._seen = 0  # entries of the log at the last boundary
        self._ended = False
        self._forget_runs: Callable[[], None] = lambda: None
        launch.start(idle=lambda: False, close=self.close)

    @property
    def folder(self) -> str | None:
        """The folder that Hugging Face is to resume from; None for a new run."""
        return self._folder.name if self._folder is not None else None

    # -- from its start to its end ------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        trainer, patches = self.trainer, self._patches
        patches.set(trainer, "get_train_dataloader", self._stand_in(trainer.get_train_dataloader))
        patches.set(trainer, "get_eval_dataloader", self._stand_in_for_evaluation(trainer.get_eval_dataloader))
        patches.set(trainer, "get_batch_samples", self._reading(trainer.get_batch_samples))
        private.before_loading_the_best(trainer, patches, self.end)
        if self._resumes:
            private.load_nothing(trainer, patches)
        return self

    def begin(self) -> None:
        """Start training, once the loop has built optimizer and scheduler and before any other callback."""
        private.keep_loss_sum(self.trainer, self._patches)
        late = objects_of(self.trainer)
        self._launch.checkpointer.hold({MODEL: self.trainer.model, NAME: self._state} | late, late=late.keys())
        if self._resumes:
            state = self.trainer.state
            state.stateful_callbacks = exported(self.trainer)
            state.compute_steps(self.trainer.args, state.max_steps)
            self._restore()
            self._continue_loggers()
        self._launch.preemption.install()

    def _continue_loggers(self) -> None:
        if self._beside["run"] == self._run:  # a copy of a run must not touch the files of the original
            continue_loggers(self.trainer, self._beside["tensorboard"], keep=not self._trains_more())
            self._forget_runs = continue_runs(self._beside["runs"])

    def end(self) -> None:
        """Reach the final boundary. A run that was finished before is restored to where it ended."""
        if self._ended:
            return
        self._ended = True
        if self._launch.progress.pending is None:
            self._launch.boundary.reached(self._instant(last=True))
            return
        self._restore()
        emit(
            "DONE",
            step=self._start.step,
            epoch=self._start.epoch,
            note="nothing left of train(); a larger num_train_epochs or max_steps goes on",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._launch.checkpointer.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Release the run, the loader workers and the signals. Safe to call twice; no-op in a forked child."""
        if not self._launch.is_owner:
            return
        self._patches.undo()
        self._forget_runs()
        self._close_loaders()
        if self._folder is not None:
            self._folder.cleanup()
        trained = self.trainer.state.global_step if self._launch.begun else None
        self._launch.close(trained=trained, keep="have a callback set control.should_training_stop")

    def between_batches(self) -> None:
        """Leave inside a window of accumulation, with the last checkpoint, where a signal has waited for too long."""
        if self._launch.preemption.waiting_seconds > WINDOW_SECONDS:
            self._launch.boundary.leave_if_requested()

    # -- the loaders --------------------------------------------------------------------------------------------------

    def _stand_in(self, get_train_dataloader: Method) -> Method:
        def get(*args: Any, **kwargs: Any) -> Iterable[object]:
            prepared: Iterable[object] = get_train_dataloader(*args, **kwargs)
            if self._loader is not None:
                return prepared  # for a callback, which may read what it likes
            pending = self._launch.progress.pending
            self._loader = PreparedLoader(
                prepared,
                self._launch.data,
                is_read_by_loop=lambda turns: turns is self._turns,
                wanted=self._wanted,
                resume=pending.loaders[0] if pending is not None and pending.loaders else None,
                non_blocking=self.trainer.accelerator.non_blocking,
            )
            if pending is not None:
                self._write_state(length_of(self._loader))
            return self._loader

        return get

    def _stand_in_for_evaluation(self, get_eval_dataloader: Method) -> Method:
        def get(*args: Any, **kwargs: Any) -> Iterable[object]:
            prepared: Iterable[object] = get_eval_dataloader(*args, **kwargs)
            loader = ValidationLoader(
                private.inside(prepared),
                self._launch.data,
                address=lambda: self._launch.evaluations.take("evaluate", step=self.trainer.state.global_step),
                epoch=lambda: self._epoch,
                is_read_by_loop=lambda turns: True,
                wanted=self._wanted_in_evaluation,
            )
            self._evaluating.append(loader)
            return private.around(prepared, loader)

        return get

    def _reading(self, get_batch_samples: Method) -> Method:
        def get(epoch_iterator: Iterator[object], *args: Any, **kwargs: Any) -> Any:
            self._turns = epoch_iterator
            return get_batch_samples(epoch_iterator, *args, **kwargs)

        return get

    def _close_loaders(self) -> None:
        if self._loader is not None:
            self._loader.close()
        self._close_evaluation()

    def _close_evaluation(self) -> None:
        while self._evaluating:
            self._evaluating.pop().close()

    # -- where Hugging Face begins ------------------------------------------------------------------------------------

    def _write_state(self, length: int | None) -> None:
        """Write the file of which Hugging Face computes epoch and update to begin with.

        It divides one counter by the updates of an epoch. So that counter is written as if no epoch had ended early.
        """
        args = self.trainer.args
        assert self.folder is not None
        updates = max(updates_of(length, args.gradient_accumulation_steps), 1) if length is not None else args.max_steps
        trained = self._start.epoch * updates + self._updates_in_epoch()
        counter = trained if self._trains_more() else sys.maxsize * updates
        values = {name: getattr(args, name) for name in ("logging_steps", "eval_steps", "save_steps")}
        values |= {"global_step": counter, "train_batch_size": getattr(args, "train_batch_size", None)}
        Path(self.folder, STATE_FILE).write_text(json.dumps(values), "utf-8")

    def _updates_in_epoch(self) -> int:
        accumulated = self.trainer.args.gradient_accumulation_steps
        batches = self._start.loaders[0]["batches"] if self._start.loaders else 0
        before = self._beside["accumulated"]
        if batches and accumulated != before:
            raise LoopError(
                f"gradient_accumulation_steps is {accumulated}, and the checkpoint within epoch {self._start.epoch} "
                f"was taken with {before}",
                "set it as it was; it may change between two epochs",
            )
        return updates_of(batches, accumulated)

    def _trains_more(self) -> bool:
        return not self._start.finished or is_raised(limits_of(self.trainer), self._beside["limits"])

    @property
    def _beside(self) -> dict[str, Any]:
        resumed = self._launch.checkpointer.resumed
        assert resumed is not None
        beside: dict[str, Any] = resumed.tree(NAME)[BESIDE]
        return beside

    # -- the boundary -------------------------------------------------------------------------------------------------

    @property
    def _epoch(self) -> int:
        return self._loader.epoch if self._loader is not None else 0

    def _wanted(self, loader: TrainLoader) -> bool:
        """Reach the boundary before the first batch of an update is fetched. Returns that no batch is read ahead."""
        step = self.trainer.state.global_step
        failpoints.reach("fetch", step)
        if (step, self._epoch) != self._place and not loader.exhausted:
            self._reached()
        return False

    def _wanted_in_evaluation(self) -> None:
        failpoints.reach("evaluate", self.trainer.state.global_step)
        self._launch.boundary.leave_if_requested()

    def _reached(self) -> None:
        if self._launch.begun:
            self._launch.boundary.reached(self._instant())
        else:
            self._begin()
        self._place = self.trainer.state.global_step, self._epoch
        self._seen = len(self.trainer.state.log_history)
        self._launch.evaluations.clear()
        self._close_evaluation()

    def _begin(self) -> None:
        assert self._loader is not None
        self._launch.begin(self._instant)
        if self._launch.progress.pending is None:
            return
        self._restore()
        self._loader.open()
        if self._loader.replayed:
            self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
        private.carry_loss_sum(self.trainer, self._patches)
        self._launch.progress.reached()

    def _instant(self, *, last: bool = False) -> Instant:
        epoch = self._completed if last else self._epoch
        return self._launch.instant(
            lambda: self._position(last=last),
            self._logged,
            step=self.trainer.state.global_step,
            epoch=epoch,
            inside_epoch=not last,
            epoch_ended=epoch != self._place[1],
            last=last,
        )

    @property
    def _completed(self) -> int:
        """Return the number of completed epochs, at the end of the training."""
        return int(self.trainer.state.epoch or 0)

    def _logged(self) -> dict[str, float]:
        """Return the metrics that were logged since the last boundary, without measurements of time."""
        entries = self.trainer.state.log_history[self._seen :]
        return {
            name: float(value)
            for entry in entries
            for name, value in entry.items()
            if isinstance(value, int | float) and name not in ("step", "epoch") and not name.endswith(_OF_TIME)
        }

    def _position(self, *, last: bool) -> Position:
        epoch = self._completed if last else self._epoch
        inside = self._loader is not None and epoch == self._epoch
        return Position(
            loop=LOOP,
            step=self.trainer.state.global_step,
            epoch=epoch,
            inside_epoch=inside,
            loaders=[self._loader.position()] if inside and self._loader is not None else [],
        )

    # -- restoring ----------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Restore everything, bit by bit. Repeated whenever other code ran since."""
        self._restore_objects()
        self._launch.data.load(self._start.samplers)

    def _restore_objects(self) -> None:
        """Restore all but the data: passes that are open stand where they should."""
        self._launch.checkpointer.restore()
        self._launch.progress.restored()
        self._launch.boundary.forget(stopping=False)


_OF_TIME = ("_runtime", "_per_second")
