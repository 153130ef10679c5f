"""Data libraries: a training is killed at step 7 of 20 and run again, and is exact, or refused in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import ForkServer, shared_server
from tests.lab.client import Bench, Launch, killed, shared_lab

SAVES = {"every": {"steps": 3, "minutes": None}}
KILL = killed("step:7")

# What each row resumes by, with how many workers.
EXACT = [
    ("datasets, map-style, with_format", "address", (0, 2)),
    ("datasets, map-style, set_transform", "address", (0, 2)),
    ("datasets, streaming, shuffle buffer", "replay", (0, 2)),
    ("datasets, streaming, interleaved", "state", (0,)),
    ("datasets, streaming, interleaved", "replay", (2,)),
    ("datasets, streaming, random map", "state", (0,)),
    ("datasets, streaming, random map", "replay", (2,)),
    ("torchdata, StatefulDataLoader", "address", (0, 2)),
    ("torchdata, nodes", "state", (0,)),
    ("torchdata, nodes, generator of its own", "state", (0,)),
    ("torchdata, nodes, replacement", "state", (0,)),
    ("torchdata, nodes, weighted", "state", (0,)),
    ("torchdata, nodes, threads ahead", "state", (0,)),
    ("webdataset, seeds", "replay", (0, 2)),
    ("webdataset, WebLoader, seeds", "replay", (0, 2)),
    ("NumPy Generator as an attribute", "address", (0, 2)),
    ("NumPy Generator in a closure", "address", (0, 2)),
    ("MONAI, Dataset", "address", (0, 2)),
    ("MONAI, CacheDataset", "address", (0, 2)),
    ("MONAI, PersistentDataset", "address", (0, 2)),
    ("albumentations", "address", (0, 2)),
    ("loader with a whole state", "state", (0,)),
    ("loader with a state without its buffer", "replay", (0,)),
]
WEB_SEEDS = "WebDataset(..., seed=0), .shuffle(..., seed=0)"
REFUSED = [
    ("webdataset, shuffle without seed", WEB_SEEDS, (0, 2)),
    ("webdataset, shards without seed", WEB_SEEDS, (0,)),
    ("datasets, streaming, hidden generator", "give it a seed", (0,)),
    ("hidden generator", "give it a seed", (0, 2)),
    ("hidden generator, state_dict", "give it a seed", (0,)),
]


# In the default run, where the server of the laboratory is there already.
DEFAULT = {"torchdata, nodes", "loader with a state without its buffer", "hidden generator, state_dict"}


def server(row: str) -> ForkServer:
    """The fork server for a row; one has imported the libraries of all rows, which takes seconds."""
    return (
        shared_lab() if row in DEFAULT else shared_server("tests.lab.scenarios:preload", "tests.lab.libraries:preload")
    )


def wide(rows: list[tuple[str, str, tuple[int, ...]]]) -> list[Any]:
    """A case for each number of workers; all but those of `DEFAULT` belong to the matrix."""
    return [
        pytest.param(name, how, count, marks=() if name in DEFAULT else pytest.mark.matrix)
        for name, how, counts in rows
        for count in counts
    ]


def bench(folder: Path, row: str, workers: int, **options: Any) -> Bench:
    skip_without(row.partition(",")[0].lower())
    return Bench(server(row), folder, "library", row=row, workers=workers, beside=str(folder), config=SAVES, **options)


def skip_without(package: str) -> None:
    """Skip where the library of a row is not installed, or does not import."""
    if package in ("datasets", "webdataset", "torchdata", "monai") and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    if package == "albumentations":
        try:
            importlib.import_module(package)
        except Exception as error:  # 2.0.8 raises KeyError with the newest versions of what it imports
            pytest.skip(f"albumentations does not import: {error!r}")


@pytest.mark.parametrize(("row", "how", "workers"), wide(EXACT))
def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, row: str, how: str, workers: int
) -> None:
    first, second = bench(tmp_path, row, workers).crash_and_rerun([KILL])
    assert "RESUME  step=" in second.output
    assert ("is replayed from its start" in second.output) is (how == "replay")
    assert ("WARN" in first.output) is ("threads" in row or "without its buffer" in row)


@pytest.mark.parametrize(("row", "remedy", "workers"), wide(REFUSED))
def test_what_no_launch_can_repeat_is_refused_in_words(tmp_path: Path, row: str, remedy: str, workers: int) -> None:
    trial = bench(tmp_path, row, workers, seeded=False)
    first, second = trial.launch("run", KILL), trial.launch("run", Launch(exit=1))
    assert "gave other batches than before the checkpoint, beginning with " in second.output
    assert remedy in second.output
    assert not second.batches
    assert ("webdataset seeds .shuffle() by the clock" in first.output) is ("shuffle without seed" in row)
