"""One bit of one read is wrong and the file is right: nothing is rejected, deleted or ended, whichever read it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch

import resumable.checkpointing.checkpointer
from resumable import Checkpoint, CorruptCheckpointError, FencedError, Run, StorageError, Trainer
from resumable.store.attempts import begin, read_attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import attempt_path
from resumable.store.storage.protocol import Entry
from resumable.store.storage.retry import PatientStorage
from tests.misreading import EveryRead, Misreading, another_bit, one_bit
from tests.tiny import Tiny, assert_equal_ends, crashed, steps_of, until_written

pytestmark = pytest.mark.usefixtures("_every_line")

EVENT = re.compile(r"^(WARN|REJECT|RESUME)")
NEWEST = "step-000000006.e0001.a0001"
TOLD = "returned other bytes than the next read"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed in step 7, with checkpoints after 2, 4 and 6."""
    run = tmp_path_factory.mktemp("before") / "run"
    crashed(run, step=6)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, never interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    Tiny(run).train()
    return run


@pytest.fixture
def run(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "run")


def read_by(monkeypatch: pytest.MonkeyPatch, storage: Misreading) -> Misreading:
    """Launches read with this storage from here on."""
    monkeypatch.setattr(resumable.checkpointing.checkpointer, "open_storage", lambda *_, **__: PatientStorage(storage))
    return storage


def lines(caplog: pytest.LogCaptureFixture, event: str = "") -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if EVENT.match(message) and message.startswith(event)]


def train(run: Path, **config: Any) -> None:
    """To the end, each save durable before the next step, so that the reads come in one order."""
    tiny = Tiny(run, **config)
    ends = tiny.ends

    def wait(trainer: Trainer) -> None:
        until_written()
        ends(trainer)

    tiny.ends = wait  # type: ignore[method-assign]
    tiny.train()


def test_whichever_read_of_a_launch_is_wrong_it_goes_on_from_the_newest_and_ends_with_the_same_bits(
    run: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted = read_by(monkeypatch, Misreading(shutil.copytree(run, tmp_path / "counted")))
    train(tmp_path / "counted")
    kinds = {re.sub(r".*/", "", path) for path in counted.reads}
    assert kinds >= {"run.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "000002.json"}
    told = 0
    for number in range(1, len(counted.reads) + 1):
        caplog.clear()
        place = shutil.copytree(run, tmp_path / f"run-{number}")
        read_by(monkeypatch, Misreading(place, wrong={number}))
        train(place)
        where = f"read {number}, of {counted.reads[number - 1]}"
        assert not lines(caplog, "REJECT"), where
        [resumed] = lines(caplog, "RESUME")
        assert "step=6 " in resumed, where
        warned = lines(caplog, "WARN")
        assert len(warned) <= 1, (where, warned)
        assert all(TOLD in line for line in warned), (where, warned)
        told += len(warned)
        assert_equal_ends(place, whole)
        assert steps_of(place) == steps_of(tmp_path / "counted"), where
        shutil.rmtree(place)
    # A header of which a bit was read wrong may make the file be read whole instead, and then nothing was wrong.
    assert told >= 0.8 * len(counted.reads)


def test_a_rejection_takes_two_reads_that_agree_and_is_as_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = read_by(monkeypatch, Misreading(run, path=f"{NEWEST}/model.safetensors", wrong=EveryRead()))
    train(run)
    [rejected] = lines(caplog, "REJECT")
    assert NEWEST in rejected
    assert "model.safetensors: digest differs" in rejected
    assert storage.dropped == 2 * [f"checkpoints/{NEWEST}/model.safetensors"]  # a launch looks twice
    [resumed] = lines(caplog, "RESUME")
    assert "step=4 " in resumed


def test_reads_that_never_agree_end_the_launch_and_touch_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(path for path in run.rglob("*") if path.is_file())
    read_by(monkeypatch, Misreading(run, path=f"{NEWEST}/model.safetensors", wrong=EveryRead(), harm=another_bit))
    with pytest.raises(StorageError, match=r"cannot read .*step-000000006.*model\.safetensors: 3 reads"):
        train(run)
    assert sorted(path for path in run.rglob("*") if path.is_file()) == files
    read_by(monkeypatch, Misreading(run))
    train(run)


@pytest.mark.parametrize("wrong", [{1}, {1, 2}], ids=["once", "twice, otherwise"])
def test_one_damaged_read_of_a_run_file_takes_nothing_from_the_manifests(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: Container[int]
) -> None:
    read_by(monkeypatch, Misreading(run, path="run.json", wrong=wrong, harm=another_bit))
    train(run)
    [line] = lines(caplog, "WARN")
    assert TOLD in line
    assert "run.json" in line


# -- the size that a storage tells -------------------------------------------------------------------------------------


class Mismeasuring(Misreading):
    """Tells a wrong size of one blob once: in a list, or where it lists no sizes when it is asked for it."""

    def __init__(self, root: Path, *, lists_sizes: bool) -> None:
        super().__init__(root)
        self._lists_sizes = lists_sizes
        self.wrong_sizes = 0

    def list(self, path: str) -> list[Entry]:
        return [self._listed(path, entry) for entry in super().list(path)]

    def size(self, path: str) -> int:
        return super().size(path) if self._lists_sizes else self._size(path, super().size(path))

    def _listed(self, path: str, entry: Entry) -> Entry:
        if entry.size is None or not self._lists_sizes:
            return Entry(entry.name, entry.is_dir)
        return Entry(entry.name, entry.is_dir, self._size(f"{path}/{entry.name}", entry.size))

    def _size(self, path: str, right: int) -> int:
        if path.endswith(f"{NEWEST}/model.safetensors") and not self.wrong_sizes:
            self.wrong_sizes += 1
            return right - 1
        return right


@pytest.mark.parametrize("lists_sizes", [True, False])
def test_one_wrong_size_rejects_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lists_sizes: bool
) -> None:
    storage = Mismeasuring(run, lists_sizes=lists_sizes)
    read_by(monkeypatch, storage)
    train(run)
    assert storage.wrong_sizes == 1
    assert not lines(caplog, "REJECT")
    [line] = lines(caplog, "WARN")
    assert TOLD in line
    assert "model.safetensors" in line


# -- live tensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_live_tensors_are_filled_once_more_after_any_wrong_read(run: Path, name: str) -> None:
    right = Run(str(run)).latest().tensors(name)
    counted = Misreading(run)
    opened(counted).tensors(name)
    for number in range(1, len(counted.reads) + 1):
        into = {key: torch.full_like(tensor, 3) for key, tensor in right.items()}
        given = dict(into)
        got = opened(Misreading(run, wrong={number})).tensors(name, into=into)
        assert all(got[key] is given[key] for key in right if right[key].numel())
        assert all(torch.equal(got[key], right[key]) for key in right), number


def test_one_tensor_at_a_time_is_read_once_more_too(run: Path) -> None:
    right = Run(str(run)).latest().tensors("model")
    for number in range(1, 2 + len(right)):
        read = opened(Misreading(run, path="model.safetensors", wrong={number})).reader("model")
        assert all(torch.equal(read(key), right[key]) for key in right), number


def test_a_tensor_that_is_damaged_itself_is_named_after_two_reads(run: Path) -> None:
    storage = Misreading(run, path="model.safetensors", wrong=EveryRead(1))
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors: tensor '.*': digest differs"):
        opened(storage).tensors("model")


def opened(storage: Misreading) -> Checkpoint:
    catalog = Catalog(PatientStorage(storage))
    name, manifest = catalog.history()[0]
    storage.reads.clear()
    return Checkpoint(catalog, name, manifest)


# -- the look at who owns the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [one_bit, another_bit])
def test_a_fence_that_cannot_be_read_is_a_failed_save_that_is_tried_again(
    run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    # A save looks twice before its manifest and once more for each deletion; the first look fails whole.
    storage = read_by(monkeypatch, Misreading(run, path="attempts/000002.json", wrong={1, 2, 3}, harm=harm))
    train(run)
    [failed] = [line for line in lines(caplog, "WARN") if "save failed" in line]
    assert "save failed (1 of 3 before training stops): cannot read" in failed
    assert "attempts/000002.json" in failed
    assert len(storage.reads) > 3
    assert_equal_ends(run, whole)


def test_a_fence_that_stays_unreadable_ends_the_training_after_max_failed_saves(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_by(monkeypatch, Misreading(run, path="attempts/000002.json", wrong=EveryRead()))
    with pytest.raises(StorageError, match=r"cannot read who owns this run: attempts/000002\.json: its digest differs"):
        train(run, max_failed_saves=2)
    assert len([line for line in lines(caplog, "WARN") if "save failed (1 of 2" in line]) == 1
    assert steps_of(run) == [2, 4, 6]


def test_a_fence_that_is_gone_for_one_look_ends_nothing(tmp_path: Path) -> None:
    class Blinking(Misreading):
        def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
            if path == attempt_path(1) and not self.dropped:
                raise FileNotFoundError(path)
            return super().read(path, max_bytes=max_bytes)

    storage = Blinking(tmp_path)
    begin(storage, resumed_from=None, lineage_before=[]).check()
    assert storage.dropped == [attempt_path(1)]
    storage.remove(attempt_path(1))
    with pytest.raises(FencedError, match="is gone"):
        read_attempt(storage, 1)
