"""Kill the training at any instant, run the same command again, get the same bits.

The public names; each is imported when it is first used, so that reading a run needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resumable.utils.lazy_imports import attribute
from resumable.version import __version__

if TYPE_CHECKING:
    from resumable.config.config import Config
    from resumable.errors import (
        AuditError,
        CheckpointError,
        ConfigError,
        CorruptCheckpointError,
        ExportError,
        FencedError,
        FormatVersionError,
        Interrupted,
        LoopError,
        NoCheckpointError,
        Preempted,
        ResumableError,
        RunMismatchError,
        StateError,
        StorageError,
    )
    from resumable.run.checkpoint import Checkpoint
    from resumable.run.run import Run
    from resumable.serialization import load, save
    from resumable.state.objects.plain.attributes import attributes
    from resumable.stateful import Stateful
    from resumable.trainer import Trainer
    from resumable.weights.load_weights import load_weights

_HOME = {
    "Trainer": "trainer",
    "Config": "config.config",
    "Run": "run.run",
    "Checkpoint": "run.checkpoint",
    "Stateful": "stateful",
    "load_weights": "weights.load_weights",
    "ResumableError": "errors",
    "ConfigError": "errors",
    "StateError": "errors",
    "StorageError": "errors",
    "LoopError": "errors",
    "CheckpointError": "errors",
    "NoCheckpointError": "errors",
    "CorruptCheckpointError": "errors",
    "FormatVersionError": "errors",
    "AuditError": "errors",
    "ExportError": "errors",
    "FencedError": "errors",
    "RunMismatchError": "errors",
    "Preempted": "errors",
    "Interrupted": "errors",
    "attributes": "state.objects.plain.attributes",
    "load": "serialization",
    "save": "serialization",
}

__all__ = [
    "AuditError",
    "Checkpoint",
    "CheckpointError",
    "Config",
    "ConfigError",
    "CorruptCheckpointError",
    "ExportError",
    "FencedError",
    "FormatVersionError",
    "Interrupted",
    "LoopError",
    "NoCheckpointError",
    "Preempted",
    "ResumableError",
    "Run",
    "RunMismatchError",
    "StateError",
    "Stateful",
    "StorageError",
    "Trainer",
    "__version__",
    "attributes",
    "load",
    "load_weights",
    "save",
]


def __getattr__(name: str) -> Any:
    value = globals()[name] = attribute(__name__, _HOME, name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
