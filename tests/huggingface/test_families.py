"""Subclasses of `transformers.Trainer`, adapters and streams, killed and rerun against the undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resumable import Run
from tests.harness.client import ForkServer, shared_server
from tests.harness.place import killed
from tests.huggingface import launches
from tests.huggingface.server import PRELOADED

pytestmark = pytest.mark.matrix
USUAL = (killed("update:3", saved=2), killed("batch:7", saved=6, seed=1), killed("evaluate:12", saved=10, seed=2))


def shared_families() -> ForkServer:
    """Return the fork server that has imported the libraries of the families, too."""
    return shared_server(*PRELOADED, "tests.huggingface.families", "sentence_transformers")


class Place(launches.Place):
    """The folder of one test and the program that is run in it."""

    server = staticmethod(shared_families)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("lora", {}),
        ("sft", {}),
        ("sft", {"dataloader_num_workers": 2}),
        ("sft", {"packing": True, "num_train_epochs": 8}),
        ("dpo", {}),
        ("dpo", {"sync": True}),
        ("kto", {}),
        ("reward", {}),
        ("sentences", {}),
        ("sentences", {"several": True}),
        ("streamed", {}),
    ],
)
def test_is_exact(tmp_path: Path, program: str, options: dict[str, Any]) -> None:
    Place(tmp_path, f"tests.huggingface.families:{program}", **options).crash_and_rerun(*USUAL)


def test_the_frozen_base_of_adapters_is_written_once(tmp_path: Path) -> None:
    place = Place(tmp_path, "tests.huggingface.families:lora")
    place.launch()
    run = place.here / "run"
    assert len(list(Run(str(run)).checkpoints())) > 1
    assert len({path.stat().st_ino for path in run.rglob("model.frozen.safetensors")}) == 1
    assert len({path.stat().st_ino for path in run.rglob("model.safetensors")}) > 1
