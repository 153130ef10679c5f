"""Let the callbacks of Weights & Biases and MLflow continue the run that they logged to.

Each launch would begin another one. Both libraries take the run from the environment, which is set for one training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from resumable.transformers.protocols import Trainer


def capture_runs(trainer: Trainer) -> dict[str, str]:
    """Return the identifiers of the runs that callbacks log to, by library."""
    names = {kind.__name__ for each in trainer.callback_handler.callbacks for kind in type(each).__mro__}
    found = {library: _running(library) for callback, library in _LIBRARIES.items() if callback in names}
    return {library: identifier for library, identifier in found.items() if identifier is not None}


def continue_runs(saved: Mapping[str, str]) -> Callable[[], None]:
    """Have the libraries continue these runs, unless the environment names others; return what undoes it."""
    wanted = {name: value.format(saved[library]) for library in saved for name, value in _VARIABLES[library].items()}
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(chosen)

    def undo() -> None:
        for name in chosen:
            os.environ.pop(name, None)

    return undo


_LIBRARIES = {"WandbCallback": "wandb", "MLflowCallback": "mlflow"}
_VARIABLES = {
    "wandb": {"WANDB_RUN_ID": "{}", "WANDB_RESUME": "allow"},
    "mlflow": {"MLFLOW_RUN_ID": "{}"},
}


def _running(library: str) -> str | None:
    module: Any = sys.modules.get(library)
    if module is None:
        return None
    if library == "wandb":
        return None if module.run is None else str(module.run.id)
    active = module.active_run()
    return None if active is None else str(active.info.run_id)
