"""What memory saves keep: made ready beside the training, reused, counted, and a limit under which none is kept."""

from __future__ import annotations

import logging
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import resumable.checkpointing.checkpointer
from resumable import Run, Trainer
from resumable.state.staging.file_images import WINDOW_BYTES
from resumable.state.tensors.facts import tensor_digest
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.retry import PatientStorage

LARGE = 600  # squared and times four bytes: more than the smallest limit


@pytest.fixture(autouse=True)
def events(caplog: pytest.LogCaptureFixture) -> None:
    """The log lines of the run are there to be read."""
    caplog.set_level(logging.INFO, "resumable")


def train(run: Path, steps: int = 6, **config: object) -> tuple[Trainer, nn.Module]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(LARGE, LARGE), nn.BatchNorm1d(LARGE), nn.Linear(LARGE, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"run": str(run), "every": {"steps": 2}, "keep": {"last": 10}} | config
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.steps(steps):
            trainer._launch.checkpointer.wait()  # no save is put off because the one before is still being written
            model(torch.randn(4, LARGE)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return trainer, model


def saved(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("SAVED")]
    return [match[1] for line in lines if (match := re.search(rf"{what}=(\S+)", line))]


@pytest.mark.parametrize("mode", ["eager", "overlap"])
def test_what_is_kept_is_one_copy_of_the_state_and_grows_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    trainer, _ = train(tmp_path, 12, staging={"mode": mode})
    buffers, sizes = saved(caplog, "buffers"), saved(caplog, "size")
    assert len(set(buffers[1:])) == 1, "the first one has no moments yet"
    state_bytes = Run(str(tmp_path)).latest().size_bytes
    assert state_bytes <= trainer._launch.checkpointer._stager.nbytes <= state_bytes + 3 * 2**20
    assert len(sizes) == len(buffers)


def test_memory_for_the_moments_is_made_ready_before_the_first_save_that_has_them(tmp_path: Path) -> None:
    model = nn.Linear(LARGE, LARGE)
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"run": str(tmp_path), "every": {"steps": 5, "minutes": None}}
    kept = []
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.steps(4):
            trainer._launch.checkpointer.wait()
            kept.append(trainer._launch.checkpointer._stager.nbytes)
            model(torch.randn(4, LARGE)).square().mean().backward()
            optimizer.step()
    one = LARGE * (LARGE + 1) * 4
    assert kept[0] < 2 * one + 2**20
    assert kept[1] > 3 * one
    assert len(set(kept[1:])) == 1


@pytest.mark.parametrize("mode", ["eager", "overlap"])
def test_a_state_beyond_the_limit_is_streamed_and_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    _, model = train(tmp_path / "streamed", staging={"mode": mode, "max_bytes": 2**20})
    assert set(saved(caplog, "buffers")) == {"1.0MiB"}
    train(tmp_path / "staged")
    streamed, staged = Run(str(tmp_path / "streamed")), Run(str(tmp_path / "staged"))
    for one, two in zip(streamed.checkpoints(), staged.checkpoints(), strict=True):
        one.verify()
        assert {name: blob.digest for name, blob in one.manifest.blobs.items() if name.endswith("tensors")} == {
            name: blob.digest for name, blob in two.manifest.blobs.items() if name.endswith("tensors")
        }
    assert {key: tensor_digest(value) for key, value in streamed.latest().load("model").items()} == {
        key: tensor_digest(value) for key, value in model.state_dict().items()
    }


def test_a_streamed_state_is_right_where_several_files_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStorage, "parallel", 8)
    _, model = train(tmp_path, staging={"max_bytes": 2**20})
    for checkpoint in Run(str(tmp_path)).checkpoints():
        checkpoint.verify()
    weights = Run(str(tmp_path)).latest().load("model")
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


class Weighed(LocalStorage):
    """A folder that notes how much memory this program has while a file is written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.most_bytes = 0

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        def weighed() -> Iterator[bytes | memoryview]:
            for chunk in chunks:
                self.most_bytes = max(self.most_bytes, resident_bytes())
                yield chunk

        super().write(path, weighed())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_the_first_save_of_a_run_takes_no_memory_but_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Weighed(tmp_path)
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(disk)
    )
    model = {"weights": torch.ones(WINDOW_BYTES)}  # four windows
    grown = []
    with Trainer({"run": str(tmp_path), "every": {"steps": None, "minutes": None}}, model=model) as trainer:
        before = resident_bytes()
        for _ in trainer.steps(2):
            grown.append(disk.most_bytes - before)
            trainer._launch.checkpointer.wait()
    assert WINDOW_BYTES / 2 < grown[0] < 2 * WINDOW_BYTES
    assert disk.most_bytes - before > 4 * WINDOW_BYTES, "the last save is staged, which shows that memory is seen"
    for checkpoint in Run(str(tmp_path)).checkpoints():
        checkpoint.verify()


def test_memory_of_gradients_that_waited_once_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(LARGE, LARGE)
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"run": str(tmp_path), "every": {"steps": 4, "minutes": None}, "signals": []}
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        for step in trainer.steps(16):
            trainer._launch.checkpointer.wait()
            model(torch.randn(4, LARGE)).square().mean().backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            if step == 5:
                trainer.request_save()  # in the midst of a window: with the gradients
    size_bytes = Run(str(tmp_path)).latest().size_bytes
    assert trainer._launch.checkpointer._stager.nbytes <= size_bytes + 3 * 2**16
    assert max(saved(caplog, "size")) > saved(caplog, "size")[-1]


def test_a_state_within_the_limit_is_staged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, staging={"max_bytes": 2**30})
    assert "1.0MiB" not in saved(caplog, "buffers")
