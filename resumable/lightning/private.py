"""Every private name of Lightning's that exact resume needs, checked against the versions in `CHECKED`.

No module of this package but this one and `private_results` reads or writes an attribute of Lightning's with a leading
underscore.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from resumable.drivers.state import SavedState, State
from resumable.lightning import private_results
from resumable.lightning.protocols import DataFetcher, EvaluationLoop, FitLoop, LoadingLoop, Logger, Loop, Trainer

CHECKED = ("2.4", "2.5", "2.6")


def package() -> ModuleType:
    """Return `pytorch_lightning` or `lightning.pytorch`: the imported one, else the installed one.

    Raises:
        ImportError: Neither is installed.
    """
    names = ("pytorch_lightning", "lightning.pytorch")
    for name in names:
        if name in sys.modules:
            return sys.modules[name]
    broken: ImportError | None = None
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # it is installed, and a dependency of it is not
                broken = error
    raise broken or ImportError(
        "resumable.lightning needs pytorch-lightning (or lightning): pip install pytorch-lightning"
    )


def version_of(trainer: Trainer) -> str:
    """Return the version of the package that this trainer comes from."""
    return str(sys.modules[_package_of(trainer)].__version__)


def _package_of(trainer: Trainer) -> str:
    return type(trainer).__module__.partition(".trainer")[0]


# -- loops ------------------------------------------------------------------------------------------------------------


def loops(trainer: Trainer) -> Iterator[Loop]:
    """Yield the loops of a fit that have flags for a restart."""
    fit = trainer.fit_loop
    epoch = fit.epoch_loop
    yield from (fit, epoch, epoch.val_loop, epoch.automatic_optimization, epoch.manual_optimization)


def clear_restarting(trainer: Trainer) -> None:
    """Clear the restart flags of all loops, so that they do exactly what they would have done without a crash."""
    for loop in loops(trainer):
        loop._restarting = loop._loaded_from_state_dict = loop._resuming_from_checkpoint = False


def clear_epoch_loop_restarting(trainer: Trainer) -> None:
    """Have the loop over batches go straight to its first fetch, without Lightning's own handling of a restart."""
    trainer.fit_loop.epoch_loop._restarting = False


def drop_loaders(loop: LoadingLoop) -> None:
    """Shut down the loop's loaders, so that it requests them again when it needs them."""
    if loop._combined_loader is not None:
        loop._combined_loader.reset()
    loop._combined_loader = None


def requests_loaders(loop: FitLoop | EvaluationLoop) -> bool:
    """Return whether `setup_data` of this loop is about to request loaders from the user's code."""
    due = getattr(loop, "_should_reload_train_dl" if hasattr(loop, "epoch_loop") else "_should_reload_val_dl")
    return loop._combined_loader is None or bool(due)


def iterators(loop: LoadingLoop) -> list[Iterator[object]]:
    """Return the iterators that the loop itself reads from, one for each loader; callbacks may create others."""
    combined = loop._combined_loader
    mode = combined._iterator if combined is not None else None
    return mode.iterators if mode is not None else []


def reads_from(loop: LoadingLoop, iterator: Iterator[object]) -> bool:
    """Return whether the loop itself reads from this iterator."""
    return any(each is iterator for each in iterators(loop))


def set_fetched(loop: LoadingLoop, *, fetched: int, restarted: list[bool]) -> None:
    """Set how many batches the loop's combined loader has returned, and which of its loaders it has restarted."""
    iterator = loop._combined_loader._iterator if loop._combined_loader is not None else None
    assert iterator is not None  # the loop is fetching from it
    iterator._idx = fetched
    if hasattr(iterator, "_consumed"):
        iterator._consumed = restarted


def fetcher(trainer: Trainer) -> DataFetcher:
    """Return the object on which the loop over batches calls `next`."""
    return trainer.fit_loop._data_fetcher


def passes_iterator(data_fetcher: DataFetcher) -> bool:
    """Return whether `training_step` gets the iterator and fetches by itself."""
    return any(kind.__name__ == "_DataLoaderIterDataFetcher" for kind in type(data_fetcher).__mro__)


def counters(trainer: Trainer) -> State:
    """Return the counters of loops that their `state_dict` leaves out."""
    fit = trainer.fit_loop
    val = fit.epoch_loop.val_loop
    return {
        "train_reloaded": fit._last_train_dl_reload_epoch,
        "val_reloaded": val._last_val_dl_reload_epoch,
        "val_has_run": val._has_run,
        "val_seen": dict(val._seen_batches_per_dataloader),
    }


def set_counters(trainer: Trainer, saved: SavedState) -> None:
    """Restore what `counters` returned."""
    fit = trainer.fit_loop
    val = fit.epoch_loop.val_loop
    fit._last_train_dl_reload_epoch = saved["train_reloaded"]
    val._last_val_dl_reload_epoch = saved["val_reloaded"]
    val._has_run = saved["val_has_run"]
    val._seen_batches_per_dataloader.clear()
    val._seen_batches_per_dataloader.update(saved["val_seen"])


def pass_settings(trainer: Trainer) -> tuple[float, int, bool]:
    """Return what callbacks may set for a pass: its length, the accumulation, and whether backward is skipped."""
    fit = trainer.fit_loop
    skips = fit.epoch_loop.automatic_optimization._skip_backward
    return fit.max_batches, trainer.accumulate_grad_batches, skips


# -- hooks ------------------------------------------------------------------------------------------------------------


def repeat_lottery_tickets(trainer: Trainer, *, epochs: int) -> None:
    """Have each `ModelPruning` reset the weights as it has done in the epochs before; the caller restores them.

    A reset makes the weights share memory with the initial ones, so that later resets change nothing.
    """
    for callback in trainer.callbacks:
        if not isinstance(callback, package().callbacks.ModelPruning):
            continue
        uses: Any = callback._use_lottery_ticket_hypothesis
        has_reset = any(map(uses, range(epochs))) if callable(uses) else uses
        if callback._original_layers is not None and has_reset:
            callback.apply_lottery_ticket_hypothesis()


def is_lightnings(hook: object) -> bool:
    """Return whether this function is defined by Lightning, and not by a program."""
    return str(getattr(hook, "__module__", "")).startswith(("pytorch_lightning.", "lightning.pytorch."))


@contextmanager
def inside(trainer: Trainer, hook: str) -> Iterator[None]:
    """Let the module be in this hook, which `self.log` checks, with loggers that drop everything."""
    module, loggers = trainer.lightning_module, trainer.loggers
    outer = module._current_fx_name
    silent = sys.modules[f"{_package_of(trainer)}.loggers.logger"].DummyLogger
    module._current_fx_name, trainer.loggers = hook, [silent() for _ in loggers]
    try:
        yield
    finally:
        module._current_fx_name, trainer.loggers = outer, loggers


# -- what was logged --------------------------------------------------------------------------------------------------


def callback_metrics(trainer: Trainer) -> Mapping[str, object]:
    """Return `trainer.callback_metrics` without its side effect: it computes metrics and stores the result."""
    return trainer._logger_connector._callback_metrics


def logged(trainer: Trainer) -> State:
    """Return the metrics for callbacks, loggers and the progress bar, and the position of Lightning's logging."""
    connector = trainer._logger_connector
    return {
        "callback": dict(connector._callback_metrics),
        "logged": dict(connector._logged_metrics),
        "progress_bar": dict(connector._progress_bar_metrics),
        "function": connector._current_fx,
        "first": connector._first_loop_iter,
    }


def set_callback_metrics(trainer: Trainer, metrics: Mapping[str, object]) -> None:
    """Replace the metrics that callbacks see; partial sums of the epoch in progress are dropped."""
    trainer._logger_connector._callback_metrics = dict(metrics)
    for collection in private_results.results(trainer).values():
        collection.clear()


def set_logged(trainer: Trainer, saved: SavedState) -> None:
    """Restore what `logged` returned."""
    connector = trainer._logger_connector
    connector._callback_metrics = dict(saved["callback"])
    connector._logged_metrics = dict(saved["logged"])
    connector._progress_bar_metrics = dict(saved["progress_bar"])
    connector._current_fx = saved["function"]
    connector._first_loop_iter = saved["first"]


# -- the checkpoint ---------------------------------------------------------------------------------------------------


def dump(trainer: Trainer) -> State:
    """Return the checkpoint that Lightning would write, with live tensors; runs the `on_save_checkpoint` hooks."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


# -- loggers ----------------------------------------------------------------------------------------------------------


def has_own_version(logger: Logger) -> bool:
    """Return whether the logger was given a version, or has chosen one."""
    return logger._version is not None


def set_version(logger: Logger, version: int | str) -> None:
    """Set the version in which the logger continues."""
    logger._version = version


def experiment_is_open(logger: Logger) -> bool:
    """Return whether the logger has opened its writer."""
    return logger._experiment is not None


def log_no_default_metric(logger: Logger) -> None:
    """Keep a TensorBoardLogger from logging its placeholder `hp_metric` again with the hyper-parameters."""
    logger._default_hp_metric = False


def seconds_allowed(timer: object) -> float | None:
    """Return how long a `Timer`, which `Trainer(max_time=...)` creates, lets the training run, in seconds."""
    return getattr(timer, "_duration", None)


# -- the end of a fit -------------------------------------------------------------------------------------------------


def fit_is_over(trainer: Trainer) -> bool:
    """Return whether no fit of this trainer is running, also after an exception ended one."""
    return bool(trainer.state.stopped)


def leave_with(trainer: Trainer, error: BaseException) -> None:
    """Let the fit end with this exception; Lightning would turn a `KeyboardInterrupt` into `sys.exit(1)`.

    Call it in `on_exception`: the teardown after it is the last thing that Lightning does before it exits.
    """
    teardown = trainer._teardown

    def leave() -> None:
        del trainer._teardown
        teardown()
        trainer.state.stage = None
        raise error

    trainer._teardown = leave
