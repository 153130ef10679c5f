"""One launch of a loop with carried variables, in this very process; knows no test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from resumable import Trainer
from tests.tiny import Crash

N = 3  # batches of a pass
Loop = Callable[[Trainer, list[Any], Callable[[], None]], None]


def loader() -> DataLoader[Any]:
    return DataLoader(torch.arange(float(N)), batch_size=1, shuffle=True)  # type: ignore[arg-type]


def launch(run: Path, loop: Loop, crash_at: int | None = None, **config: Any) -> list[Any]:
    """One launch of a loop, which saves at every other boundary; returns what it saw since the run began."""
    torch.manual_seed(1)
    seen: list[Any] = []
    config = {"run": str(run), "data_seed": 7, "every": {"steps": None, "minutes": None}, **config}

    def end_of_body() -> None:
        trainer.request_save()
        if trainer.step == crash_at:
            raise Crash

    with Trainer(config, seen=seen) as trainer:
        loop(trainer, seen, end_of_body)
    return seen
