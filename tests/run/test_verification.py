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
from resumable.state.tensors.facts import DTYPES, raw
from resumable.store.catalog import Catalog
from resumable.store.layout import CHECKPOINTS, CheckpointName
from tests.faults.forgery import STATE_BLOB, Forgery
from tests.misreading import Misreading
from tests.tiny import Tiny, crashed, steps_of

NEWEST, BEFORE = "step-000000006.e0001.a0001", "step-000000004.e0000.a0001"
OTHER = "whole, but not the file that the records describe"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed, with checkpoints after 2, 4 and 6."""
    run = tmp_path_factory.mktemp("before") / "run"
    crashed(run, step=6)
    return run


@pytest.fixture
def run(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "run")


def run_of(run: Path, name: str = NEWEST) -> Checkpoint:
    return Run(str(run)).select(name)


def model_of(run: Path, name: str) -> dict[str, Any]:
    """What a checkpoint records of its model."""
    state = json.loads((run / CHECKPOINTS / name / STATE_BLOB).read_bytes())
    columns: dict[str, Any] = state["tensors"]["model"]
    return columns


Change = Callable[[dict[str, Any]], object]
"""Changes the columns of the model."""


def _blob_of_before(run: Path) -> None:
    """The newest checkpoint names the model of the one before, with its digests."""
    forgery = Forgery(run)
    blob = forgery.folder / "model.safetensors"
    before = (run / CHECKPOINTS / BEFORE / "model.safetensors").read_bytes()
    blob.unlink()
    forgery.write_blob("model.safetensors", before)


def _records_of_before(run: Path) -> None:
    Forgery(run).change_state(lambda state: state["tensors"].update(model=model_of(run, BEFORE)))


def _with_columns(change: Change) -> Callable[[Path], None]:
    return lambda run: Forgery(run).change_state(lambda state: change(state["tensors"]["model"]))


def _other(key: str, **facts: Any) -> Callable[[Path], None]:
    return lambda run: Forgery(run).change_tensor("model", key, **facts)


def _swapped(columns: dict[str, Any]) -> None:
    keys = columns["keys"]
    one, other = keys.index("0.bias"), keys.index("1.bias")
    keys[one], keys[other] = keys[other], keys[one]


def _dropped(columns: dict[str, Any]) -> None:
    """Without the last piece, and its key."""
    assert columns["pieces"]["key"][-1] == len(columns["keys"]) - 1
    for name in ("keys", "dtypes", "shapes"):
        columns[name].pop()
    for name in ("key", "blob", "begin", "offsets", "shape"):
        columns["pieces"][name].pop()
    columns["pieces"]["digest"] = columns["pieces"]["digest"][:-32]


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "the blob of the save before": (
        _blob_of_before,
        r"tensor '.*': digest differs: [0-9a-f]{32}, expected [0-9a-f]{32}",
    ),
    "the records of the save before": (_records_of_before, "tensor '.*': digest differs"),
    "two records swapped": (_with_columns(_swapped), r"tensor '[01]\.bias': begins at byte \d+, expected \d+"),
    "another dtype": (
        _other("0.weight", dtypes="int32"),
        r"tensor '0\.weight': the file holds F32\[20, 2\], expected int32\[20, 2\]",
    ),
    "another shape": (
        _other("0.weight", shapes=[2, 20]),
        r"tensor '0\.weight': the file holds F32\[20, 2\], expected float32\[2, 20\]",
    ),
    "another name": (_other("3.weight", keys="4.weight"), r"tensor '3\.weight': in the file, and not recorded"),
    "one too few": (_with_columns(_dropped), r"tensor '.*': in the file, and not recorded"),
    "another digest": (_other("0.weight", digest="0" * 32), r"tensor '0\.weight': digest differs"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_whole_blob_that_is_another_one_is_named_with_its_tensor(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forge, error = FORGERIES[kind]
    forge(run)
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
    _blob_of_before(run)
    with Tiny(run).trainer() as trainer:
        trainer.restore()
    [rejected] = [message for message in caplog.messages if message.startswith("REJECT")]
    assert NEWEST in rejected
    assert f"model.safetensors: {OTHER}: tensor '" in rejected
    assert f"next={BEFORE}" in rejected
    [resumed] = [message for message in caplog.messages if message.startswith("RESUME")]
    assert f"from={BEFORE}" in resumed


def test_a_blob_that_is_no_file_of_tensors_is_named(run: Path) -> None:
    forgery = Forgery(run)
    forgery.write_blob("model.safetensors", (forgery.folder / STATE_BLOB).read_bytes())
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
    Checkpoint(catalog, name, found).verify()
    assert storage.bytes_read == sum(blob.size for blob in found.blobs.values())


def test_one_wrong_read_is_no_other_file(run: Path) -> None:
    for number in range(1, 4):
        storage = Misreading(run, path=NEWEST, wrong={number + 1})  # the first is of the manifest
        catalog = Catalog(storage)
        name = CheckpointName.parse(NEWEST)
        assert name
        Checkpoint(catalog, name, catalog.manifest(name)).verify()
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
    records = checkpoints[-1].records["model"]
    assert len(checkpoints[-1].blobs_of("model")) == 2
    assert any(record.alias for record in records.values())
    for key, record in records.items():
        if record.alias is None and not any(each.alias == key for each in records.values()):
            before = {path: path.read_bytes() for path in Forgery(tmp_path / "run").folder.iterdir()}
            _other(key, digest="0" * 32)(tmp_path / "run")
            with pytest.raises(CorruptCheckpointError, match=rf"^model\.\S+: {OTHER}: tensor '{key}': digest differs"):
                Run(str(tmp_path / "run")).latest().verify()
            for path, data in before.items():
                path.write_bytes(data)
