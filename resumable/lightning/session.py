"""Drive one Lightning fit under exact resume. The boundary is inside the fetch of the next batch.

What is read of Lightning is in `private`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.drivers.limits import Limits
from resumable.drivers.loaders import TrainLoader
from resumable.drivers.session import LOOP, DriverSession
from resumable.drivers.state import MODEL
from resumable.errors import CellInterrupted, Interrupted, LoopError
from resumable.lightning import checkpoint_files, loggers, private
from resumable.lightning.fit_counters import FitCounters
from resumable.lightning.loader_requests import Requests
from resumable.lightning.optimizer_changes import OptimizerChanges
from resumable.lightning.protocols import Trainer
from resumable.lightning.stand_ins import StandIns
from resumable.lightning.trainer_state import NAME, LightningState, objects_of
from resumable.loop.launch import Launch
from resumable.state.objects.pruning import pruned_names
from resumable.utils import failpoints
from resumable.utils.location import absolute_location


class Session(DriverSession):
    """One fit, from `on_fit_start` to its end, whatever ends it."""

    NAME = NAME
    NOTHING_LEFT = "nothing left of fit(); a larger max_epochs, max_steps or max_time goes on"
    KEEP = "set trainer.should_stop before leaving fit early"

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.trainer = trainer
        self._counters = FitCounters(trainer)
        self._requests = Requests(trainer)
        self._changes = OptimizerChanges(trainer)
        self._state = LightningState(
            trainer, run=absolute_location(config.run), requests=self._requests.made, changes=self._changes.made
        )
        self._held, objects = self._changes.current, self._objects()
        self._names = objects.keys() - {MODEL, NAME}  # of all optimizers and schedulers that this launch has seen
        super().__init__(Launch(config, objects))
        resumed = self._launch.checkpointer.resumed
        if resumed is not None and pruned_names(resumed.records[MODEL]):
            private.repeat_lottery_tickets(trainer, epochs=self._start.epoch)
        self._changes.pending = self._resumes
        self._rebuilt = not self._resumes  # whether optimizers and schedulers are those of the checkpoint
        self._loaders = StandIns(
            trainer,
            self._launch,
            self._requests,
            wanted=self._wanted,
            wanted_in_validation=self._reach_evaluation,
        )
        self._seen: Mapping[str, Any] = {}
        self._take_part()
        self._launch.start(idle=lambda: private.fit_is_over(trainer), close=self.close)

    # -- what Lightning calls -----------------------------------------------------------------------------------------

    def restore(self, found: loggers.Found) -> None:
        """Restore what hooks and loggers see of a run that resumes. Its exact instant comes with the first fetch."""
        if not self._resumes:
            return
        if self._start.loop != LOOP:
            raise LoopError(
                f"the checkpoint was taken in {self._start.loop}(), not in a Lightning fit",
                "continue it with the program that began it, or name another folder in `run`",
            )
        self._restore()
        nothing_left = self._start.finished and not self._is_extended
        loggers.cut_back(self.trainer.loggers, self._beside["loggers"], found, keep=nothing_left)
        if self._is_copy:
            return
        for callback in checkpoint_files.checkpoint_callbacks(self.trainer):
            self._patches.set(callback, "file_exists", checkpoint_files.overwriting(callback, self._beside["files"]))

    def begin(self) -> None:
        """Start training, once Lightning has decided whether it restarts a loop."""
        if private.passes_iterator(private.fetcher(self.trainer)):
            raise LoopError(
                "training_step(dataloader_iter) fetches batches by itself, so there is no instant between two steps",
                "have Lightning pass the batches: training_step(batch, batch_idx)",
            )
        self._launch.preemption.install()
        pending = self._launch.progress.pending
        if pending is not None:  # a new run with a `ckpt_path` keeps Lightning's own restart
            private.clear_epoch_loop_restarting(self.trainer)
        if pending is not None and pending.finished:  # it is to train more than before, which begins with hooks
            self._rebuild()
            self._restore()
            private.clear_restarting(self.trainer)
            self._launch.progress.reached()
            self._launch.begin(self._instant)
            self._place = (self.step, self.epoch)

    def end(self) -> None:
        """Reach the final boundary, at the end of training and behind every hook of it."""
        self._loaders.close()
        self._refresh_objects()
        self._launch.boundary.reached(self._instant(last=True))

    def done(self) -> None:
        """End the fit. A run that was finished before has trained nothing, and is restored to where it ended."""
        if self._launch.progress.pending is not None:
            self._rebuild()
            self._return_to_end()
        self.close()

    def abort(self, error: BaseException) -> None:
        """End the fit after an exception: what is in flight becomes durable, nothing new is saved."""
        if isinstance(error, (Interrupted, CellInterrupted)):
            self._launch.preemption.take_back(signal.SIGINT)  # Lightning ignores it from here on, also behind the fit
            private.leave_with(self.trainer, error)
        self.finish_save()

    # -- taking part --------------------------------------------------------------------------------------------------

    def _take_part(self) -> None:
        strategy, profiler = self.trainer.strategy, self.trainer.profiler
        self._loaders.install(self._patches, strategy)
        self._patches.set(strategy, "on_train_end", self._ending(strategy.on_train_end))
        self._patches.set(profiler, "profile", self._changes.watching(profiler.profile))

    def _ending(self, on_train_end: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            on_train_end()
            self.end()

        return end

    def _wanted(self, loader: TrainLoader) -> bool:
        """Reach the boundary before a training batch is fetched. Returns whether Lightning reads one batch ahead."""
        data_fetcher = private.fetcher(self.trainer)
        ahead = data_fetcher.length is None
        if loader.index == 0 and not (ahead and data_fetcher.fetched == 0):
            failpoints.reach("fetch", self.step)
            if len(self._loaders.train) > 1:  # a single loader does that itself
                for one, turns in zip(self._loaders.train, private.iterators(self.trainer.fit_loop), strict=True):
                    one.turn_to(turns)  # a new epoch begins for all of them with the first fetch of the first
            if self.step != self._place[0] or not self._launch.begun:  # not one of several loaders within one fetch
                self._reach_boundary()
        return ahead

    # -- what Lightning has -------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The number of trained batches."""
        return self._counters.step

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        return self._counters.epoch

    @property
    def trained(self) -> int:
        """The number of trained batches whose hooks have run, too."""
        return self._counters.trained

    def _train_loaders(self) -> Sequence[TrainLoader]:
        return self._loaders.train

    def _limits(self) -> Limits:
        return self._state.limits()

    def _logged(self) -> dict[str, Any]:
        metrics = private.callback_metrics(self.trainer)
        return {name: value for name, value in metrics.items() if self._seen.get(name) is not value}

    def _mark_logged(self) -> None:
        self._seen = dict(private.callback_metrics(self.trainer))

    def _close_evaluation(self) -> None:
        self._loaders.close_validation()

    def _position(self, *, last: bool) -> Position:
        trainer = self.trainer
        return Position(
            loop=LOOP,
            step=self.step,
            epoch=self.epoch,
            total=trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
            inside_epoch=not last,
            loaders=[] if last else [loader.position() for loader in self._loaders.train],
            stopped=bool(trainer.should_stop),
        )

    # -- the objects --------------------------------------------------------------------------------------------------

    def _objects(self) -> dict[str, Any]:
        return objects_of(self.trainer) | {NAME: self._state}

    def _refresh_objects(self) -> None:
        """Pass the current optimizers and schedulers to the checkpointer: a hook may have replaced them."""
        self._changes.refuse_unseen()
        now = self._changes.current
        if not now.is_same(self._held):
            self._held, objects = now, self._objects()
            self._names |= objects.keys() - {MODEL, NAME}
            self._launch.checkpointer.hold(objects, late=self._names)

    def _rebuild(self) -> None:
        """Call, once, the hooks that had replaced optimizers before the checkpoint, so that those can be restored."""
        if not self._rebuilt:
            self._rebuilt = True
            self._changes.repeat()
            self._refresh_objects()

    # -- restoring ----------------------------------------------------------------------------------------------------

    def _before_resume(self, pending: Position) -> None:
        if len(self._loaders.train) != len(pending.loaders):
            raise self._loaders.other_loaders("fewer")
        self._rebuild()

    def _after_resume(self) -> None:
        private.clear_restarting(self.trainer)
        self._state.restore_accumulation()
        self._set_epoch_progress()
        if "validate" not in self._requests.made:
            private.drop_loaders(self.trainer.fit_loop.epoch_loop.val_loop)

    def _set_epoch_progress(self) -> None:
        trained = int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        data_fetcher = private.fetcher(self.trainer)
        data_fetcher.fetched = trained + (data_fetcher.length is None)
        private.set_fetched(
            self.trainer.fit_loop,
            fetched=data_fetcher.fetched,
            restarted=[loader.number > 0 for loader in self._loaders.train],
        )

    def _absent(self) -> Collection[str]:
        return () if self._rebuilt else self._launch.checkpointer.late

    def _restore_objects(self) -> None:
        resumed = self._launch.checkpointer.resumed
        assert resumed is not None
        self._state.load(resumed)
        super()._restore_objects()
        self.trainer.should_stop = self._start.stopped and not self._is_extended
