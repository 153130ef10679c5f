"""Drive one call of `train()` under exact resume. The boundary is inside the fetch of the first batch of an update.

What is private to transformers is in `private`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.data.pass_base import length_of
from resumable.drivers.limits import Limits
from resumable.drivers.loaders import TrainLoader, ValidationLoader
from resumable.drivers.session import LOOP, DriverSession
from resumable.drivers.state import MODEL
from resumable.errors import LoopError
from resumable.loop.launch import Launch
from resumable.prepared.loaders import wrapped_again
from resumable.transformers import private
from resumable.transformers.attributes import Attributes
from resumable.transformers.loaders import DrivenLoader, updates_of
from resumable.transformers.loggers import continue_loggers
from resumable.transformers.protocols import Method, Trainer
from resumable.transformers.tracked_runs import continue_metrics, continue_runs
from resumable.transformers.trainer_state import NAME, HuggingFaceState, exported, limits_of, objects_of
from resumable.utils import failpoints
from resumable.utils.location import absolute_location

WINDOW_SECONDS = 5.0  # how long a signal waits for the end of a window: the grace of a preemption may be short
STATE_FILE = "trainer_state.json"


class Session(DriverSession):
    """One call of `train()`, as a context."""

    NAME = NAME
    NOTHING_LEFT = "nothing left of train(); a larger num_train_epochs or max_steps goes on"
    KEEP = "have a callback set control.should_training_stop"

    def __init__(self, config: Config, trainer: Trainer, attributes: Attributes) -> None:
        self.trainer = trainer
        self._state = HuggingFaceState(trainer, attributes, run=absolute_location(config.run))
        # The loop zeroes gradients of the model alone, and to None: what is left at a boundary is used again.
        config = config.model_copy(update={"gradients": "always"})
        super().__init__(Launch(config, {MODEL: trainer.model, NAME: self._state}, steps="updates"))
        self._folder = tempfile.TemporaryDirectory(prefix="resumable-") if self._resumes else None
        self._loader: DrivenLoader | None = None
        self._turns: Iterator[object] | None = None  # the iterator that the loop reads from
        self._evaluating: list[ValidationLoader] = []
        self._seen = 0  # entries of the log at the last boundary
        self._ended = False
        self._forget_runs: Callable[[], None] = lambda: None
        self._launch.start(idle=lambda: False, close=self.close)

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

    def begin(self, golden: object) -> None:
        """Start training, once the loop has built optimizer and scheduler and before any other callback."""
        private.keep_loss_sum(self.trainer, self._patches)
        late = objects_of(self.trainer)
        self._launch.checkpointer.hold({MODEL: self.trainer.model, NAME: self._state} | late, late=late.keys())
        self._state.attributes.begin()
        if golden is not None:
            self._launch.checkpointer.set_golden_input(golden, model=MODEL)
        if self._resumes:
            state = self.trainer.state
            state.stateful_callbacks = exported(self.trainer)
            state.compute_steps(self.trainer.args, state.max_steps)
            self._restore()
            self._continue_loggers()
        self._launch.preemption.install()

    def _continue_loggers(self) -> None:
        if not self._is_copy:  # a copy of a run must not touch the files of the original
            continue_loggers(self.trainer, self._beside["tensorboard"], keep=not self._trains_more)
            self._forget_runs = continue_runs(self._beside["runs"])
            if self._trains_more:
                continue_metrics(self._beside["runs"], self._beside["metrics"])

    def between_batches(self) -> None:
        """Leave inside a window of accumulation, with the last checkpoint, where a signal has waited for too long."""
        if self._launch.preemption.waiting_seconds > WINDOW_SECONDS:
            self._launch.boundary.leave_if_requested()

    def end(self) -> None:
        """Reach the final boundary. A run that was finished before is restored to where it ended."""
        if self._ended:
            return
        self._ended = True
        if self._launch.progress.pending is None:
            self._launch.boundary.reached(self._instant(last=True))
        else:
            self._return_to_end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish_save()

    def _release(self) -> None:
        self._forget_runs()
        if self._loader is not None:
            self._loader.close()
        self._close_evaluation()
        if self._folder is not None:
            self._folder.cleanup()

    # -- the loaders --------------------------------------------------------------------------------------------------

    def _stand_in(self, get_train_dataloader: Method) -> Method:
        def get(*args: Any, **kwargs: Any) -> Iterable[object]:
            prepared: Iterable[object] = get_train_dataloader(*args, **kwargs)
            if self._loader is not None:
                return prepared  # for a callback, which may read what it likes
            pending = self._launch.progress.pending
            self._loader = DrivenLoader(
                prepared,
                self._launch.data,
                is_read_by_loop=lambda turns: turns is self._turns,
                wanted=self._wanted,
                resume=pending.loaders[0] if pending is not None and pending.loaders else None,
            )
            if pending is not None:
                self._write_state(length_of(self._loader))
            return self._loader

        return get

    def _stand_in_for_evaluation(self, get_eval_dataloader: Method) -> Method:
        def stand_in(plain: Iterable[object]) -> ValidationLoader:
            loader = ValidationLoader(
                plain,
                self._launch.data,
                address=lambda: self._launch.evaluations.take("evaluate", step=self.step),
                epoch=lambda: self.epoch,
                is_read_by_loop=lambda turns: True,
                wanted=self._reach_evaluation,
            )
            self._evaluating.append(loader)
            return loader

        def get(*args: Any, **kwargs: Any) -> Any:
            return wrapped_again(get_eval_dataloader(*args, **kwargs), stand_in)

        return get

    def _reading(self, get_batch_samples: Method) -> Method:
        def get(epoch_iterator: Iterator[object], *args: Any, **kwargs: Any) -> Any:
            self._turns = epoch_iterator
            return get_batch_samples(epoch_iterator, *args, **kwargs)

        return get

    def _wanted(self, loader: TrainLoader) -> bool:
        """Reach the boundary before the first batch of an update is fetched. Returns that no batch is read ahead."""
        failpoints.reach("fetch", self.step)
        if (self.step, self.epoch) != self._place and not loader.exhausted:
            self._reach_boundary()
        return False

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
        counter = trained if self._trains_more else sys.maxsize * updates
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

    @property
    def _trains_more(self) -> bool:
        return not self._start.finished or self._is_extended

    # -- what Hugging Face has ----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The number of optimizer updates."""
        return self.trainer.state.global_step

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        if self._ended:
            return int(self.trainer.state.epoch or 0)
        return self._loader.epoch if self._loader is not None else 0

    @property
    def trained(self) -> int:
        """The number of optimizer updates."""
        return self.step

    def _train_loaders(self) -> Sequence[TrainLoader]:
        return [] if self._loader is None else [self._loader]

    def _limits(self) -> Limits:
        return limits_of(self.trainer)

    def _logged(self) -> dict[str, float]:
        """Return the metrics that were logged since the last boundary, without measurements of time."""
        entries = self.trainer.state.log_history[self._seen :]
        return {
            name: float(value)
            for entry in entries
            for name, value in entry.items()
            if isinstance(value, int | float) and name not in ("step", "epoch") and not name.endswith(_OF_TIME)
        }

    def _mark_logged(self) -> None:
        self._seen = len(self.trainer.state.log_history)

    def _position(self, *, last: bool) -> Position:
        in_progress = [loader for loader in self._train_loaders() if loader.epoch == self.epoch]
        return Position(
            loop=LOOP,
            step=self.step,
            epoch=self.epoch,
            inside_epoch=bool(in_progress),
            loaders=[loader.position() for loader in in_progress],
        )

    def _after_resume(self) -> None:
        private.carry_loss_sum(self.trainer, self._patches)


_OF_TIME = ("_runtime", "_per_second")
