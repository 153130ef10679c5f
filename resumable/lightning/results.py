"""What was logged in the epoch in progress: partial sums and torchmetrics objects, as plain values; knows no file."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import torch

from resumable.lightning import private

_REDUCTIONS = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (torch, builtins)
    for name in ("mean", "sum", "min", "max")
    if hasattr(module, name)
}


def capture(trainer: Any) -> dict[str, Any]:
    """Lightning's result collections, which have no state of their own, and each torchmetrics object of the module."""
    return {
        "collections": {
            name: {key: private.result_of(entry) for key, entry in collection.items()}
            for name, collection in private.results(trainer).items()
        },
        "metrics": {name: private.metric_state(metric) for name, metric in _metrics(trainer)},
    }


def restore(trainer: Any, saved: Mapping[str, Any]) -> None:
    """Put all of it back; `KeyError` for what this module does not have."""
    metrics = dict(_metrics(trainer))
    for name, state in saved["metrics"].items():
        private.set_metric_state(metrics[name], state)
    for name, collection in private.results(trainer).items():
        collection.clear()
        for key, entry in saved["collections"][name].items():
            reduction = _REDUCTIONS[entry["reduce"]]
            collection[key] = private.result_from(collection, entry, reduction=reduction, trainer=trainer)


def _metrics(trainer: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in trainer.lightning_module.named_modules() if private.is_metric(part)]
