"""Runs most of whose weights are frozen: what they write, what they share, and what one rotten file takes along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable import Run, Trainer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.errors import CorruptCheckpointError
from resumable.state.staging.host_memory import HostTransfer
from resumable.state.staging.stager import Stager
from resumable.state.tensors.facts import tensor_digest
from resumable.state.tensors.slabs import SlabSizes
from resumable.store.storage.open import open_storage

FROZEN = "model.frozen.safetensors"
KEEP_ALL = {"last": 1000}


class Adapted(nn.Module):
    """A large layer that is not trained, and a small one beside it that is: 98 % of the bytes are frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.base = nn.Linear(400, 400)
        self.base.requires_grad_(False)
        self.down, self.up = nn.Linear(400, 1, bias=False), nn.Linear(1, 400, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base(x) + self.up(self.down(x))
        return result


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run in a folder, where files can have several names, and one where they cannot."""
    return str(tmp_path / "run") if request.param == "folder" else f"memory://{tmp_path.name}/run"


def train(place: str, steps: int, **config: Any) -> Iterator[tuple[Trainer, Adapted]]:
    """A loop that saves at each step; control is back before each step's boundary."""
    model = Adapted()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    config = {"run": place, "every": {"steps": 1}, "keep": KEEP_ALL, "fencing": "off"} | config
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.steps(steps):
            model(torch.randn(2, 400)).square().mean().backward()
            optimizer.step()
            model.zero_grad()
            trainer._launch.checkpointer.drain()
            yield trainer, model


def run(place: str, steps: int, **config: Any) -> Adapted:
    *_, (_, model) = train(place, steps, **config)
    return model


def checkpoints(place: str) -> list[Any]:
    return Run(place).checkpoints()


def identity(place: str, checkpoint: Any) -> object:
    """Which file it is: the inode in a folder, the path elsewhere."""
    path = checkpoint.manifest.blobs[FROZEN].path
    return path if place.startswith("memory") else (Path(place) / path).stat().st_ino


def test_frozen_weights_are_written_once_and_shared_by_ten_checkpoints(place: str) -> None:
    run(place, 24)
    found = checkpoints(place)
    files = [identity(place, checkpoint) for checkpoint in found]
    shared = [files.count(each) for each in dict.fromkeys(files)]
    assert shared == [10, 10, 5]
    sizes = {name: blob.size for name, blob in found[-1].manifest.blobs.items() if name.endswith("tensors")}
    assert sum(size for name, size in sizes.items() if name != FROZEN) < 0.03 * sizes[FROZEN]


def test_every_checkpoint_that_shares_loads_and_verifies(place: str) -> None:
    model = run(place, 5)
    for checkpoint in checkpoints(place):
        checkpoint.verify()
        weights = checkpoint.load("model")
        assert torch.equal(weights["base.weight"], model.base.weight)
    assert {key: tensor_digest(value) for key, value in weights.items()} == {
        key: tensor_digest(value) for key, value in model.state_dict().items()
    }


def test_frozen_weights_that_change_behind_every_back_are_written(place: str) -> None:
    for trainer, model in train(place, 6):
        if trainer.step == 3:
            model.base.weight.detach().numpy()[0, 0] += 1.0  # no version counter tells of it
    first = [checkpoint.load("model")["base.weight"][0, 0].item() for checkpoint in checkpoints(place)]
    assert first == [first[0]] * 4 + [first[-1]] * 3
    assert first[-1] == pytest.approx(first[0] + 1.0)


def test_weights_that_are_thawed_are_saved_as_they_change(place: str) -> None:
    for trainer, model in train(place, 6):
        if trainer.step >= 2:
            model.base.requires_grad_(trainer.step % 2 == 0)
            with torch.no_grad():
                model.base.bias += 1.0
        saved = checkpoints(place)[-1].load("model")["base.bias"]
    found = checkpoints(place)
    values = [checkpoint.load("model")["base.bias"][0].item() for checkpoint in found]
    assert len(set(values)) == 5
    assert torch.equal(found[-1].load("model")["base.bias"], model.base.bias)
    assert not torch.equal(saved, model.base.bias)


def test_retention_keeps_what_a_kept_checkpoint_shares(place: str) -> None:
    model = run(place, 14, keep={"last": 2, "best": None})
    found = checkpoints(place)
    assert [checkpoint.step for checkpoint in found][-2:] == [13, 14]
    for checkpoint in found:
        checkpoint.verify()
    owners = {checkpoint.manifest.blobs[FROZEN].path.split("/")[1] for checkpoint in found}
    assert len(found) <= 3
    assert owners <= {checkpoint.name for checkpoint in found}
    assert torch.equal(found[-1].load("model")["base.weight"], model.base.weight)


def test_a_rotten_file_takes_at_most_those_that_share_it(place: str) -> None:
    run(place, 24)
    found = checkpoints(place)
    storage = open_storage(place)
    path = found[12].manifest.blobs[FROZEN].path
    content = bytearray(storage.read(path))
    content[-5] ^= 1
    if place.startswith("memory"):
        storage.write(path, [content])
    else:
        (Path(place) / path).write_bytes(content)  # in place, as a disk rots; `write` would put another file there
    rotten = 0
    for checkpoint in checkpoints(place):
        try:
            checkpoint.verify()
        except CorruptCheckpointError:
            rotten += 1
    assert rotten == 10


def test_a_launch_shares_on_with_the_checkpoint_that_it_resumed_from(place: str) -> None:
    for steps in (3, 6, 9, 12):
        run(place, steps)
    found = checkpoints(place)
    files = [identity(place, checkpoint) for checkpoint in found]
    assert files[:10] == [files[0]] * 10
    assert files[10:] == [files[10]] * 3
    assert files[0] != files[10]
    assert [checkpoint.manifest.blobs[FROZEN].named for checkpoint in found] == [*range(1, 11), 1, 2, 3]


def test_a_launch_shares_nothing_with_a_checkpoint_of_another_content(place: str) -> None:
    run(place, 3)
    for trainer, model in train(place, 6):
        if trainer.step == 3:
            with torch.no_grad():
                model.base.weight += 1
    files = [identity(place, checkpoint) for checkpoint in checkpoints(place)]
    assert files[:4] == [files[0]] * 4
    assert files[0] not in files[4:]


def test_a_shared_file_that_somebody_removed_is_written_anew(place: str) -> None:
    for trainer, _ in train(place, 5):
        if trainer.step == 2:
            storage = open_storage(place)
            for checkpoint in checkpoints(place):
                storage.remove(checkpoint.manifest.blobs[FROZEN].path)
    assert [checkpoint.step for checkpoint in checkpoints(place)] == [3, 4, 5]
    for checkpoint in checkpoints(place):
        checkpoint.verify()


def test_a_module_that_trains_nothing_has_one_file_of_its_usual_name(tmp_path: Path) -> None:
    model, average = Adapted(), Adapted().requires_grad_(False)
    with Trainer({"run": str(tmp_path)}, model=model, average=average) as trainer:
        for _ in trainer.steps(2):
            pass
    blobs = Run(str(tmp_path)).latest().manifest.blobs
    assert {"average.safetensors", "model.safetensors", FROZEN} <= blobs.keys()
    assert "average.frozen.safetensors" not in blobs


class ScarceMemory(HostTransfer):
    """The memory of this machine, of which none is left while `used_up` is set."""

    used_up = False

    def allocate(self, nbytes: int) -> torch.Tensor:
        if self.used_up:
            raise MemoryError
        return super().allocate(nbytes)


def test_weights_that_were_staged_for_a_save_without_memory_are_not_taken_for_saved_ones(tmp_path: Path) -> None:
    """A larger buffer found no memory. The next save shared the frozen weights of the save before all the same."""
    memory, place = ScarceMemory(), str(tmp_path / "run")
    model, buffer = Adapted(), {"rows": torch.zeros(100, 64)}
    sizes = SlabSizes(least_bytes=2**14, slab_bytes=2**13)
    config = Config.load({"run": place, "keep": KEEP_ALL})
    saves = Checkpointer(config, {"model": model, "buffer": buffer}, stager=Stager(memory), slab_sizes=sizes)
    for step in range(3):
        saves.save(Position(step=step), reason="test")
    saves.drain()
    model.base.weight.data.fill_(3.0)
    rows, buffer["rows"], memory.used_up = buffer["rows"], torch.zeros(1000, 64), True
    with pytest.raises(MemoryError):
        saves.save(Position(step=3), reason="test")
    buffer["rows"], memory.used_up = rows, False
    saves.save(Position(step=4), reason="test")
    saves.close()
    newest = Run(place).latest()
    newest.verify()
    assert torch.equal(newest.load("model")["base.weight"], model.base.weight)
