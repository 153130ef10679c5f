"""Lightning's and torchmetrics' private names for logged values; the rest is in `private`."""

from __future__ import annotations

import sys
from typing import TypeGuard

import torch

from resumable.drivers.state import SavedState, State
from resumable.lightning.protocols import Hook, Metric, MetricCache, ResultCollection, ResultMetric, Trainer


def results(trainer: Trainer) -> dict[str, ResultCollection]:
    """Return the collections that sum up values logged with `on_epoch=True`."""
    epoch = trainer.fit_loop.epoch_loop
    return {"train": epoch._results, "validate": epoch.val_loop._results}


def result_of(entry: ResultMetric) -> State:
    """Return one logged value as plain values and tensors; a torchmetrics object by its name, without its state."""
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


def result_from(collection: ResultCollection, saved: SavedState, *, reduction: Hook, trainer: Trainer) -> ResultMetric:
    """Return the logged value that `result_of` described, for a collection of the same package."""
    kinds = sys.modules[type(collection).__module__]
    meta = kinds._Metadata(**saved["meta"], reduce_fx=reduction)
    meta.sync = kinds._Sync(fn=trainer.strategy.reduce, **saved["sync"])
    entry: ResultMetric = kinds._ResultMetric(meta, saved["is_tensor"])
    for name, value in saved["values"].items():
        setattr(entry, name, value)
    if not saved["is_tensor"]:
        entry.value = trainer.lightning_module.get_submodule(saved["meta"]["metric_attribute"])
    set_metric_cache(entry, saved["held"])
    entry.has_reset = saved["has_reset"]
    return entry


# -- torchmetrics -----------------------------------------------------------------------------------------------------


def is_metric(module: object) -> TypeGuard[Metric]:
    """Return whether this is a torchmetrics object."""
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(module, torchmetrics.Metric)


def metric_state(metric: Metric) -> State:
    """Return what a torchmetrics object has accumulated, which its `state_dict` leaves out by default."""
    return {
        "states": {name: getattr(metric, name) for name in metric._defaults},
        "attributes": {name: value for name, value in vars(metric).items() if _is_running(metric, name, value)},
        "held": metric_cache(metric),
    }


def _is_running(metric: Metric, name: str, value: object) -> bool:
    # Wrappers such as MinMaxMetric accumulate in plain attributes and not in states.
    plain = isinstance(value, torch.Tensor) or type(value) in (int, float)
    return plain and not name.startswith("_") and name not in metric._defaults


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def set_metric_state(metric: Metric, saved: SavedState) -> None:
    """Restore what `metric_state` returned."""
    for name, value in saved["states"].items():
        setattr(metric, name, _moved(value, metric.device))
    for name, value in saved["attributes"].items():
        setattr(metric, name, _moved(value, metric.device))
    set_metric_cache(metric, saved["held"])


def metric_cache(metric: MetricCache) -> State:
    """Return what a metric remembers of its last updates."""
    return {"updates": metric._update_count, "computed": metric._computed, "last": metric._forward_cache}


def set_metric_cache(metric: MetricCache, saved: SavedState) -> None:
    """Restore what `metric_cache` returned."""
    metric._update_count = saved["updates"]
    metric._computed = saved["computed"]
    metric._forward_cache = saved["last"]
