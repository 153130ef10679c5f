"""A blob that is whole but is not the one that the records describe is found by whoever verifies, before a restore."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Checkpoint, CorruptCheckpointError, Run, Trainer
from resumable.cli import app
from resumable.run.verification import verify
from resumable.state.tensors.facts import DTYPES, raw
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.manifest import Manifest, TensorRecord
from tests.misreading import Misreading
from tests.tiny import Tiny, crashed, steps_of

NEWEST, BEFORE = "step-000000006.e0001.a0001", "step-000000004.e0000.a0001"
OTHER = "whole, but not the file that the manifest describes"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed, with checkpoints after 2, 4 and 6."""
    run = tmp_path_factory.mktemp("before") / "run"
    crashed(run, step=6)
    return run


@pytest.fixture
def run(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "run")


def manifest(run: Path, name: str = NEWEST) -> Manifest:
    return run_of(run, name).manifest


def run_of(run: Path, name: str = NEWEST) -> Checkpoint:
    return Run(str(run)).select(name)


def rewritten(run: Path, document: Manifest) -> None:
    (run / checkpoint_path(document.name, "manifest.json")).write_bytes(document.dump())


Forgery = Callable[[Manifest, Manifest], Manifest]
"""Makes the newest manifest another one, given the one before it."""


def _blob_of_before(newest: Manifest, before: Manifest) -> Manifest:
    blobs = {**newest.blobs, "model.safetensors": before.blobs["model.safetensors"]}
    return newest.model_copy(update={"blobs": blobs})


def _records_of_before(newest: Manifest, before: Manifest) -> Manifest:
    return newest.model_copy(update={"objects": {**newest.objects, "model": before.objects["model"]}})


def _with_records(change: Callable[[dict[str, TensorRecord]], dict[str, TensorRecord]]) -> Forgery:
    def forge(newest: Manifest, before: Manifest) -> Manifest:
        model = newest.objects["model"]
        changed = model.model_copy(update={"tensors": change(dict(model.tensors))})
        return newest.model_copy(update={"objects": {**newest.objects, "model": changed}})

    return forge


def _swapped(tensors: dict[str, TensorRecord]) -> dict[str, TensorRecord]:
    return tensors | {"0.bias": tensors["1.bias"], "1.bias": tensors["0.bias"]}


def _other(key: str, **facts: Any) -> Callable[[dict[str, TensorRecord]], dict[str, TensorRecord]]:
    return lambda tensors: tensors | {key: tensors[key].model_copy(update=facts)}


def _renamed(tensors: dict[str, TensorRecord]) -> dict[str, TensorRecord]:
    return {"4.weight" if key == "3.weight" else key: record for key, record in tensors.items()}


def _shape(*sizes: int) -> dict[str, list[int]]:
    return {"shape": list(sizes), "global_shape": list(sizes), "offsets": [0] * len(sizes)}


FORGERIES: dict[str, tuple[Forgery, str]] = {
    "the blob of the save before": (
        _blob_of_before,
        r"tensor '.*': digest differs: [0-9a-f]{32}, expected [0-9a-f]{32}",
    ),
    "the records of the save before": (_records_of_before, "tensor '.*': digest differs"),
    "two records swapped": (_with_records(_swapped), r"tensor '[01]\.bias': digest differs"),
    "another dtype": (
        _with_records(_other("0.weight", dtype="int32")),
        r"tensor '0\.weight': the file holds F32\[4, 2\], expected int32\[4, 2\]",
    ),
    "a dtype of other width": (_with_records(_other("0.weight", dtype="complex64")), r"expected complex64\[4, 2\]"),
    "another shape": (
        _with_records(_other("0.weight", **_shape(2, 4))),
        r"tensor '0\.weight': the file holds F32\[4, 2\], expected float32\[2, 4\]",
    ),
    "another name": (_with_records(_renamed), r"tensor '4\.weight': not in the file"),
    "one too few": (
        _with_records(lambda tensors: {key: tensors[key] for key in tensors if key != "3.weight"}),
        r"tensor '3\.weight': in the file, and not recorded",
    ),
    "an alias that has bytes": (
        _with_records(lambda tensors: tensors | {"1.bias": tensors["0.bias"].model_copy(update={"alias": "0.bias"})}),
        r"tensor '1\.bias': in the file, and not recorded",
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_whole_blob_that_is_another_one_is_named_with_its_tensor(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forge, error = FORGERIES[kind]
    rewritten(run, forge(manifest(run), manifest(run, BEFORE)))
    forged = run_of(run)  # the cheap checks find nothing
    with pytest.raises(CorruptCheckpointError, match=rf"^model\.safetensors: {OTHER}: .*{error}"):
        forged.verify()
    with pytest.raises(SystemExit, match="1"):
        app(["verify", "--json", str(run)])
    verdicts = {each["name"]: each for each in json.loads(capsys.readouterr().out)["checkpoints"]}
    assert {name for name, each in verdicts.items() if each["verdict"] == "bad"} == {NEWEST}
    assert OTHER in verdicts[NEWEST]["reason"]
    with pytest.raises(CorruptCheckpointError, match=f"{NEWEST}: it would stay as the newest, but it is damaged"):
        app(["prune", "--keep-last", "1", str(run)])
    assert steps_of(run) == [2, 4, 6]


def test_a_launch_goes_on_from_the_checkpoint_before_it(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resumable")
    rewritten(run, _blob_of_before(manifest(run), manifest(run, BEFORE)))
    with Tiny(run).trainer():
        pass
    [rejected] = [message for message in caplog.messages if message.startswith("REJECT")]
    assert NEWEST in rejected
    assert f"model.safetensors: {OTHER}: tensor '" in rejected
    assert f"next={BEFORE}" in rejected
    [resumed] = [message for message in caplog.messages if message.startswith("RESUME")]
    assert f"from={BEFORE}" in resumed


def test_a_blob_that_is_no_file_of_tensors_is_named(run: Path) -> None:
    newest = manifest(run)
    state = newest.blobs["state.rank00000.json"]
    blobs = {**newest.blobs, "model.safetensors": state}
    rewritten(run, newest.model_copy(update={"blobs": blobs}))
    with pytest.raises(CorruptCheckpointError, match=rf"^model\.safetensors: {OTHER}: a header of"):
        run_of(run).verify()


def test_every_byte_is_read_once(run: Path) -> None:
    class Counting(Misreading):
        bytes_read = 0

        def read_into(self, path: str, buffer: memoryview, **how: Any) -> int:
            got = super().read_into(path, buffer, **how)
            self.bytes_read += got
            return got

    storage = Counting(run)
    catalog = Catalog(storage)
    [(name, found), *_] = catalog.history()
    verify(catalog, found, name)
    assert storage.bytes_read == sum(blob.size for blob in found.blobs.values())


def test_one_wrong_read_is_no_other_file(run: Path) -> None:
    for number in range(1, 4):
        storage = Misreading(run, path=NEWEST, wrong={number + 1})  # the first is of the manifest
        catalog = Catalog(storage)
        name = CheckpointName.parse(NEWEST)
        assert name
        verify(catalog, catalog.manifest(name), name)
        assert len(storage.dropped) == 1


class Odd(torch.nn.Module):
    """A tensor of every dtype that there is, empty ones, one under two names, and frozen ones."""

    def __init__(self) -> None:
        super().__init__()
        for number, (name, dtype) in enumerate(DTYPES.items()):
            tensor = torch.empty(3, number % 3, 2, dtype=dtype)
            if tensor.numel():
                raw(tensor).view(torch.uint8).fill_(number % 2)
            self.register_buffer(f"of_{name}", tensor)
        self.first = self.second = torch.nn.Parameter(torch.rand(4, 3).t())
        self.frozen = torch.nn.Parameter(torch.rand(5), requires_grad=False)


@pytest.mark.filterwarnings("ignore:.*support is experimental:UserWarning")  # ComplexHalf; BComplex32 in torch 2.14
def test_checkpoints_of_whatever_can_be_stored_verify(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Odd()
    with Trainer({"run": str(tmp_path / "run"), "every": {"steps": 1}, "progress": "never"}, model=model) as trainer:
        for _ in trainer.steps(3):
            with torch.no_grad():
                model.first += 1
    checkpoints = Run(str(tmp_path / "run")).checkpoints()
    assert len(checkpoints) == 3
    for checkpoint in checkpoints:
        checkpoint.verify()
    records = checkpoints[-1].manifest.objects["model"]
    assert len(records.blobs) == 2
    assert any(record.alias for record in records.tensors.values())
    for key, record in records.tensors.items():
        if record.alias is None and not any(each.alias == key for each in records.tensors.values()):
            changed = _with_records(_other(key, digest="0" * 32))(checkpoints[-1].manifest, checkpoints[-1].manifest)
            with pytest.raises(CorruptCheckpointError, match=rf"^model\.\S+: {OTHER}: tensor '{key}': digest differs"):
                verify(Catalog(Misreading(tmp_path / "run")), changed, changed.name)
