"""The callback that makes a Lightning fit resume exactly; `session` does the work of each hook."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resumable.config.config import Config
from resumable.drivers.state import BESIDE, SavedState
from resumable.drivers.versions import warn_of_unchecked
from resumable.errors import CheckpointError, ConfigError
from resumable.lightning import loggers, private
from resumable.lightning.protocols import Hook, Trainer
from resumable.lightning.session import Session
from resumable.lightning.trainer_state import NAME
from resumable.loop.launch_checks import refuse_several_processes, refuse_while_building
from resumable.run.run import Run
from resumable.utils.events import show_events, warn
from resumable.utils.location import absolute_location

_Callback: Any = private.package().Callback


class Resume(_Callback):  # type: ignore[misc]
    """Make `trainer.fit(...)` continue at the exact batch when the same command runs again after a crash.

    A step is one trained batch, counted over the whole run. Script, module, data module and `ModelCheckpoint` may stay
    as they are. Outside of `fit` the callback does nothing.

    Args:
        config: The folder or URL of the run, the path of a YAML file, a mapping or a `Config`, as for
            `resumable.Trainer`.
        golden: A golden input of the module's `forward`, as for `Trainer.golden`: every checkpoint stores it with the
            module's output.

    Raises:
        ConfigError: At the start of `fit`, for more than one process.
        RunMismatchError: At the start of `fit`, if the checkpoint has other objects.
        ResumableError: Any other error of a run or its storage.
    """

    # Lightning opens a profiler record around each hook of each callback, even an empty one, but skips what is not
    # callable. These six would run in every step.
    on_train_batch_start = on_train_batch_end = on_before_zero_grad = None
    on_before_backward = on_after_backward = on_before_optimizer_step = None

    def __init__(self, config: str | Path | Mapping[str, Any] | Config, *, golden: object = None) -> None:
        self.config = Config.load(config)
        self._golden = golden
        self._session: Session | None = None
        self._found: loggers.Found = []
        self._log: Hook | None = None

    @property
    def log(self) -> Any:
        """Return `LightningModule.log`, which Lightning assigns to every callback."""
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        # Lightning does this right before it opens the writers of its loggers, which is before any hook; and a writer
        # removes the existing files, or starts another version.
        self._log = log
        trainer = log.__self__.trainer
        if trainer.state.fn == "fit":
            refuse_while_building()
        if trainer.state.fn == "fit" and not trainer.fast_dev_run:
            self._found = loggers.continue_versions(trainer.loggers, _logged_before(self.config))

    def setup(self, trainer: Trainer, pl_module: object, stage: str) -> None:
        """Refuse a fit that cannot resume exactly."""
        if stage != "fit":
            return
        refuse_while_building()
        show_events()
        _refuse_several(trainer)
        if trainer.fast_dev_run:
            return
        warn_of_unchecked("Lightning", private.version_of(trainer), private.CHECKED)

    def on_fit_start(self, trainer: Trainer, pl_module: object) -> None:
        """Open the run and restore it, so that later hooks and loggers see the state of the checkpoint."""
        if trainer.fast_dev_run:
            warn("fast_dev_run: nothing is saved or resumed")
            return
        self._session = Session(self.config, trainer)
        if self._golden is not None:
            self._session.set_golden_input(self._golden)
        self._session.restore(self._found)

    def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
        """Watch signals, and begin where the run stands."""
        if self._session is not None:
            self._session.begin()

    def on_exception(self, trainer: Trainer, pl_module: object, exception: BaseException) -> None:
        """Wait until the save in flight is durable, and release the run."""
        if self._session is not None:
            session, self._session = self._session, None
            session.abort(exception)

    def on_fit_end(self, trainer: Trainer, pl_module: object) -> None:
        """Restore a run that was finished before to where it ended, and release the run."""
        if self._session is not None:
            self._session.done()
            self._session = None


def _refuse_several(trainer: Trainer) -> None:
    refuse_several_processes()
    sharded = [kind.__name__ for kind in type(trainer.strategy).__mro__ if kind.__name__ in _SHARDING]
    if trainer.world_size > 1 or sharded:
        raise ConfigError(
            f"Resume: {type(trainer.strategy).__name__}, {trainer.world_size} processes; this version trains in one",
            "Trainer(devices=1); distributed training is refused until it is exact",
        )


_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAStrategy", "XLAFSDPStrategy")


def _logged_before(config: Config) -> list[SavedState | None]:
    """Return the loggers' positions in the newest checkpoint, which is verified later."""
    with suppress(CheckpointError, KeyError, TypeError):
        beside = Run(config.run, storage_options=config.storage_options).latest().tree(NAME)[BESIDE]
        return list(beside["loggers"]) if absolute_location(beside["run"]) == absolute_location(config.run) else []
    return []
