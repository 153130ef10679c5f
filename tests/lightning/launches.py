"""Launches Lightning programs in forks, which make a `pl.Trainer` with the callbacks of each launch and fit."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from tests.harness import place
from tests.lightning.server import shared_lightning

EVERY_STEPS = 3


class Place(place.Place):
    """The folder of one test and the Lightning program that is run in it."""

    server = staticmethod(shared_lightning)
    call = "tests.lightning.launches:train"
    # TensorBoard puts a clock and a process number into the names of its files, which a checkpoint says the length of.
    ignored = re.compile(r"\.state\.objects\.lightning\.beside\.loggers\[\d\]\.files")


# -- the child ---------------------------------------------------------------------------------------------------------


def train(program: str, events: str, kill: str | None, options: dict[str, Any]) -> None:
    """Run the program `module:function` in the current folder with the two callbacks of every launch."""
    from resumable.lightning import Resume
    from tests.lightning.watch import Watch

    config = {"run": "run", "every": {"steps": EVERY_STEPS, "minutes": None}, "keep": {"best": None}, "data_seed": 0}
    module, _, name = program.partition(":")
    getattr(importlib.import_module(module), name)([Watch(Path(events), kill), Resume(config)], **options)
