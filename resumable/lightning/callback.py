"""The one line that a Lightning user adds; what it does at each hook is in `session`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resumable.config.config import Config
from resumable.errors import CheckpointError, ConfigError
from resumable.lightning import loggers, private
from resumable.lightning.session import Session
from resumable.lightning.trainer_state import BESIDE, NAME, place
from resumable.loop.launch_checks import refuse_several_processes, refuse_while_building
from resumable.run.run import Run
from resumable.utils.events import show_events, warn

_Callback: Any = private.package().Callback


class Resume(_Callback):  # type: ignore[misc]
    """Makes `trainer.fit(...)` continue at the exact batch when the same command is run again after any crash.

    `config` is the folder or URL of the run, the path of a YAML file, a mapping or a `Config`, as for
    `resumable.Trainer`; a step is one trained batch, counted over the whole run. Script, module and data module stay
    as they are, and so may `ModelCheckpoint`.
    `golden` is a known input of the module's `forward`, as for `Trainer.golden`: every checkpoint carries it, and what
    the module gives for it.

    Raises the tree under `ResumableError` at the start of `fit`: `ConfigError` for more than one process,
    `RunMismatchError` where the checkpoint does not fit. Outside of `fit` it does nothing.
    """

    # Lightning opens a record of its profiler around each hook of each callback, whether or not it does anything, but
    # passes over what cannot be called. These six come in every step.
    on_train_batch_start = on_train_batch_end = on_before_zero_grad = None
    on_before_backward = on_after_backward = on_before_optimizer_step = None

    def __init__(self, config: str | Path | Mapping[str, Any] | Config, *, golden: Any = None) -> None:
        self.config = Config.load(config)
        self._golden = golden
        self._session: Session | None = None
        self._found: loggers.Found = []
        self._log: Any = None

    @property
    def log(self) -> Any:
        """`LightningModule.log`, which Lightning gives to every callback."""
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        # This is the last thing that Lightning does before it opens the writers of its loggers, which happens before
        # any hook; and a writer removes what is there, or begins another version.
        self._log = log
        trainer = log.__self__.trainer
        if trainer.state.fn == "fit":
            refuse_while_building()
        if trainer.state.fn == "fit" and not trainer.fast_dev_run:
            self._found = loggers.go_on_in(trainer.loggers, _logged_before(self.config))

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot be exact; have loggers go on where they were."""
        if stage != "fit":
            return
        refuse_while_building()
        show_events()
        _refuse_several(trainer)
        if trainer.fast_dev_run:
            return
        if not private.version_of(trainer).startswith(tuple(f"{checked}." for checked in private.CHECKED)):
            warn(
                f"Lightning {private.version_of(trainer)}: exact resume was checked with {', '.join(private.CHECKED)}; "
                "compare a resumed run with an uninterrupted one before you rely on it (`resumable drill`)"
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run and restore: hooks and loggers from here on see it as it stood."""
        if trainer.fast_dev_run:
            warn("fast_dev_run: nothing is saved or resumed")
            return
        self._session = Session(self.config, trainer)
        if self._golden is not None:
            self._session.set_golden_input(self._golden)
        self._session.restore(self._found)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch signals, and begin where the run stands."""
        if self._session is not None:
            self._session.begin()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Wait until the save in flight is durable, and release the run."""
        if self._session is not None:
            session, self._session = self._session, None
            session.abort(exception)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Release the run."""
        if self._session is not None:
            self._session.done()
            self._session = None


def _refuse_several(trainer: Any) -> None:
    refuse_several_processes()
    sharded = [kind.__name__ for kind in type(trainer.strategy).__mro__ if kind.__name__ in _SHARDING]
    if trainer.world_size > 1 or sharded:
        raise ConfigError(
            f"Resume: {type(trainer.strategy).__name__}, {trainer.world_size} processes; this version trains in one",
            "Trainer(devices=1); distributed training is refused until it is exact",
        )


_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAStrategy", "XLAFSDPStrategy")


def _logged_before(config: Config) -> list[Any]:
    """Where the loggers of the run stood, by its newest checkpoint; whether that is whole is looked at later."""
    with suppress(CheckpointError, KeyError, TypeError):
        beside = Run(config.run, storage_options=config.storage_options).latest().tree(NAME)[BESIDE]
        return list(beside["loggers"]) if place(beside["run"]) == place(config.run) else []
    return []
