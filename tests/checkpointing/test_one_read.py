"""A restart from a storage without a page cache reads each blob once, and restores what it verified."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from torch import nn

import resumable.checkpointing.checkpointer
from resumable import CorruptCheckpointError, Run
from resumable.checkpointing import image_memory
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.protocol import Seen
from resumable.store.storage.retry import PatientStorage
from tests.golden.launch import Golden
from tests.tiny import Tiny, assert_equal_ends, crashed

Objects = dict[str, Any]


class Bucket(FsspecStorage):
    """A storage without a page cache, over a folder; counts what is read of each file."""

    def __init__(self, root: Path) -> None:
        super().__init__(DirFileSystem(str(root), LocalFileSystem(auto_mkdir=True)), "", str(root))
        self.read_bytes: dict[str, int] = {}
        self.harmed: set[int] = set()  # numbers of reads of blobs of tensors, from 1, that go wrong in one bit
        self.reads = 0

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        got = super().read_into(path, buffer, offset=offset)
        name = path.rpartition("/")[2]
        self.read_bytes[name] = self.read_bytes.get(name, 0) + got
        self.reads += name.endswith(".safetensors")
        if self.reads in self.harmed:
            buffer.cast("B")[got // 2] ^= 4
        if seen:
            seen(buffer.cast("B")[:got], offset)
        return got

    def taken(self) -> dict[str, int]:
        """The bytes read of blobs of tensors since the last call."""
        found, self.read_bytes = self.read_bytes, {}
        return {name: count for name, count in found.items() if name.endswith(".safetensors")}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket(tmp_path / "run")
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(bucket)
    )
    return bucket


@pytest.fixture
def opened(tmp_path: Path, bucket: Bucket) -> Iterator[Callable[..., Checkpointer]]:
    made: list[Checkpointer] = []

    def opening(given: Objects, **config: Any) -> Checkpointer:
        values = {"run": str(tmp_path / "run"), "data_seed": 1, "fencing": "off"} | config
        made.append(Checkpointer(Config.load(values), given))
        return made[-1]

    yield opening
    for checkpointer in made:
        checkpointer.close()


def objects(seed: int, **more: Any) -> Objects:
    """A module with frozen and trained weights, strides and a bool, an optimizer with its state, and gradients."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Conv2d(3, 4, 3), nn.Linear(300, 8))
    module.to(memory_format=torch.channels_last)
    module[0].requires_grad_(False)
    module.register_buffer("mask", torch.rand(9) > 0.5)
    optimizer = torch.optim.AdamW([each for each in module.parameters() if each.requires_grad], lr=0.1)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    module[3].weight.grad = torch.rand_like(module[3].weight)  # not used by an optimizer yet
    return {"model": module, "optimizer": optimizer, "notes": {"means": torch.rand(70)}} | more


def values(given: Objects) -> dict[str, torch.Tensor]:
    states = given["optimizer"].state_dict()["state"].items()
    moments = {f"{number}.{key}": value for number, state in states for key, value in state.items()}
    notes = {"means": given["notes"]["means"], "grad": given["model"][3].weight.grad}
    return {key: value.detach().clone() for key, value in {**given["model"].state_dict(), **moments, **notes}.items()}


def header_bytes(bucket: Bucket, name: str) -> int:
    """The length of a blob's header, which nobody needs to read who has the records."""
    [blob] = Path(bucket.url).glob(f"checkpoints/*/{name}")
    return 8 + int.from_bytes(blob.read_bytes()[:8], "little")


def saved(checkpointer: Checkpointer, *, step: int = 0) -> dict[str, int]:
    """Save, and return the sizes of the blobs of tensors."""
    checkpointer.save(Position(step=step), reason="test")
    checkpointer.drain()
    checkpointer.close()
    blobs = Run(checkpointer.config.location).latest().manifest.blobs
    return {name: blob.size for name, blob in blobs.items() if name.endswith(".safetensors")}


def assert_same(given: Objects, wanted: dict[str, torch.Tensor]) -> None:
    found = values(given)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def buffers(checkpointer: Checkpointer) -> dict[str, int]:
    return {name: buffer.data_ptr() for name, buffer in checkpointer._stager._buffers.items()}


def test_each_blob_is_read_once_and_its_memory_is_what_the_first_save_stages_into(opened: Any, bucket: Bucket) -> None:
    source, target = objects(1), objects(2)
    sizes = saved(opened(source))
    assert {"model.safetensors", "model.frozen.safetensors", "gradients.safetensors"} < sizes.keys()
    bucket.taken()
    checkpointer = opened(target)
    assert bucket.taken() == sizes
    checkpointer.restore()
    assert_same(target, values(source))
    with torch.no_grad():
        target["model"][3].weight.zero_()
    checkpointer.restore()  # as at the first fetch: what differs is copied again
    assert_same(target, values(source))
    assert bucket.taken() == {}, "everything was copied out of what was verified"
    before = buffers(checkpointer)
    assert saved(checkpointer, step=1) == sizes
    assert buffers(checkpointer) == before
    assert_same(target, values(source))


def test_nothing_is_copied_out_of_memory_that_a_save_has_reused(
    opened: Any, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = objects(1), objects(2)
    saved(opened(source))
    checkpointer = opened(target)
    checkpointer.restore()
    with torch.no_grad():
        for parameter in target["model"].parameters():
            parameter.add_(1)
    checkpointer.save(Position(step=1), reason="test")
    checkpointer.drain()
    bucket.taken()
    checkpointer.restore()
    assert bucket.taken()["model.safetensors"] > 0
    assert not [line for line in caplog.messages if "returned other bytes" in line], (
        "or it was found by its digest only"
    )
    assert_same(target, values(source))


@pytest.mark.parametrize("limit", ["max_bytes", "memory"])
def test_files_beyond_the_memory_are_read_twice(
    opened: Any, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    large = {"table": {"numbers": torch.rand(300_000)}}  # more than the smallest max_bytes
    source, target = objects(1, **large), objects(2, table={"numbers": torch.rand(300_000)})
    sizes = saved(opened(source))
    if limit == "memory":
        monkeypatch.setattr(image_memory, "available_bytes", lambda: sum(sizes.values()) - 1)
    bucket.taken()
    checkpointer = opened(target, **({"staging": {"max_bytes": 2**20}} if limit == "max_bytes" else {}))
    assert bucket.taken() == sizes
    assert not buffers(checkpointer)
    checkpointer.restore()
    assert bucket.taken() == {name: size - header_bytes(bucket, name) for name, size in sizes.items()}
    assert_same(target, values(source))
    assert torch.equal(target["table"]["numbers"], source["table"]["numbers"])


def test_the_memory_of_a_damaged_checkpoint_goes_to_the_one_before(
    opened: Any, bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resumable")
    source, target = objects(1), objects(2)
    older = saved(opened(source))
    wanted = values(source)
    later = opened(source)
    later.restore()
    with torch.no_grad():
        source["model"][3].weight.add_(1)
    saved(later, step=1)
    newest = Run(str(tmp_path / "run")).latest()
    path = tmp_path / "run" / newest.manifest.blobs["optimizer.safetensors"].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    checkpointer = opened(target)
    assert any(line.startswith("REJECT") for line in caplog.messages)
    checkpointer.begin_attempt()  # which looks once more
    bucket.taken()
    checkpointer.restore()
    assert bucket.taken() == {}
    assert buffers(checkpointer).keys() == older.keys()
    assert_same(target, wanted)


def test_a_wrong_read_of_a_launch_is_read_again_into_the_same_memory(opened: Any, bucket: Bucket) -> None:
    source, target = objects(1), objects(2)
    sizes = saved(opened(source))
    bucket.taken()
    bucket.reads, bucket.harmed = 0, {2}
    checkpointer = opened(target)
    assert sum(bucket.taken().values()) > sum(sizes.values())
    checkpointer.restore()
    assert bucket.taken() == {}
    assert_same(target, values(source))


def test_memory_that_changed_since_it_was_verified_is_read_from_the_storage(opened: Any, bucket: Bucket) -> None:
    source, target = objects(1), objects(2)
    saved(opened(source))
    checkpointer = opened(target)
    bucket.taken()
    checkpointer._stager._buffers["optimizer.safetensors"][-70_000:] = 0  # as faulty memory would
    checkpointer.restore()
    assert bucket.taken().keys() == {"optimizer.safetensors"}
    assert_same(target, values(source))


def test_what_changes_in_the_storage_after_it_was_verified_changes_nothing(
    opened: Any, bucket: Bucket, tmp_path: Path
) -> None:
    source, target = objects(1), objects(2)
    saved(opened(source))
    checkpointer = opened(target)
    path = tmp_path / "run" / checkpointer.resumed.manifest.blobs["model.safetensors"].path
    path.write_bytes(bytes(path.stat().st_size))
    checkpointer.restore()
    assert_same(target, values(source))
    with pytest.raises(CorruptCheckpointError):
        Run(str(tmp_path / "run")).latest().verify()


def test_an_object_that_is_created_late_is_restored_out_of_memory(opened: Any, bucket: Bucket) -> None:
    source, target = objects(1), objects(2)
    early = {name: source[name] for name in ("model", "notes")}
    first = opened(early)
    first.hold(source, late=["optimizer"])
    saved(first)
    checkpointer = opened({name: target[name] for name in ("model", "notes")})
    checkpointer.restore(without=["optimizer"])
    checkpointer.hold(target, late=["optimizer"])
    bucket.taken()
    checkpointer.restore()
    assert bucket.taken() == {}
    assert_same(target, values(source))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_run_of_an_earlier_version_is_read_once_too(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    for name in ("run", "whole"):
        run = Path(shutil.copytree(Path(__file__).parents[1] / "golden" / version / "run", tmp_path / name))
        shutil.rmtree(run / "checkpoints" / "step-000000008.e0002.a0002")
    launch = Golden(tmp_path / "run")
    launch.config["fencing"] = "off"
    launch.train()
    assert launch.tally.seen
    taken = bucket.taken()
    blobs = Run(str(tmp_path / "whole")).latest().manifest.blobs
    assert taken == {name: blobs[name].size for name in taken}
    assert "model.safetensors" in taken
    monkeypatch.undo()
    Golden(tmp_path / "whole").train()
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")


def test_a_training_is_exact_and_reads_each_blob_once(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed(tmp_path / "run", step=5, fencing="off")
    sizes = {name: blob.size for name, blob in Run(str(tmp_path / "run")).latest().manifest.blobs.items()}
    bucket.taken()
    Tiny(tmp_path / "run", fencing="off").train()
    taken = bucket.taken()
    assert taken == {name: sizes[name] for name in taken}
    assert {"model.safetensors", "optimizer.safetensors"} <= taken.keys()
    monkeypatch.undo()
    Tiny(tmp_path / "whole").train()
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
