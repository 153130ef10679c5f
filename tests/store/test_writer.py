"""Publishing and deleting, in the order that a crash cannot spoil."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from resumable.errors import FencedError, StorageError
from resumable.store.attempts import begin
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.local import LocalStorage
from resumable.store.patience import PatientStorage
from resumable.store.storage import open_storage, storage_error
from resumable.store.writer import Background, Blob, delete, publish
from tests.store.building import BLOBS, launch, line, manifest, save
from tests.store.tracing import Trace


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def test_what_is_published_is_found_with_every_byte(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable.store.writer.PIECE_BYTES", 7)
    attempt = launch(place)
    name = CheckpointName(100, 1, attempt.number)
    data = bytes(range(256))
    blob = Blob("model.safetensors", [memoryview(data)[:100], memoryview(b""), memoryview(data)[100:]], rank=0)
    published = publish(place, attempt, name, [blob], lambda records: manifest(name, records, attempt))
    catalog = Catalog(place)
    assert catalog.manifest(name) == published
    assert published.blobs["model.safetensors"].size == 256
    assert catalog.read_blob(published, "model.safetensors") == data


def test_every_blob_is_durable_before_the_manifest_has_its_name(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = launch(place)
    trace = Trace(monkeypatch)
    volatile_at_the_manifest: list[Path] = []
    write = place.write

    def watched(path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if path.endswith("manifest.json"):
            volatile_at_the_manifest.extend(trace.volatile())
        write(path, chunks)

    monkeypatch.setattr(place, "write", watched)
    save(attempt, 100)
    assert [path.name for path in trace.named][-3:] == ["model.safetensors", "state.rank00000.json", "manifest.json"]
    assert volatile_at_the_manifest == []
    assert trace.volatile() == []


def test_nothing_published_is_rewritten(place: LocalStorage) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    before = Path(place.url, checkpoint_path(name, "model.safetensors")).stat()
    with pytest.raises(ValueError, match="is published already"):
        save(attempt, 100, contents={"model.safetensors": b"other"})
    assert Path(place.url, checkpoint_path(name, "model.safetensors")).stat() == before


def test_names_that_the_format_does_not_know_are_refused_before_anything_is_written(place: LocalStorage) -> None:
    attempt = launch(place)
    with pytest.raises(ValueError, match="is not the name of a blob"):
        save(attempt, 100, contents={"../evil.safetensors": b""})
    with pytest.raises(ValueError, match="differ in upper and lower case only"):
        save(attempt, 100, contents={"model.safetensors": b"", "Model.safetensors": b""})
    assert Catalog(place).names() == []


def test_a_manifest_for_another_place_is_refused(place: LocalStorage) -> None:
    attempt = launch(place)
    name, other = CheckpointName(100, 0, 1), CheckpointName(200, 0, 1)
    with pytest.raises(ValueError, match="does not belong"):
        publish(place, attempt, name, [], lambda records: manifest(other, records, attempt))
    assert Catalog(place).names() == []


class Failing(LocalStorage):
    """Fails at the write of one file, or lets another attempt begin there."""

    def __init__(self, root: str, at: str, *, fenced: bool) -> None:
        super().__init__(Path(root))
        self._failing_at, self._fenced = at, fenced

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if path.endswith(self._failing_at) and self._fenced:
            begin(LocalStorage(Path(self.url)), resumed_from=None, lineage_before=[])
        elif path.endswith(self._failing_at):
            super().write(path, list(chunks)[:1])  # what a storage that shows files too early would leave
            raise StorageError("disk full")
        super().write(path, chunks)


@pytest.mark.parametrize("at", ["model.safetensors", "state.rank00000.json", "manifest.json"])
def test_a_save_that_fails_removes_what_it_wrote(place: LocalStorage, at: str) -> None:
    first = save(launch(place), 100)
    attempt = launch(Failing(place.url, at, fenced=False), resumed_from=first)
    with pytest.raises(StorageError, match="disk full"):
        save(attempt, 200)
    assert Catalog(place).names() == [first]


def test_a_writer_that_was_displaced_during_its_save_does_not_publish_and_touches_nothing(place: LocalStorage) -> None:
    first = save(launch(place), 100)
    displaced = launch(Failing(place.url, "model.safetensors", fenced=True), resumed_from=first)
    with pytest.raises(FencedError, match="attempt 3"):
        save(displaced, 200)
    assert line(place) == [str(first)]
    assert [entry.name for entry in place.list(checkpoint_path(CheckpointName(200, 0, 2)))] == list(BLOBS)
    with pytest.raises(FencedError):
        delete(place, displaced, first)
    assert line(place) == [str(first)]


def test_deleting_removes_the_manifest_first_and_then_only_names_of_this_format(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    folder = Path(place.url, checkpoint_path(name))
    (folder / ".tmp-0123456789abcdef").write_bytes(b"left by a kill")
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    removed: list[str] = []
    remove = place.remove
    monkeypatch.setattr(place, "remove", lambda path: (removed.append(path), remove(path))[1])
    delete(place, attempt, name)
    assert removed[0] == checkpoint_path(name, "manifest.json")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "plots"]


def test_deleting_leaves_no_folder_and_may_be_repeated(place: LocalStorage) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    delete(place, attempt, name)
    delete(place, attempt, name)
    assert Catalog(place).names() == []


def test_a_run_in_memory_publishes_and_deletes_too(tmp_path: Path) -> None:
    place = open_storage(f"memory://{tmp_path.name}")
    attempt = launch(place)
    first, second = save(attempt, 100), save(attempt, 200)
    assert line(place) == [str(second), str(first)]
    delete(place, attempt, first)
    assert line(place) == [str(second)]


def test_a_job_runs_beside_the_program_and_its_end_can_be_waited_for() -> None:
    background = Background()
    go, done = threading.Event(), threading.Event()
    background.wait()
    background.submit(lambda: go.wait() and done.set())
    assert background.busy
    assert background.failure() is None
    with pytest.raises(RuntimeError, match="in flight"):
        background.submit(done.set)
    go.set()
    background.wait()
    assert done.is_set()
    assert not background.busy


def test_a_failure_waits_until_it_is_fetched_and_blocks_the_next_job() -> None:
    def fail() -> None:
        raise SystemExit(3)

    background = Background()
    background.submit(fail)
    background.wait()
    with pytest.raises(RuntimeError, match="never asked for"):
        background.submit(fail)
    assert isinstance(background.failure(), SystemExit)
    assert background.failure() is None
    background.submit(lambda: None)
    background.wait()


# -- a full disk, seen before the first byte --------------------------------------------------------------------------


class Small(LocalStorage):
    """A folder on a disk with 100 bytes left."""

    def free_bytes(self) -> int | None:
        return 100


def test_a_save_that_cannot_fit_is_refused_with_both_figures_before_anything_is_written(tmp_path: Path) -> None:
    attempt = launch(Small(tmp_path / "run"))
    with pytest.raises(StorageError, match=r"No space left on device: 330B needed, 100B free") as caught:
        save(attempt, 100)
    assert caught.value.errno == 28
    assert "keep.last" in str(caught.value.hint)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_storage_that_cannot_tell_its_space_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "free_bytes", lambda self: None)
    attempt = launch(Small(tmp_path / "run"))
    name = save(attempt, 100)
    assert line(attempt.storage) == [str(name)]


class Silent(LocalStorage):
    """A folder that loses its answers from the manifest on, while `away`."""

    away = False

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        super().write(path, chunks)
        if self.away and path.endswith("manifest.json"):
            raise storage_error("write", path, OSError(110, "Connection timed out"))

    def remove(self, path: str) -> None:
        if self.away:
            raise storage_error("remove", path, OSError(110, "Connection timed out"))
        super().remove(path)


def test_a_save_that_failed_but_is_there_may_be_saved_again(tmp_path: Path) -> None:
    place = Silent(tmp_path / "run")
    attempt = launch(place)
    place.away = True
    with pytest.raises(StorageError, match="timed out"):
        save(attempt, 100, contents=BLOBS | {"earlier.safetensors": b"not of the later save"})
    assert line(place) == ["step-000000100.e0000.a0001"]  # nobody was told of it
    place.away = False
    name = save(attempt, 100, contents=BLOBS | {"extra.safetensors": b"once more"})
    assert set(Catalog(place).manifest(name).blobs) == {*BLOBS, "extra.safetensors"}
    there = {entry.name for entry in place.list(checkpoint_path(name))}
    assert there == {*BLOBS, "extra.safetensors", "manifest.json"}  # what was there before was taken back first
    with pytest.raises(ValueError, match="is published already"):
        save(attempt, 100)


def test_a_zombie_does_not_take_back_what_a_newer_attempt_may_have_resumed_from(tmp_path: Path) -> None:
    place = Silent(tmp_path / "run")
    attempt = launch(place)
    write = place.write

    def displaced_at_the_manifest(path: str, chunks: Iterable[bytes | memoryview]) -> None:
        write(path, chunks)
        if path.endswith("manifest.json"):
            begin(place, resumed_from=None, lineage_before=[])
            raise storage_error("write", path, OSError(110, "Connection timed out"))

    place.write = displaced_at_the_manifest  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="timed out"):
        save(attempt, 100)
    assert line(place) == ["step-000000100.e0000.a0001"]


# -- a storage that fails once ----------------------------------------------------------------------------------------


class Stumbling(LocalStorage):
    """A folder whose first write of each file stops after its first piece."""

    patience_seconds = 60.0

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.stumbled: set[str] = set()

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if path not in self.stumbled:
            self.stumbled.add(path)
            next(iter(chunks))
            raise storage_error("write", path, OSError(5, "Input/output error"))
        super().write(path, chunks)


def test_a_blob_that_is_written_again_is_written_whole(tmp_path: Path) -> None:
    attempt = launch(PatientStorage(Stumbling(tmp_path / "run"), sleep=lambda seconds: None))
    name = save(attempt, 100)
    catalog = Catalog(LocalStorage(tmp_path / "run"))
    catalog.verify(catalog.manifest(name), name)
    for file_name, data in BLOBS.items():
        assert (tmp_path / "run" / checkpoint_path(name, file_name)).read_bytes() == data
