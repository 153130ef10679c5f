"""Drive one Lightning fit under exact resume: open the run, restore at the first fetch, reach the boundaries.

The boundary is inside the fetch of the next batch: the only instant after the module's hooks, a due validation and
the schedulers of a step. What is read of Lightning is in `private`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.drivers.limits import is_raised
from resumable.drivers.loaders import TrainLoader
from resumable.drivers.patches import Patches
from resumable.errors import Interrupted, LoopError
from resumable.lightning import checkpoint_files, loggers, private
from resumable.lightning.fit_counters import FitCounters
from resumable.lightning.loader_requests import Requests
from resumable.lightning.optimizer_changes import OptimizerChanges
from resumable.lightning.protocols import Trainer
from resumable.lightning.stand_ins import StandIns
from resumable.lightning.trainer_state import BESIDE, MODEL, NAME, LightningState, objects_of
from resumable.loop.boundary import Instant
from resumable.loop.launch import Launch
from resumable.utils import failpoints
from resumable.utils.events import emit
from resumable.utils.location import absolute_location

LOOP = "fit"


class Session:
    """One fit, from `on_fit_start` to its end, whatever ends it. Creating it opens the run and restores nothing yet."""

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.trainer = trainer
        self._counters = FitCounters(trainer)
        self._patches = Patches()
        self._requests = Requests(trainer)
        self._changes = OptimizerChanges(trainer)
        self._state = LightningState(
            trainer, run=absolute_location(config.run), requests=self._requests.made, changes=self._changes.made
        )
        self._held, objects = self._changes.current, self._objects()
        self._names = objects.keys() - {MODEL, NAME}  # of all optimizers and schedulers that this launch has seen
        self._launch = launch = Launch(config, objects)
        self._boundary, self._progress = launch.boundary, launch.progress
        self._start, resumes = launch.progress.start, launch.progress.pending is not None
        self._changes.pending = resumes
        self._rebuilt = not resumes  # whether optimizers and schedulers are those of the checkpoint
        self._place = (-1, self._start.epoch)  # (step, epoch) of the last boundary
        self._loaders = StandIns(
            trainer,
            launch,
            self._requests,
            wanted=self._wanted,
            wanted_in_validation=self._wanted_in_validation,
        )
        self._seen: Mapping[str, Any] = {}
        self._take_part()
        launch.start(idle=lambda: private.fit_is_over(trainer), close=self.close)

    # -- what Lightning calls -----------------------------------------------------------------------------------------

    def set_golden_input(self, golden: Any) -> None:
        """Store this input of the module, and the output for it, in every checkpoint."""
        self._launch.checkpointer.set_golden_input(golden, model=MODEL)

    def restore(self, found: loggers.Found) -> None:
        """Restore what hooks and loggers see of a run that resumes. Its exact instant comes with the first fetch."""
        resumed = self._launch.checkpointer.resumed
        if resumed is None:
            return
        if self._start.loop != LOOP:
            raise LoopError(
                f"the checkpoint was taken in {self._start.loop}(), not in a Lightning fit",
                "continue it with the program that began it, or name another folder in `run`",
            )
        self._restore()
        beside = resumed.tree(NAME)[BESIDE]
        nothing_left = self._start.finished and not self._trains_more()
        loggers.cut_back(self.trainer.loggers, beside["loggers"], found, keep=nothing_left)
        if absolute_location(beside["run"]) != absolute_location(self._launch.config.run):
            return
        for callback in checkpoint_files.checkpoint_callbacks(self.trainer):
            self._patches.set(callback, "file_exists", checkpoint_files.overwriting(callback, beside["files"]))

    def begin(self) -> None:
        """Start training, once Lightning has decided whether it restarts a loop."""
        if private.passes_iterator(private.fetcher(self.trainer)):
            raise LoopError(
                "training_step(dataloader_iter) fetches batches by itself, so there is no instant between two steps",
                "have Lightning pass the batches: training_step(batch, batch_idx)",
            )
        self._launch.preemption.install()
        pending = self._progress.pending
        if pending is not None:  # a new run with a `ckpt_path` keeps Lightning's own restart
            private.clear_epoch_loop_restarting(self.trainer)
        if pending is not None and pending.finished:  # it is to train more than before, which begins with hooks
            self._rebuild()
            self._restore()
            private.clear_restarting(self.trainer)
            self._progress.reached()
            self._launch.begin(self._instant)
            self._place = (self._counters.step, self._counters.epoch)

    def end(self) -> None:
        """Reach the final boundary, at the end of training and behind every hook of it."""
        self._loaders.close()
        self._refresh_objects()
        self._boundary.reached(self._instant(last=True))

    def done(self) -> None:
        """End the fit. A run that was finished before has trained nothing, and is restored to where it ended."""
        if self._progress.pending is not None:
            self._rebuild()
            self._restore()
            emit(
                "DONE",
                step=self._start.step,
                epoch=self._start.epoch,
                note="nothing left of fit(); a larger max_epochs, max_steps or max_time goes on",
            )
        self.close()

    def abort(self, error: BaseException) -> None:
        """End the fit after an exception: what is in flight becomes durable, nothing new is saved."""
        if isinstance(error, Interrupted):
            self._launch.preemption.take_back(signal.SIGINT)  # Lightning ignores it from here on, also behind the fit
            private.leave_with(self.trainer, error)
        try:
            self._launch.checkpointer.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Release the run, the loader workers and the signals. Safe to call twice; no-op in a forked child."""
        if self._launch.is_owner:
            self._patches.undo()
            trained = self._counters.trained if self._launch.begun else None
            self._launch.close(trained=trained, keep="set trainer.should_stop before leaving fit early")

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

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _wanted(self, loader: TrainLoader) -> bool:
        """Reach the boundary before a training batch is fetched. Returns whether Lightning reads one batch ahead."""
        data_fetcher = private.fetcher(self.trainer)
        ahead = data_fetcher.length is None
        if loader.index == 0 and not (ahead and data_fetcher.fetched == 0):
            step = self._counters.step
            failpoints.reach("fetch", step)
            if len(self._loaders.train) > 1:  # a single loader does that itself
                for one, turns in zip(self._loaders.train, private.iterators(self.trainer.fit_loop), strict=True):
                    one.turn_to(turns)  # a new epoch begins for all of them with the first fetch of the first
            self._reached(step, self._counters.epoch)
        return ahead

    def _wanted_in_validation(self) -> None:
        failpoints.reach("evaluate", self._counters.step)
        self._boundary.leave_if_requested()

    def _reached(self, step: int, epoch: int) -> None:
        if not self._launch.begun:
            self._begin()
            step, epoch = self._counters.step, self._counters.epoch
        elif step == self._place[0]:
            return  # one of several loaders began again within one fetch
        else:
            self._refresh_objects()
            self._boundary.reached(self._instant())
        self._place = step, epoch
        self._seen = dict(private.callback_metrics(self.trainer))
        self._launch.evaluations.clear()
        self._loaders.close_validation()

    def _begin(self) -> None:
        pending = self._progress.pending
        if pending is None:
            self._refresh_objects()
        self._launch.begin(self._instant)
        if pending is None:
            return
        if len(self._loaders.train) != len(pending.loaders):
            raise self._loaders.other_loaders("fewer")
        self._rebuild()
        self._restore()
        for loader in self._loaders.train:
            loader.open()
        if any(loader.replayed for loader in self._loaders.train):
            self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
        private.clear_restarting(self.trainer)
        self._state.restore_accumulation()
        self._set_epoch_progress()
        if "validate" not in self._requests.made:
            private.drop_loaders(self.trainer.fit_loop.epoch_loop.val_loop)
        self._progress.reached()

    def _set_epoch_progress(self) -> None:
        trained = int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        data_fetcher = private.fetcher(self.trainer)
        data_fetcher.fetched = trained + (data_fetcher.length is None)
        private.set_fetched(
            self.trainer.fit_loop,
            fetched=data_fetcher.fetched,
            restarted=[loader.number > 0 for loader in self._loaders.train],
        )

    def _instant(self, *, last: bool = False) -> Instant:
        step, epoch = self._counters.step, self._counters.epoch
        return self._launch.instant(
            lambda: self._position(last=last),
            self._logged,
            step=step,
            epoch=epoch,
            inside_epoch=not last,
            epoch_ended=epoch != self._place[1],
            last=last,
        )

    def _logged(self) -> dict[str, Any]:
        """Return the metrics that were logged since the last boundary."""
        metrics = private.callback_metrics(self.trainer)
        return {name: value for name, value in metrics.items() if self._seen.get(name) is not value}

    def _position(self, *, last: bool) -> Position:
        trainer = self.trainer
        return Position(
            loop=LOOP,
            step=self._counters.step,
            epoch=self._counters.epoch,
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

    def _restore(self) -> None:
        """Restore everything, bit by bit. Repeated whenever other code ran since."""
        self._restore_objects()
        self._launch.data.load(self._start.samplers)

    def _restore_objects(self) -> None:
        """Restore all but the data: passes that are open stand where they should."""
        resumed = self._launch.checkpointer.resumed
        assert resumed is not None
        self._state.load(resumed)
        self._launch.checkpointer.restore(without=() if self._rebuilt else self._launch.checkpointer.late)
        self._progress.restored()
        self._boundary.forget(stopping=False)
        self.trainer.should_stop = self._start.stopped and not self._trains_more()

    def _trains_more(self) -> bool:
        """Return whether a run that had finished is to train more than before."""
        if not self._start.finished:
            return False
        return is_raised(self._state.limits(), self._state.limits_before)
