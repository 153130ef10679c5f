"""Large buffers of which little changes: what each save writes and shares, and that every checkpoint is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resumable import Checkpoint, Run
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.errors import CorruptCheckpointError
from resumable.state.tensors.slabs import PAGE_BYTES, SlabSizes
from resumable.store.documents.manifest import MAX_NAMED
from resumable.store.layout import is_slab_name
from resumable.store.storage.open import open_storage

SIZES = SlabSizes(least_bytes=2**19, slab_bytes=2**14)
ROWS, ROW_BYTES = 1190, 1024  # 75 slabs of 16 rows, the last of 6
BUFFER_BYTES = ROWS * ROW_BYTES
WRITTEN = 3  # rows of a step, about as a thousandth of the buffer
KEEP_ALL = {"last": 1000}


def _place(kind: str, folder: Path) -> str:
    """A run in a folder, where files can have several names, and one where they cannot."""
    return str(folder / "run") if kind == "folder" else f"memory://{folder.name}/run"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _place(request.param, tmp_path)


@pytest.fixture(scope="module", params=["folder", "bucket"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of 25 saves that a test may only read, each of which was found to be whole."""
    place = _place(request.param, tmp_path_factory.mktemp("trained"))
    assert_whole(place, run(place, 24))
    return place


def has_links(place: str) -> bool:
    return "://" not in place


class Loop:
    """A loop with a buffer of which each step overwrites a few rows, in turn, and saves; it goes on where it was."""

    def __init__(self, place: str, *, rows: int = WRITTEN, **config: Any) -> None:
        self.rows = rows
        torch.manual_seed(1)
        self.buffer: dict[str, Any] = {"rows": numpy.zeros((ROWS, ROW_BYTES), numpy.uint8), "small": torch.zeros(2000)}
        values = {"run": place, "every": {"steps": 1}, "keep": KEEP_ALL, "fencing": "off"} | config
        objects = {"model": nn.Linear(3, 3), "buffer": self.buffer}
        self.checkpointer = Checkpointer(Config.load(values), objects, slab_sizes=SIZES)
        self.step = 0
        if self.checkpointer.resumed:
            self.checkpointer.restore()
            self.step = self.checkpointer.position().step + 1

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpointer.close()

    def steps(self, until: int) -> Iterator[int]:
        """Yield each step up to `until`, after its rows are written; save when control is back."""
        while self.step <= until:
            rows = (numpy.arange(self.rows) + self.rows * self.step) % ROWS
            self.buffer["rows"][rows] = numpy.random.default_rng(self.step).integers(256, size=(self.rows, ROW_BYTES))
            yield self.step
            self.checkpointer.save(Position(step=self.step), reason="test")
            self.checkpointer.drain()
            self.step += 1


def run(place: str, until: int, **config: Any) -> dict[int, bytes]:
    """Train to this step; return the bytes of the buffer at each step that was saved."""
    with Loop(place, **config) as loop:
        return {step: loop.buffer["rows"].tobytes() for step in loop.steps(until)}


def checkpoints(place: str) -> list[Checkpoint]:
    return Run(place).checkpoints()


def slab_files(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: blob for name, blob in checkpoint.manifest.blobs.items() if is_slab_name(name)}


def written(checkpoint: Checkpoint) -> float:
    """Return the bytes of the buffer that were written for a checkpoint, as a part of it."""
    return sum(blob.size for blob in slab_files(checkpoint).values() if blob.named == 1) / BUFFER_BYTES


def whole(place: str) -> list[int]:
    """Return the steps for which more than a fifth of the buffer was written."""
    return [checkpoint.step for checkpoint in checkpoints(place) if written(checkpoint) > 0.2]


def assert_whole(place: str, expected: dict[int, bytes]) -> None:
    """Assert that each checkpoint verifies, and gives the bytes that the buffer had."""
    for checkpoint in checkpoints(place):
        checkpoint.verify()
        assert checkpoint.load("buffer")["rows"].tobytes() == expected[checkpoint.step]


def test_a_save_writes_the_rows_that_changed_and_a_ninth_of_the_others(trained: str) -> None:
    parts = [written(checkpoint) for checkpoint in checkpoints(trained)]
    assert len(parts) == 25
    assert 1 <= parts[0] < 1.1
    assert whole(trained) == ([0] if has_links(trained) else [0, 10, 20])
    on_disk = max(sum(blob.size for blob in slab_files(each).values()) for each in checkpoints(trained))
    assert on_disk < 2.3 * BUFFER_BYTES


def test_no_bytes_are_named_by_more_than_ten_checkpoints(trained: str) -> None:
    named: Counter[str] = Counter()
    for checkpoint in checkpoints(trained):
        for name, blob in slab_files(checkpoint).items():
            named[name] += 1
            assert blob.named == named[name] <= MAX_NAMED
    assert len(named) == 25


def test_what_is_written_can_go_past_the_page_cache(trained: str) -> None:
    for checkpoint in checkpoints(trained):
        begins = [piece.begin for piece in checkpoint.records["buffer"]["rows"].pieces]
        assert [begin % PAGE_BYTES for begin in begins if begin is not None] == [0] * 75


def test_a_launch_shares_with_the_checkpoint_that_it_resumed_from(place: str) -> None:
    expected = run(place, 5) | run(place, 9) | run(place, 13)
    assert_whole(place, expected)
    assert whole(place) == ([0] if has_links(place) else [0, 10])
    assert max(blob.named for each in checkpoints(place) for blob in slab_files(each).values()) <= MAX_NAMED


def test_a_launch_that_saves_where_it_resumed_does_not_share_the_file_of_that_name(place: str) -> None:
    expected = run(place, 5)
    with Loop(place) as loop:
        loop.step = 5
        expected |= {step: loop.buffer["rows"].tobytes() for step in loop.steps(5)}
    assert_whole(place, expected)
    assert [checkpoint.step for checkpoint in checkpoints(place)][-2:] == [5, 5]


def test_pruning_keeps_what_is_named(place: str) -> None:
    expected = run(place, 14, keep={"last": 2, "best": None})
    assert_whole(place, expected)
    kept = [checkpoint.step for checkpoint in checkpoints(place)]
    assert kept[-2:] == [13, 14]
    assert kept[0] == (13 if has_links(place) else 10)  # the last one that shares nothing


def test_a_buffer_that_is_overwritten_all_the_time_lets_old_checkpoints_go(place: str) -> None:
    keep = {"last": 1, "best": None}
    expected = run(place, 6, keep=keep, rows=300) | run(place, 22, keep=keep, rows=300)
    assert_whole(place, expected)
    assert checkpoints(place)[0].step == (22 if has_links(place) else 20)


def test_a_rotten_file_takes_at_most_those_that_name_it(place: str) -> None:
    run(place, 24)
    path = slab_files(checkpoints(place)[12])["buffer.slabs-s000000012-e0000.safetensors"].path
    storage = open_storage(place)
    content = bytearray(storage.read(path))
    content[-5] ^= 1
    if not has_links(place):
        storage.write(path, [content])
    else:
        (Path(place) / path).write_bytes(content)  # in place, as a disk rots; `write` would put another file there
    rotten = []
    for checkpoint in checkpoints(place):
        try:
            checkpoint.verify()
        except CorruptCheckpointError:
            rotten.append(checkpoint.step)
    assert rotten == list(range(12, 12 + len(rotten)))
    assert 1 <= len(rotten) <= MAX_NAMED


def test_slabs_whose_file_somebody_removed_are_written_again(place: str) -> None:
    expected = {}
    with Loop(place) as loop:
        for step in loop.steps(8):
            expected[step] = loop.buffer["rows"].tobytes()
            if step == 4:
                storage = open_storage(place)
                for checkpoint in checkpoints(place):
                    storage.remove(slab_files(checkpoint)["buffer.slabs-s000000000-e0000.safetensors"].path)
    assert_whole(place, expected)
    assert [checkpoint.step for checkpoint in checkpoints(place)] == [4, 5, 6, 7, 8]
    assert whole(place) == [4]


@pytest.mark.parametrize("staging", [{"max_bytes": 2**20}, {"mode": "overlap"}])
def test_slabs_are_shared_however_they_are_staged(tmp_path: Path, staging: dict[str, Any]) -> None:
    expected = run(str(tmp_path), 12, staging=staging)
    assert_whole(str(tmp_path), expected)
    assert whole(str(tmp_path)) == [0]


def test_rows_that_are_appended_leave_the_others_shared(tmp_path: Path) -> None:
    expected = {}
    with Loop(str(tmp_path)) as loop:
        for step in loop.steps(12):
            if step:
                loop.buffer["rows"] = numpy.concatenate([loop.buffer["rows"], numpy.ones((5, ROW_BYTES), numpy.uint8)])
            expected[step] = loop.buffer["rows"].tobytes()
    assert_whole(str(tmp_path), expected)
    assert whole(str(tmp_path)) == [0]


def test_a_buffer_that_shrinks_shares_no_file_that_readers_find_too_large(tmp_path: Path) -> None:
    expected = {}
    with Loop(str(tmp_path)) as loop:
        for step in loop.steps(12):
            if step == 3:
                loop.buffer["rows"] = loop.buffer["rows"][:600].copy()
            expected[step] = loop.buffer["rows"].tobytes()
    assert_whole(str(tmp_path), expected)


@given(st.lists(st.tuples(st.sampled_from(["rows", "rows", "append", "launch"]), st.integers(0, 2**32)), max_size=12))
@settings(max_examples=6)
def test_any_sequence_of_changes_and_launches(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    place = str(tmp_path_factory.mktemp("any"))
    expected = run(place, 0)
    loop = Loop(place)
    for what, seed in changes:
        random = numpy.random.default_rng(seed)
        if what == "launch":
            loop.checkpointer.close()
            loop = Loop(place)
        if what == "append":
            loop.buffer["rows"] = numpy.concatenate(
                [loop.buffer["rows"], random.integers(256, size=(7, ROW_BYTES), dtype=numpy.uint8)]
            )
        loop.buffer["rows"][random.integers(len(loop.buffer["rows"]), size=random.integers(200))] += 1
        expected |= {step: loop.buffer["rows"].tobytes() for step in loop.steps(loop.step)}
    loop.checkpointer.close()
    assert_whole(place, expected)


@pytest.mark.parametrize("kind", ["module", "optimizer", "column-major", "small", "one row", "long name"])
def test_what_is_stored_whole(tmp_path: Path, kind: str) -> None:
    large = torch.zeros(800, 1024, dtype=torch.uint8)
    model = nn.Linear(512, 512)  # a megabyte
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(512)).sum().backward()
    optimizer.step()
    objects: dict[str, object] = {
        "module": model,
        "optimizer": {"small": torch.zeros(50)},
        "column-major": {"rows": large.t()},
        "small": {"rows": large[:500].clone()},
        "one row": {"rows": large.reshape(1, -1)},
        "long name": {"rows": large},
    }
    name = "x" * 143 if kind == "long name" else "given"
    given = {name: objects[kind], **({"model": model, "sgd": optimizer} if kind == "optimizer" else {})}
    checkpointer = Checkpointer(Config.load({"run": str(tmp_path)}), given, slab_sizes=SIZES)
    checkpointer.save(Position(step=1), reason="test")
    checkpointer.close()
    [checkpoint] = checkpoints(str(tmp_path))
    checkpoint.verify()
    assert not slab_files(checkpoint)
    assert f"{name}.safetensors" in checkpoint.manifest.blobs


def test_slabs_whose_file_somebody_deleted_are_written_again(place: str) -> None:
    with Loop(place) as loop:
        for step in loop.steps(5):
            if step == 4:
                for blob in slab_files(checkpoints(place)[-1]).values():
                    open_storage(place).remove(blob.path)
        rows = loop.buffer["rows"].tobytes()
    newest = Run(place).latest()
    newest.verify()
    assert newest.load("buffer")["rows"].tobytes() == rows
    assert [checkpoint.step for checkpoint in checkpoints(place)][-2:] == [4, 5]
