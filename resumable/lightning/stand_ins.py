"""The loaders that stand in for the user's in one fit: created when Lightning requests them, closed when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from resumable.drivers.loaders import TrainLoader, ValidationLoader
from resumable.drivers.patches import Patches
from resumable.errors import LoopError
from resumable.lightning import private
from resumable.lightning.fit_counters import FitCounters
from resumable.lightning.loader_requests import Requests
from resumable.lightning.protocols import EvaluationLoop, FitLoop, Strategy, Trainer
from resumable.loop.launch import Launch

S = TypeVar("S", TrainLoader, ValidationLoader)


class StandIns:
    """The stand-ins for training and for validation, in the order of the user's loaders.

    `wanted` is called before each batch of the training and returns whether Lightning reads one batch ahead;
    `wanted_in_validation` is called before each batch of the validation.
    """

    def __init__(
        self,
        trainer: Trainer,
        launch: Launch,
        requests: Requests,
        *,
        wanted: Callable[[TrainLoader], bool],
        wanted_in_validation: Callable[[], None],
    ) -> None:
        self.train: list[TrainLoader] = []
        self.validate: list[ValidationLoader] = []
        self._fit_loop = trainer.fit_loop
        self._counters = FitCounters(trainer)
        self._launch = launch
        self._requests = requests
        self._wanted = wanted
        self._wanted_in_validation = wanted_in_validation
        self._stand_in: Callable[[Iterable[object]], object] | None = None  # set while loaders are requested

    def install(self, patches: Patches, strategy: Strategy) -> None:
        """Replace each loader that Lightning requests for the fit by a stand-in."""
        private.drop_loaders(self._fit_loop)  # `estimated_stepping_batches` requests them too early
        validation_loop = self._fit_loop.epoch_loop.val_loop
        training = self._requesting(self._fit_loop, "train", self.train, self._train_loader)
        validation = self._requesting(validation_loop, "validate", self.validate, self._validation_loader)
        patches.set(self._fit_loop, "setup_data", training)
        patches.set(validation_loop, "setup_data", validation)
        patches.set(strategy, "process_dataloader", self._processing(strategy.process_dataloader))

    def other_loaders(self, what: str) -> LoopError:
        """Return the error for `what` ("more" or "fewer") training loaders than the checkpoint has."""
        return LoopError(
            f"fit() was given {what} training loaders than the {len(self._launch.progress.start.loaders)} of the "
            "checkpoint",
            "pass the same loaders in the same order",
        )

    def close_validation(self) -> None:
        """Close the passes of the validation."""
        for loader in self.validate:
            loader.close()

    def close(self) -> None:
        """Close all passes."""
        for loader in self.train:
            loader.close()
        self.close_validation()

    def _requesting(
        self,
        loop: FitLoop | EvaluationLoop,
        slot: str,
        stand_ins: list[S],
        create: Callable[[Iterable[object], int], S],
    ) -> Callable[[], None]:
        setup_data = loop.setup_data

        def stand_in(loader: Iterable[object]) -> S:
            stand_ins.append(create(loader, len(stand_ins)))
            return stand_ins[-1]

        def setup() -> None:
            if not private.requests_loaders(loop):
                return setup_data()
            while stand_ins:
                stand_ins.pop().close()
            self._stand_in = stand_in
            try:
                return self._requests.make(slot, setup_data, again=self._launch.progress.pending is not None)
            finally:
                self._stand_in = None

        return setup

    def _processing(self, process: Callable[[object], Iterable[object]]) -> Callable[[object], object]:
        def process_dataloader(loader: object) -> object:
            processed = process(loader)
            return processed if self._stand_in is None else self._stand_in(processed)

        return process_dataloader

    def _train_loader(self, loader: Iterable[object], index: int) -> TrainLoader:
        pending = self._launch.progress.pending
        positions = pending.loaders if pending is not None else []
        if positions and index >= len(positions):
            raise self.other_loaders("more")
        return TrainLoader(
            loader,
            self._launch.data,
            index=index,
            epoch=lambda: self._counters.epoch,
            is_read_by_loop=partial(private.reads_from, self._fit_loop),
            wanted=self._wanted,
            resume=positions[index] if positions else None,
        )

    def _validation_loader(self, loader: Iterable[object], index: int) -> ValidationLoader:
        return ValidationLoader(
            loader,
            self._launch.data,
            address=lambda: self._launch.evaluations.take(f"validate:{index}", step=self._counters.step),
            epoch=lambda: self._counters.epoch,
            is_read_by_loop=partial(private.reads_from, self._fit_loop.epoch_loop.val_loop),
            wanted=self._wanted_in_validation,
        )
