"""Launches programs with a `transformers.Trainer` in forks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from tests.harness import place
from tests.huggingface.server import shared_transformers

EVERY_STEPS = 2


class Place(place.Place):
    """The folder of one test and the program that is run in it."""

    server = staticmethod(shared_transformers)
    call = "tests.huggingface.launches:train"
    # The log says how long things took. Folders, files and runs of loggers are named by a clock or at random.
    ignored = re.compile(
        r"\.state\.objects\.huggingface\."
        r"(between\.state\.log_history\[\d+\]\.[\w-]+_(runtime|per_second)|beside\.(tensorboard|runs|metrics)\.)"
    )


def import_all() -> None:
    """Import what transformers imports only when a trainer is first made."""
    import accelerate.utils  # noqa: F401
    import transformers.trainer  # noqa: F401


def train(program: str, events: str, kill: str | None, options: dict[str, Any]) -> None:
    """Run the program `module:function` in the current folder with the two callbacks of every launch.

    The option `config` is the path of a YAML file in place of the usual configuration.
    """
    from resumable.transformers import Resume
    from tests.huggingface.watch import Watch

    config = {"run": "run", "every": {"steps": EVERY_STEPS, "minutes": None}, "keep": {"best": None}, "data_seed": 0}
    config = options.pop("config", config)
    module, _, name = program.partition(":")
    getattr(importlib.import_module(module), name)([Resume(config), Watch(Path(events), kill)], **options)
