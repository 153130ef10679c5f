"""All scenarios by name, and what a fork server does with them; knows no test."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import tests.lab.carrying
import tests.lab.containers
import tests.lab.diverging
import tests.lab.feeds
import tests.lab.growing
import tests.lab.leaving
import tests.lab.libraries
import tests.lab.loops
import tests.lab.prepared  # noqa: F401  # importing registers them
from tests.lab.script import SCENARIOS, Script

SLOW_IMPORTS = (
    "resumable.trainer",
    "accelerate",
    "torchdata.stateful_dataloader",
    "s3fs",
    "paramiko",
)


def preload() -> None:
    """Import once what scenarios import."""
    for name in SLOW_IMPORTS:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)


def run(name: str, url: str, options: Mapping[str, Any], batches: str) -> None:
    """Run one launch of the named scenario in the run at `url`, noting what it saw in the file `batches`."""
    SCENARIOS[name](Script(url, options, batches))
