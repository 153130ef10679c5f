"""Files of `save` under fire: every byte flipped, killed at every call, full disks, others at work on the same file."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

import resumable
from resumable import CheckpointError, CorruptCheckpointError, StateError, StorageError
from resumable.state.files import tree_file
from resumable.state.tensors.safetensors_layout import Layout, parse_header
from tests.faults.experiments import lacking, small_disk
from tests.state.exactness import exactly
from tests.store.test_crash import NEED_SPACE, at_call, full_once, killed_at_every_call
from tests.store.tracing import Trace

TREE = {
    "model": {"weight": torch.arange(12.0).reshape(3, 4), "mask": torch.tensor([True, False])},
    "steps": [torch.tensor(3), None, "three"],
    "wave": torch.arange(4).to(torch.complex128),
    "epoch": 7,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    resumable.save(TREE, path)
    return path


@pytest.fixture
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is written in many pieces."""
    monkeypatch.setattr(tree_file, "WINDOW_BYTES", 4096)


def large(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((5000,), float(value)), "b": torch.full((70, 70), float(value)).t()}


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF], ids=hex)
def test_a_flipped_byte_anywhere_is_found_and_named(path: Path, mask: int) -> None:
    whole = path.read_bytes()
    places = parse_header(whole)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= mask
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            resumable.load(path)
        assert str(path) in caught.value.message
        for key, place in places.items():
            if place.start <= position < place.end:
                assert caught.value.message.endswith(f"tensor '{key}': digest differs")


def test_a_file_cut_short_or_grown_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptCheckpointError):
            resumable.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptCheckpointError):
        resumable.load(path)


def test_a_part_is_verified_and_damage_elsewhere_is_not_its_business(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[parse_header(whole)["wave"].start] ^= 1
    path.write_bytes(whole)
    assert torch.equal(resumable.load(path, only="model.weight"), TREE["model"]["weight"])
    with pytest.raises(CorruptCheckpointError, match="tensor 'wave': digest differs"):
        resumable.load(path, only="wave")


def test_two_tensors_that_changed_places_are_found(path: Path) -> None:
    resumable.save({"a": torch.zeros(4), "b": torch.ones(4)}, path)
    whole = path.read_bytes()
    places = parse_header(whole)
    first, second = (whole[places[key].start : places[key].end] for key in "ab")
    path.write_bytes(whole.replace(first + second, second + first))
    with pytest.raises(CorruptCheckpointError, match=r"tensor '[ab]': digest differs"):
        resumable.load(path)


RECORD = {"dtype": "float32", "shape": [2], "strides": None, "digest": xxhash.xxh3_128_hexdigest(bytes(8))}
WHOLE = {"version": 1, "document": {"$tensor": "a"}, "tensors": {"a": RECORD}, "state_dicts": []}


@pytest.mark.parametrize(
    "content",
    [
        "",
        [],
        {},
        WHOLE | {"tensors": {}},
        WHOLE | {"tensors": {}, "document": []},
        WHOLE | {"tensors": {"a": RECORD | {"digest": "0" * 32}}},
        WHOLE | {"tensors": {"a": RECORD, "b": RECORD}},
        WHOLE | {"state_dicts": [{"at": [], "metadata": 1}]},
        WHOLE | {"document": {"$tensor": "b"}},
        WHOLE | {"document": {"$dict": [1]}},
        WHOLE | {"document": {"$dict": 7}},
        WHOLE | {"document": {"$eval": "1"}},
        WHOLE | {"document": {"$ordered": [[{"$eval": "1"}, 1]]}},
        WHOLE | {"tensors": {"a": RECORD | {"dtype": "float99"}}},
        WHOLE | {"tensors": {"a": RECORD | {"shape": [3]}}},
        WHOLE | {"tensors": {"a": RECORD | {"strides": [7]}}},
        WHOLE | {"document": [], "state_dicts": [{"at": [7], "metadata": 1}]},
        WHOLE | {"document": [], "state_dicts": [{"at": [], "metadata": 1}]},
        WHOLE | {"version": "1"},
        WHOLE | {"more": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("only", [None, "a.b"])
def test_a_forged_header_is_refused_in_words(tmp_path: Path, content: Any, only: str | None) -> None:
    """Whoever can write can also make the digest right; what he then says is still looked at."""
    metadata = {"resumable_digest": "0" * 32, "resumable": content if content == "" else json.dumps(content)}
    layout = Layout([("a", "F32", (2,), 8)], metadata=metadata)
    path = tmp_path / "x"
    path.write_bytes(tree_file._sealed(layout.header) + bytes(8))
    with pytest.raises(CheckpointError, match=str(path)):
        resumable.load(path, only=only)


# -- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small_windows")
def test_killed_at_any_call_of_a_save_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    resumable.save(large(0), path)
    expected, seen = 0.0, set()
    versions = itertools.count(1)
    for _ in killed_at_every_call(lambda: resumable.save(large(float(next(versions))), path)):
        tried = float(next(versions))
        found = float(resumable.load(path)["a"][0])
        seen.add(found == tried)
        assert found in (expected, tried)
        assert exactly(resumable.load(path), large(found))
        expected = found
        assert {each.name for each in tmp_path.iterdir() if not each.name.startswith(".tmp-")} == {path.name}
    assert seen == {True, False}


def test_a_first_save_that_is_killed_leaves_no_file_or_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    for _ in killed_at_every_call(lambda: resumable.save(TREE, path)):
        assert not path.exists() or exactly(resumable.load(path), TREE)
        path.unlink(missing_ok=True)


def test_what_was_saved_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(monkeypatch)
    resumable.save(TREE, tmp_path / "a" / "b" / "x.safetensors")
    assert trace.named
    assert trace.volatile() == []


# -- what a storage refuses -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small_windows")
def test_a_disk_full_at_any_call_is_told_and_leaves_one_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    resumable.save(large(0), path)
    left: list[float] = []
    for number in itertools.count():
        with monkeypatch.context() as patched:
            at_call(number, full_once(), patched.setattr, NEED_SPACE)
            failure = failure_of(lambda: resumable.save(large(1), path))
        if failure is None:
            break
        assert str(path) in failure.message
        assert "No space left" in failure.message
        assert "keep.last" not in str(failure.hint)
        assert list(tmp_path.iterdir()) == [path]
        left.append(float(resumable.load(path)["a"][0]))
        assert exactly(resumable.load(path), large(left[-1]))
    assert left == [0.0] * (number - 1) + [1.0]  # the last call makes the name durable that is there by then
    assert number > 10


def test_what_cannot_fit_on_a_real_disk_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    if lacking("mount"):
        pytest.skip(f"needs {lacking('mount')}")
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        resumable.save(TREE, disk.folder / "x")
        with pytest.raises(StorageError, match=r"4,\d{3},\d{3} bytes needed, [\d,]+ free") as caught:
            resumable.save(torch.rand(2**20), disk.folder / "x")
        assert "free some space" in str(caught.value.hint)
        disk.fill(free_bytes=8 * 1024)
        for _ in range(2):
            assert failure_of(lambda: resumable.save(torch.rand(5000), disk.folder / "x"))
        assert exactly(resumable.load(disk.folder / "x"), TREE)
        assert not [each.name for each in disk.folder.iterdir() if each.name.startswith(".tmp")]


def test_a_target_that_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("folder", "pipe", "file/x"):
        with pytest.raises(StorageError, match=f"cannot write {tmp_path / name}"):
            resumable.save(TREE, tmp_path / name)
    assert {each.name for each in tmp_path.iterdir()} == {"folder", "pipe", "file"}
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_bytes() == b"mine"


def failure_of(work: Callable[[], object]) -> StorageError | None:
    try:
        work()
    except StorageError as failure:
        return failure
    return None


# -- others at work ---------------------------------------------------------------------------------------------------


@pytest.fixture
def before_tensors(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Lets something happen between reading the header of a file and opening it again for what it speaks of."""
    real, opened = os.open, itertools.count()
    acting = False

    def arm(act: Callable[[], object]) -> None:
        def call(name: Any, flags: int, *arguments: Any, **options: Any) -> int:
            nonlocal acting
            if name == path.name and not acting and next(opened):
                acting = True
                act()
                acting = False
            return real(name, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", call)

    return arm


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(
    path: Path, before_tensors: Callable[[Callable[[], object]], None]
) -> None:
    others = iter([{"model": torch.ones(9)}])

    def replace() -> None:
        for other in others:
            resumable.save(other, path)

    before_tensors(replace)
    assert exactly(resumable.load(path), {"model": torch.ones(9)})


def test_a_file_that_is_replaced_again_and_again_is_told_as_such_and_not_as_damage(
    path: Path, before_tensors: Callable[[Callable[[], object]], None]
) -> None:
    numbers = itertools.count()
    before_tensors(lambda: resumable.save({"model": torch.full((9,), next(numbers))}, path))
    with pytest.raises(CheckpointError, match="replaced by another program 5 times") as caught:
        resumable.load(path)
    assert type(caught.value) is CheckpointError


@pytest.mark.usefixtures("_small_windows")
def test_a_tensor_that_changes_while_it_is_written_is_told_and_the_old_file_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, write = large(1), os.write

    def changing(file: int, data: Any) -> int:
        tree["a"][-1] += 1
        return write(file, data)

    monkeypatch.setattr(os, "write", changing)
    with pytest.raises(StateError, match="a: changed while it was written"):
        resumable.save(tree, path)
    assert exactly(resumable.load(path), TREE)
    assert list(path.parent.iterdir()) == [path]


def test_a_network_that_fails_for_a_moment_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    failures: Iterator[OSError] = iter([OSError(104, "Connection reset by peer")])
    pipe_file = MemoryFileSystem.pipe_file

    def failing(*arguments: Any, **options: Any) -> None:
        for failure in failures:
            raise failure
        pipe_file(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", failing)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    resumable.save(TREE, "memory://tests-files/flaky")
    assert exactly(resumable.load("memory://tests-files/flaky"), TREE)
