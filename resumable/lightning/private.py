"""Every name of Lightning's that is not public and that exact resume needs; checked against the versions in `CHECKED`.

No other module of this package reads or writes an attribute of Lightning's with a leading underscore.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

CHECKED = ("2.6",)


def package() -> Any:
    """`pytorch_lightning` or `lightning.pytorch`: the one that the program imported, else the one that is installed.

    `ImportError` where there is none.
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
            if not f"{name}.".startswith(f"{error.name}."):  # it is there, and lacks something of its own
                broken = error
    raise broken or ImportError(
        "resumable.lightning needs pytorch-lightning (or lightning): pip install pytorch-lightning"
    )


def version_of(trainer: Any) -> str:
    """The version of the package that this trainer comes from."""
    return str(sys.modules[_package_of(trainer)].__version__)


def _package_of(trainer: Any) -> str:
    return type(trainer).__module__.partition(".trainer")[0]


# -- loops ------------------------------------------------------------------------------------------------------------


def loops(trainer: Any) -> Iterator[Any]:
    """The loops of a fit that know of restarting."""
    fit = trainer.fit_loop
    epoch = fit.epoch_loop
    yield from (fit, epoch, epoch.val_loop, epoch.automatic_optimization, epoch.manual_optimization)


def go_on(trainer: Any) -> None:
    """From here on the loops are not restarting: they do exactly what they would have done without a crash."""
    for loop in loops(trainer):
        loop._restarting = loop._loaded_from_state_dict = loop._resuming_from_checkpoint = False


def start_epoch_loop_afresh(trainer: Any) -> None:
    """The loop over batches goes straight to its first fetch, without Lightning's own guesses about a restart."""
    trainer.fit_loop.epoch_loop._restarting = False


def forget_loaders(loop: Any) -> None:
    """Have the loop ask for its loaders again when it needs them, and end the workers of those that it has."""
    if loop._combined_loader is not None:
        loop._combined_loader.reset()
    loop._combined_loader = None


def wants_loaders(loop: Any) -> bool:
    """Whether `setup_data` of this loop is about to ask the user's code for loaders."""
    due = loop._should_reload_train_dl if hasattr(loop, "epoch_loop") else loop._should_reload_val_dl
    return loop._combined_loader is None or bool(due)


def turns(loop: Any) -> list[Any]:
    """The iterators that the loop itself reads from, one for each loader; callbacks may make others."""
    combined = loop._combined_loader
    mode = combined._iterator if combined is not None else None
    return mode.iterators if mode is not None else []


def holds(loop: Any, iterator: Any) -> bool:
    """Whether this iterator is one that the loop itself reads from."""
    return any(held is iterator for held in turns(loop))


def set_turn(loop: Any, *, turn: int, begun_again: list[bool]) -> None:
    """Tell the loop's combined loader how many turns it had, and which of its loaders it began again."""
    iterator = loop._combined_loader._iterator
    iterator._idx = turn
    if hasattr(iterator, "_consumed"):
        iterator._consumed = begun_again


def fetcher(trainer: Any) -> Any:
    """What the loop over batches calls `next` on."""
    return trainer.fit_loop._data_fetcher


def gives_iterator(data_fetcher: Any) -> bool:
    """Whether `training_step` fetches by itself."""
    return any(kind.__name__ == "_DataLoaderIterDataFetcher" for kind in type(data_fetcher).__mro__)


def counters(trainer: Any) -> dict[str, Any]:
    """What loops count or remember beside their `state_dict`."""
    fit = trainer.fit_loop
    val = fit.epoch_loop.val_loop
    return {
        "train_reloaded": fit._last_train_dl_reload_epoch,
        "val_reloaded": val._last_val_dl_reload_epoch,
        "val_has_run": val._has_run,
        "val_seen": dict(val._seen_batches_per_dataloader),
    }


def set_counters(trainer: Any, saved: Mapping[str, Any]) -> None:
    fit = trainer.fit_loop
    val = fit.epoch_loop.val_loop
    fit._last_train_dl_reload_epoch = saved["train_reloaded"]
    val._last_val_dl_reload_epoch = saved["val_reloaded"]
    val._has_run = saved["val_has_run"]
    val._seen_batches_per_dataloader.clear()
    val._seen_batches_per_dataloader.update(saved["val_seen"])


def batches(trainer: Any) -> tuple[Any, ...]:
    """What callbacks set of a pass over the loader: its length, what is accumulated, whether anything is learned."""
    fit = trainer.fit_loop
    skips = fit.epoch_loop.automatic_optimization._skip_backward
    return fit.max_batches, trainer.accumulate_grad_batches, skips


# -- hooks ------------------------------------------------------------------------------------------------------------


def is_own(hook: Any) -> bool:
    """Whether this function is Lightning's, and not that of a program."""
    return str(getattr(hook, "__module__", "")).startswith(("pytorch_lightning.", "lightning.pytorch."))


@contextmanager
def inside(trainer: Any, hook: str) -> Iterator[None]:
    """While it lasts the module believes to be in this hook, which `self.log` looks at; loggers get nothing."""
    module, loggers = trainer.lightning_module, trainer.loggers
    outer = module._current_fx_name
    silent = sys.modules[f"{_package_of(trainer)}.loggers.logger"].DummyLogger
    module._current_fx_name, trainer.loggers = hook, [silent() for _ in loggers]
    try:
        yield
    finally:
        module._current_fx_name, trainer.loggers = outer, loggers


# -- what was logged --------------------------------------------------------------------------------------------------


def callback_metrics(trainer: Any) -> Mapping[str, Any]:
    """As `trainer.callback_metrics`, which computes metrics on the way and keeps the result."""
    metrics: Mapping[str, Any] = trainer._logger_connector._callback_metrics
    return metrics


def logged(trainer: Any) -> dict[str, Any]:
    """The metrics that Lightning holds for callbacks, loggers and the progress bar, and where it stands in logging."""
    connector = trainer._logger_connector
    return {
        "callback": dict(connector._callback_metrics),
        "logged": dict(connector._logged_metrics),
        "progress_bar": dict(connector._progress_bar_metrics),
        "function": connector._current_fx,
        "first": connector._first_loop_iter,
    }


def set_callback_metrics(trainer: Any, metrics: Mapping[str, Any]) -> None:
    """Have callbacks see these and no others; what the epoch in progress has summed up is lost."""
    trainer._logger_connector._callback_metrics = dict(metrics)
    for collection in results(trainer).values():
        collection.clear()


def set_logged(trainer: Any, saved: Mapping[str, Any]) -> None:
    connector = trainer._logger_connector
    connector._callback_metrics = dict(saved["callback"])
    connector._logged_metrics = dict(saved["logged"])
    connector._progress_bar_metrics = dict(saved["progress_bar"])
    connector._current_fx = saved["function"]
    connector._first_loop_iter = saved["first"]


def results(trainer: Any) -> dict[str, Any]:
    """The collections in which values logged with `on_epoch=True` are summed up."""
    epoch = trainer.fit_loop.epoch_loop
    return {"train": epoch._results, "validate": epoch.val_loop._results}


def result_of(entry: Any) -> dict[str, Any]:
    """One logged value as plain values and tensors; a torchmetrics object is only named, its state is elsewhere."""
    meta = entry.meta
    summed = {name: getattr(entry, name) for name in ("value", "cumulated_batch_size") if hasattr(entry, name)}
    return {
        "is_tensor": entry.is_tensor,
        "has_reset": entry.has_reset,
        "values": summed if entry.is_tensor else {},
        "held": metric_cache(entry),
        "meta": {name: getattr(meta, name) for name in _META},
        "reduce": f"{'torch' if meta.reduce_fx.__module__ != 'builtins' else 'builtins'}.{meta.reduce_fx.__name__}",
        "sync": {"_should": meta.sync.should, "_op": meta.sync.op, "rank_zero_only": meta.sync.rank_zero_only},
    }


_META = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def result_from(collection: Any, saved: Mapping[str, Any], *, reduction: Callable[..., Any], trainer: Any) -> Any:
    """The reverse of `result_of`, for a collection of the same package."""
    kinds = sys.modules[type(collection).__module__]
    meta = kinds._Metadata(**saved["meta"], reduce_fx=reduction)
    meta.sync = kinds._Sync(fn=trainer.strategy.reduce, **saved["sync"])
    entry = kinds._ResultMetric(meta, saved["is_tensor"])
    for name, value in saved["values"].items():
        setattr(entry, name, value)
    if not saved["is_tensor"]:
        entry.value = trainer.lightning_module.get_submodule(saved["meta"]["metric_attribute"])
    set_metric_cache(entry, saved["held"])
    entry.has_reset = saved["has_reset"]
    return entry


# -- torchmetrics -----------------------------------------------------------------------------------------------------


def is_metric(module: Any) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(module, torchmetrics.Metric)


def metric_state(metric: Any) -> dict[str, Any]:
    """What a torchmetrics object has accumulated, which its `state_dict` leaves out by default."""
    return {
        "states": {name: getattr(metric, name) for name in metric._defaults},
        "attributes": {name: value for name, value in vars(metric).items() if _is_running(metric, name, value)},
        "held": metric_cache(metric),
    }


def _is_running(metric: Any, name: str, value: Any) -> bool:
    # Wrappers such as MinMaxMetric keep what they have seen in attributes that are no states.
    plain = isinstance(value, torch.Tensor) or type(value) in (int, float)
    return plain and not name.startswith("_") and name not in metric._defaults


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def set_metric_state(metric: Any, saved: Mapping[str, Any]) -> None:
    for name, value in saved["states"].items():
        setattr(metric, name, _moved(value, metric.device))
    for name, value in saved["attributes"].items():
        setattr(metric, name, _moved(value, metric.device))
    set_metric_cache(metric, saved["held"])


def metric_cache(metric: Any) -> dict[str, Any]:
    return {"updates": metric._update_count, "computed": metric._computed, "last": metric._forward_cache}


def set_metric_cache(metric: Any, saved: Mapping[str, Any]) -> None:
    metric._update_count = saved["updates"]
    metric._computed = saved["computed"]
    metric._forward_cache = saved["last"]


# -- the checkpoint ---------------------------------------------------------------------------------------------------


def dump(trainer: Any) -> dict[str, Any]:
    """The checkpoint that Lightning itself would write, with live tensors; runs the `on_save_checkpoint` hooks."""
    checkpoint: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return checkpoint


# -- loggers ----------------------------------------------------------------------------------------------------------


def has_own_version(logger: Any) -> bool:
    """Whether the logger was told its version, or has chosen one."""
    return logger._version is not None


def set_version(logger: Any, version: Any) -> None:
    logger._version = version


def experiment_is_open(logger: Any) -> bool:
    return logger._experiment is not None


def log_no_default_metric(logger: Any) -> None:
    """Have a TensorBoardLogger not log its placeholder `hp_metric` once more with the hyper-parameters."""
    logger._default_hp_metric = False


def seconds_allowed(timer: Any) -> float | None:
    """How long a `Timer`, which `Trainer(max_time=...)` makes, lets the training run."""
    return getattr(timer, "_duration", None)


# -- the end of a fit -------------------------------------------------------------------------------------------------


def fit_is_over(trainer: Any) -> bool:
    """Whether no fit of this trainer is running, also where one was ended by an exception."""
    return bool(trainer.state.stopped)


def leave_with(trainer: Any, error: BaseException) -> None:
    """Have the fit end with this exception, which Lightning would turn into `sys.exit(1)` for a `KeyboardInterrupt`.

    To be called in `on_exception`; the teardown behind it is the last thing that Lightning does before it leaves.
    """
    teardown = trainer._teardown

    def leave() -> None:
        del trainer._teardown
        teardown()
        trainer.state.stage = None
        raise error

    trainer._teardown = leave
