"""What starting costs: imports, `resumable ls`, discovery among a thousand checkpoints, and `Trainer(...)`.

Programs are started anew for each sample; `bare` is an interpreter that does nothing, which each of them pays too. All
find compiled modules, as an installed package has them, also where the environment of this one writes none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resumable import Run, Trainer
from resumable.store.catalog import Catalog
from resumable.store.storage.local import LocalStorage
from tests.bench.timing import seconds
from tests.store.building import multiply

CHECKPOINTS = 1000


def measure(*, folder: Path, pairs: int = 10) -> dict[str, Any]:
    """Seconds of `pairs` samples of each; `Trainer(...)` with torch imported and warm, of a small model."""
    small, many = folder / "small", folder / "many"
    _train(small, steps=3)
    multiply(Path(shutil.copytree(small, many)), CHECKPOINTS)
    programs: dict[str, list[str]] = {
        "bare": ["-c", "pass"],
        "import resumable": ["-c", "import resumable"],
        "resumable ls": ["-m", "resumable", "ls", str(small)],
        "resumable ls of 1000": ["-m", "resumable", "ls", str(many)],
    }
    answer: dict[str, dict[str, list[float]]] = {name: {"seconds": []} for name in programs}
    compiled = folder / "compiled"
    for arguments in programs.values():
        _started(arguments, compiled)
    for _ in range(pairs):
        for name, arguments in programs.items():
            answer[name]["seconds"].append(_started(arguments, compiled))
    answer["discovery in 1000"] = {"seconds": [seconds(lambda: _discover(many)) for _ in range(pairs)]}
    answer["Trainer, fresh run"] = {"seconds": [_opened(folder / f"fresh{number}") for number in range(pairs)]}
    answer["Trainer, resumed run"] = {"seconds": _resumed(small, folder, pairs)}
    answer["verify, of the resumed run"] = {"seconds": [seconds(Run(str(small)).latest().verify) for _ in range(pairs)]}
    return answer


def _started(arguments: list[str], compiled: Path) -> float:
    environment = with_compiled(compiled)

    def start() -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    return seconds(start)


def with_compiled(folder: Path) -> dict[str, str]:
    """The environment of a program that finds compiled modules in a folder, and puts them there."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder)}


def _discover(run: Path) -> None:
    name, _ = next(iter(Catalog(LocalStorage(run)).line()))
    assert name.step >= CHECKPOINTS


def _train(run: Path, *, steps: int) -> None:
    _with_trainer(run, lambda trainer: [None for _ in trainer.steps(steps)])


def _with_trainer(run: Path, use: Callable[[Trainer], object]) -> float:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"run": str(run), "data_seed": 1, "signals": [], "progress": "never"}
    began = time.perf_counter()
    trainer = Trainer(config, model=model, optimizer=optimizer)
    spent = time.perf_counter() - began
    with trainer:
        use(trainer)
    return spent


def _opened(run: Path) -> float:
    return _with_trainer(run, lambda trainer: None)


def _resumed(run: Path, folder: Path, pairs: int) -> list[float]:
    spent = []
    for number in range(pairs):
        copy = Path(shutil.copytree(run, folder / f"resumed{number}"))
        spent.append(_opened(copy))
    return spent


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(folder=Path(folder)), indent=1))


if __name__ == "__main__":
    main()
