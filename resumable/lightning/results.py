"""Capture and restore the values logged in the epoch in progress: partial sums and torchmetrics objects."""

from __future__ import annotations

import builtins

import torch

from resumable.drivers.state import SavedState, State
from resumable.lightning import private_results
from resumable.lightning.protocols import Metric, Trainer

_REDUCTIONS = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (torch, builtins)
    for name in ("mean", "sum", "min", "max")
    if hasattr(module, name)
}


def capture_results(trainer: Trainer) -> State:
    """Return Lightning's result collections, which have no `state_dict`, and each torchmetrics object of the module."""
    return {
        "collections": {
            name: {key: private_results.result_of(entry) for key, entry in collection.items()}
            for name, collection in private_results.results(trainer).items()
        },
        "metrics": {name: private_results.metric_state(metric) for name, metric in _metrics(trainer)},
    }


def restore_results(trainer: Trainer, saved: SavedState) -> None:
    """Restore what `capture_results` returned; raise `KeyError` for a metric that this module does not have."""
    metrics = dict(_metrics(trainer))
    for name, state in saved["metrics"].items():
        private_results.set_metric_state(metrics[name], state)
    for name, collection in private_results.results(trainer).items():
        collection.clear()
        for key, entry in saved["collections"][name].items():
            reduction = _REDUCTIONS[entry["reduce"]]
            collection[key] = private_results.result_from(collection, entry, reduction=reduction, trainer=trainer)


def _metrics(trainer: Trainer) -> list[tuple[str, Metric]]:
    return [(name, part) for name, part in trainer.lightning_module.named_modules() if private_results.is_metric(part)]
