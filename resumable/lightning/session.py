"""One fit under exact resume: opens the run, stands in the checkpoint's instant at the first fetch, sees boundaries.

The boundary is inside the fetch of the next batch: the only instant after the module's hooks, a due validation and
the schedulers of a step. Knows what a `Boundary` wants to know of Lightning; what it asks of it stands in `private`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.data.addresses import PassAddress
from resumable.data.open_passes import Data
from resumable.errors import Interrupted, LoopError
from resumable.lightning import checkpoint_files, loggers, private
from resumable.lightning.loader_requests import Requests
from resumable.lightning.loaders import TrainLoader, ValidationLoader
from resumable.lightning.optimizer_changes import Changes
from resumable.lightning.trainer_state import BESIDE, MODEL, NAME, LightningState, objects_of, place
from resumable.loop.boundary import Boundary, Instant
from resumable.loop.claims import Claim
from resumable.loop.launch import announce, skipping, tell_unsaved
from resumable.loop.metrics import as_numbers
from resumable.loop.preemption import Preemption
from resumable.loop.progress_bar import TrainingBar
from resumable.utils import failpoints
from resumable.utils.events import emit, warn

LOOP = "fit"


class Session:
    """From `on_fit_start` to the end of the fit, whichever it is. Opening it restores nothing yet."""

    def __init__(self, config: Config, trainer: Any) -> None:
        self.trainer = trainer
        self._config = config
        self._owner = os.getpid()
        self._requests = Requests(trainer)
        self._changes = Changes(trainer)
        self._state = LightningState(
            trainer, run=place(config.run), requests=self._requests.made, changes=self._changes.made
        )
        self._held, objects = self._changes.known, self._objects()
        self._names = objects.keys() - {MODEL, NAME}  # of all optimizers and schedulers that this launch has seen
        self._claim = Claim(config)
        self._checkpointer = Checkpointer(config, objects)
        self._preemption = Preemption(config.signals, warn)
        self._boundary = Boundary(config, self._checkpointer, self._preemption)
        resumed = self._checkpointer.resumed
        self._bar = TrainingBar(config.progress, resumed_from=resumed.step if resumed else None)
        self._data = Data(
            self._checkpointer.data_seed,
            signals=self._preemption.numbers,
            warn=warn,
            skipping=skipping(self._bar, self._boundary),
            generator_rule=self._checkpointer.generator_rule,
        )
        self._start = self._checkpointer.position()
        self._pending = self._changes.pending = resumed is not None  # until the checkpoint's instant is reached
        self._rebuilt = resumed is None  # whether optimizers and schedulers are those of the checkpoint
        self._begun = False
        self._told = False  # whether it was said what is in no checkpoint
        self._place = (-1, self._start.epoch if resumed else 0)  # (step, epoch) of the last boundary
        self._stand_ins: dict[str, list[Any]] = {"train": [], "validate": []}
        self._slot: str | None = None  # whose loaders are being asked for
        self._evaluations: dict[int, int] = {}  # by validation loader, since the last boundary
        self._seen: Mapping[str, Any] = {}
        self._patched: list[tuple[Any, str]] = []
        self._take_part()
        self._claim.hold(
            self._checkpointer.attempt.number, idle=lambda: private.fit_is_over(trainer), let_go=self.close
        )
        announce(config, self._checkpointer)

    # -- where the run stands -----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Batches that were trained in the whole run."""
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)

    @property
    def trained(self) -> int:
        """Those of them whose hooks have run, too."""
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.completed)

    @property
    def epoch(self) -> int:
        """Epochs completed, which is the number of the one in progress."""
        return int(self.trainer.fit_loop.epoch_progress.current.processed)

    @property
    def _train(self) -> list[TrainLoader]:
        return self._stand_ins["train"]

    # -- what Lightning calls -----------------------------------------------------------------------------------------

    def know(self, golden: Any) -> None:
        """Have every checkpoint carry this input of the module."""
        self._checkpointer.set_golden_input(golden, model=MODEL)

    def restore(self, found: loggers.Found) -> None:
        """Of a run that goes on: hooks and loggers see it as it stood from here on; its exact instant comes later."""
        resumed = self._checkpointer.resumed
        if resumed is None:
            return
        if self._start.loop != LOOP:
            raise LoopError(
                f"the checkpoint was taken in {self._start.loop}(), not in a Lightning fit",
                "continue it with the program that began it, or name another folder in `run`",
            )
        self._restore()
        beside = resumed.tree(NAME)[BESIDE]
        nothing_left = self._start.finished and not self._goes_on()
        loggers.cut_back(self.trainer.loggers, beside["loggers"], found, keep=nothing_left)
        if place(beside["run"]) != place(self._config.run):
            return
        for callback in checkpoint_files.checkpoint_callbacks(self.trainer):
            self._patch(callback, "file_exists", checkpoint_files.overwriting(callback, beside["files"]))

    def begin(self) -> None:
        """At the start of training, when Lightning has made up its mind about a restart."""
        if private.gives_iterator(private.fetcher(self.trainer)):
            raise LoopError(
                "training_step(dataloader_iter) fetches batches by itself, so there is no instant between two steps",
                "let Lightning hand over the batches: training_step(batch, batch_idx)",
            )
        self._preemption.install()
        if self._pending:  # of a new run with a `ckpt_path`, Lightning's own restart is what was asked for
            private.start_epoch_loop_afresh(self.trainer)
        if self._pending and self._start.finished:  # more is asked for than before, and it begins with hooks
            self._rebuild()
            self._restore()
            private.go_on(self.trainer)
            self._pending, self._begun, self._place = False, True, (self.step, self.epoch)

    def end(self) -> None:
        """At the end of training, behind every hook of it: the final boundary."""
        for loader in (*self._stand_ins["train"], *self._stand_ins["validate"]):
            loader.close()
        self._look_again()
        self._boundary.reached(self._instant(self.step, self.epoch, last=True))

    def done(self) -> None:
        """At the end of the fit. Of a run that was finished before nothing was trained: stand where it ended."""
        if self._pending:
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
        """After an exception: what is in flight becomes durable, nothing new is begun."""
        if isinstance(error, Interrupted):
            self._preemption.take_back(signal.SIGINT)  # Lightning ignores it from here on, also behind the fit
            private.leave_with(self.trainer, error)
        try:
            self._checkpointer.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the run, the loader workers and the signals; safe to call twice."""
        if os.getpid() != self._owner:
            return
        while self._patched:
            owner, name = self._patched.pop()
            vars(owner).pop(name, None)
        self._bar.stop()
        self._preemption.uninstall()
        self._data.close()
        self._checkpointer.close()
        self._claim.release()
        if not self._told:
            self._told = True
            trained = self.trained if self._begun and not self._boundary.preempted else None
            tell_unsaved(self._checkpointer, trained=trained, keep="set trainer.should_stop before leaving fit early")

    # -- taking part --------------------------------------------------------------------------------------------------

    def _take_part(self) -> None:
        trainer = self.trainer
        fit, strategy = trainer.fit_loop, trainer.strategy
        private.forget_loaders(fit)  # `estimated_stepping_batches` in configure_optimizers asks for them too early
        for loop, slot in ((fit, "train"), (fit.epoch_loop.val_loop, "validate")):
            self._patch(loop, "setup_data", self._requesting(loop, slot, loop.setup_data))
        self._patch(strategy, "process_dataloader", self._standing_in(strategy.process_dataloader))
        self._patch(strategy, "on_train_end", self._ending(strategy.on_train_end))
        self._patch(trainer.profiler, "profile", self._changes.watching(trainer.profiler.profile))

    def _patch(self, owner: Any, name: str, value: Callable[..., Any]) -> None:
        setattr(owner, name, value)
        self._patched.append((owner, name))

    def _requesting(self, loop: Any, slot: str, setup_data: Callable[[], None]) -> Callable[[], None]:
        def setup() -> None:
            if not private.wants_loaders(loop):
                return setup_data()
            _close_all(self._stand_ins[slot])
            self._slot = slot
            try:
                return self._requests.make(slot, setup_data, again=self._pending)
            finally:
                self._slot = None

        return setup

    def _standing_in(self, process: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def process_dataloader(loader: Any) -> Any:
            loader = process(loader)
            if self._slot is None:
                return loader
            stand_ins = self._stand_ins[self._slot]
            make = self._train_loader if self._slot == "train" else self._validation_loader
            stand_ins.append(make(loader, len(stand_ins)))
            return stand_ins[-1]

        return process_dataloader

    def _train_loader(self, loader: Any, index: int) -> TrainLoader:
        positions = self._start.loaders if self._pending else []
        if positions and index >= len(positions):
            raise self._other_loaders("more")
        return TrainLoader(
            loader,
            self._data,
            index=index,
            epoch=lambda: self.epoch,
            asks=partial(private.holds, self.trainer.fit_loop),
            wanted=self._wanted,
            resume=positions[index] if positions else None,
        )

    def _validation_loader(self, loader: Any, index: int) -> ValidationLoader:
        return ValidationLoader(
            loader,
            self._data,
            address=lambda: self._validation_address(index),
            epoch=lambda: self.epoch,
            asks=partial(private.holds, self.trainer.fit_loop.epoch_loop.val_loop),
            wanted=self._wanted_in_validation,
        )

    def _validation_address(self, index: int) -> PassAddress:
        number = self._evaluations.get(index, 0)
        self._evaluations[index] = number + 1
        return PassAddress(loop=f"validate:{index}", number=number, epoch=self.step)

    def _other_loaders(self, what: str) -> LoopError:
        return LoopError(
            f"fit() was given {what} training loaders than the {len(self._start.loaders)} of the checkpoint",
            "give it the same loaders in the same order",
        )

    def _ending(self, on_train_end: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            on_train_end()
            self.end()

        return end

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _wanted(self, loader: TrainLoader) -> bool:
        """A batch is about to be fetched for training; returns whether Lightning reads one batch ahead."""
        data_fetcher = private.fetcher(self.trainer)
        ahead = data_fetcher.length is None
        if loader.index == 0 and not (ahead and data_fetcher.fetched == 0):
            step = self.step
            failpoints.reach("fetch", step)
            if len(self._train) > 1:  # one alone has turned itself
                for one, turns in zip(self._train, private.turns(self.trainer.fit_loop), strict=True):
                    one.turn_to(turns)  # a new epoch begins for all of them with the first fetch of the first
            self._reached(step, self.epoch)
        return ahead

    def _wanted_in_validation(self) -> None:
        failpoints.reach("evaluate", self.step)
        self._boundary.leave_if_asked()

    def _reached(self, step: int, epoch: int) -> None:
        if not self._begun:
            self._begun = True
            self._begin()
            step, epoch = self.step, self.epoch
        elif step == self._place[0]:
            return  # one of several loaders began again within one fetch
        else:
            self._look_again()
            self._boundary.reached(self._instant(step, epoch))
        self._place = step, epoch
        self._seen = dict(private.callback_metrics(self.trainer))
        self._evaluations.clear()
        for loader in self._stand_ins["validate"]:
            loader.close()

    def _begin(self) -> None:
        if not self._pending:
            self._look_again()
            self._boundary.save_start(self._instant(self.step, self.epoch))
            return
        if len(self._train) != len(self._start.loaders):
            raise self._other_loaders("fewer")
        self._rebuild()
        self._restore()
        for loader in self._train:
            loader.open()
        if any(loader.replayed for loader in self._train):
            self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
        private.go_on(self.trainer)
        self._state.go_on_accumulating()
        self._stand_in_epoch()
        if "validate" not in self._requests.made:
            private.forget_loaders(self.trainer.fit_loop.epoch_loop.val_loop)
        self._pending = False

    def _stand_in_epoch(self) -> None:
        trained = int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        data_fetcher = private.fetcher(self.trainer)
        data_fetcher.fetched = trained + (data_fetcher.length is None)
        private.set_turn(
            self.trainer.fit_loop, turn=data_fetcher.fetched, begun_again=[loader.number > 0 for loader in self._train]
        )

    def _instant(self, step: int, epoch: int, *, last: bool = False) -> Instant:
        return Instant(
            step=step,
            epoch=epoch,
            inside_epoch=not last,
            logged=self._logged,
            position=lambda finished: self._position(finished=finished, last=last),
            pass_over=False,
            epoch_ended=epoch != self._place[1],
            last=last,
        )

    def _logged(self) -> dict[str, Any]:
        """The numbers that became known since the last boundary."""
        metrics = private.callback_metrics(self.trainer)
        return {name: value for name, value in metrics.items() if self._seen.get(name) is not value}

    def _position(self, *, finished: bool, last: bool) -> Position:
        trainer = self.trainer
        return Position(
            loop=LOOP,
            step=self.step,
            epoch=self.epoch,
            total=trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
            inside_epoch=not last,
            loaders=[] if last else [loader.position() for loader in self._train],
            samplers=self._data.state(),
            metrics=as_numbers(self._logged()),
            finished=finished,
            stopped=bool(trainer.should_stop),
        )

    # -- the objects --------------------------------------------------------------------------------------------------

    def _objects(self) -> dict[str, Any]:
        return objects_of(self.trainer) | {NAME: self._state}

    def _look_again(self) -> None:
        """Have the checkpointer hold what is in place now: a hook may have put other optimizers there."""
        self._changes.refuse_unseen()
        now = self._changes.known
        if not now.is_same(self._held):
            self._held, objects = now, self._objects()
            self._names |= objects.keys() - {MODEL, NAME}
            self._checkpointer.hold(objects, late=self._names)

    def _rebuild(self) -> None:
        """Put in place, once, what hooks had put in place before the checkpoint: only now can it be restored."""
        if not self._rebuilt:
            self._rebuilt = True
            self._changes.make_again()
            self._look_again()

    # -- restoring ----------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """What hooks may see first, then everything bit by bit; called again whenever other code ran since."""
        self._restore_objects()
        self._data.load(self._start.samplers)

    def _restore_objects(self) -> None:
        """All but the data: passes that are open stand where they are to."""
        resumed = self._checkpointer.resumed
        assert resumed is not None
        self._state.load(resumed)
        self._checkpointer.restore(without=() if self._rebuilt else self._checkpointer.late)
        self._boundary.forget(stopping=False)
        self.trainer.should_stop = self._start.stopped and not self._goes_on()

    def _goes_on(self) -> bool:
        """Whether a run that had finished is asked for more than before."""
        if not self._start.finished:
            return False
        before, now = self._state.limits_before, self._state.limits()
        return any(now[name] != limit and _is_more(now[name], limit) for name, limit in before.items())


def _is_more(now: float | None, before: float | None) -> bool:
    unlimited = now is None or now < 0
    return unlimited or (before is not None and 0 <= before < (now or 0))


def _close_all(loaders: list[Any]) -> None:
    while loaders:
        loaders.pop().close()
