"""Let the callbacks of Weights & Biases and MLflow continue the run that they logged to.

Each launch would begin another one. Both libraries take the run from the environment, which is set for one training.
What MLflow logged to files after the checkpoint is logged again, so it is cut off first; servers offer no such thing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from resumable.transformers.protocols import Trainer


def capture_runs(trainer: Trainer) -> dict[str, str]:
    """Return the identifiers of the runs that callbacks log to, by library."""
    names = {kind.__name__ for each in trainer.callback_handler.callbacks for kind in type(each).__mro__}
    found = {library: _running(library) for callback, library in _LIBRARIES.items() if callback in names}
    return {library: identifier for library, identifier in found.items() if identifier is not None}


def capture_metrics(runs: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes of MLflow's files of metrics, once all are written; none where it logs elsewhere."""
    folder = _metrics_of_mlflow(runs)
    if folder is None:
        return {}
    sys.modules["mlflow"].flush_async_logging()
    return {name: file.stat().st_size for name, file in _files(folder).items()}


def continue_runs(saved: Mapping[str, str]) -> Callable[[], None]:
    """Have the libraries continue these runs, unless the environment names others; return what undoes it."""
    wanted = {name: value.format(saved[library]) for library in saved for name, value in _VARIABLES[library].items()}
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(chosen)

    def undo() -> None:
        for name in chosen:
            os.environ.pop(name, None)

    return undo


def continue_metrics(runs: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Truncate the files of metrics of MLflow's run to these sizes, and remove those that had none."""
    continues = os.environ.get("MLFLOW_RUN_ID") == runs.get("mlflow")  # the environment may name another
    folder = _metrics_of_mlflow(runs) if continues else None
    for name, file in _files(folder).items() if folder is not None else ():
        if name not in sizes:
            file.unlink()
        elif file.stat().st_size > sizes[name]:
            os.truncate(file, sizes[name])


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


def _metrics_of_mlflow(runs: Mapping[str, str]) -> Path | None:
    """Return the folder of the metrics of MLflow's run, if it logs to files and has that run.

    MLflow itself would read them, and fail on a file that a kill left empty.
    """
    module: Any = sys.modules.get("mlflow")
    run = runs.get("mlflow", "")
    if module is None or not run.isalnum():
        return None
    location = urlparse(module.get_tracking_uri())
    if location.scheme not in ("", "file"):
        return None
    return next(Path(url2pathname(location.path)).glob(f"*/{run}/metrics"), None)


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each metric, whose name may have slashes."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
