"""Publishing and deleting, in the order that a crash cannot spoil."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from resumable.errors import CorruptCheckpointError, FencedError, StorageError
from resumable.store.attempts import Attempt, begin
from resumable.store.catalog import Catalog
from resumable.store.documents.manifest import Manifest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.publish import Blob, delete, publish
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import storage_error
from resumable.store.storage.retry import PatientStorage
from tests.store.building import BLOBS, launch, line, manifest, save, states, verify_bytes
from tests.store.building import published as published_blob
from tests.store.tracing import Trace


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def test_what_is_published_is_found_with_every_byte(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable.store.digesting.DIGEST_PIECE_BYTES", 7)
    attempt = launch(place)
    name = CheckpointName(100, 1, attempt.number)
    data = bytes(range(256))
    blob = Blob("model.safetensors", [memoryview(data)[:100], memoryview(b""), memoryview(data)[100:]], len(data))
    published = publish(place, attempt, name, [blob], states, lambda records: manifest(name, records, attempt))
    catalog = Catalog(place)
    assert catalog.manifest(name) == published
    assert published.blobs["model.safetensors"].size == 256
    assert catalog.read_blob(published, "model.safetensors") == data


def watch_the_manifest(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> tuple[Trace, list[Path]]:
    """A trace, and a list that fills with what is not durable at the instant a manifest is written."""
    trace = Trace(monkeypatch)
    volatile_at_the_manifest: list[Path] = []
    write = place.write

    def watched(path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if path.endswith("manifest.json"):
            volatile_at_the_manifest.extend(trace.volatile())
        write(path, chunks)

    monkeypatch.setattr(place, "write", watched)
    return trace, volatile_at_the_manifest


def test_every_blob_is_durable_before_the_manifest_has_its_name(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = launch(place)
    trace, volatile_at_the_manifest = watch_the_manifest(place, monkeypatch)
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
    with pytest.raises(ValueError, match="names differ only in case"):
        save(attempt, 100, contents={"model.safetensors": b"", "Model.safetensors": b""})
    assert Catalog(place).names() == []


def test_a_manifest_for_another_place_is_refused(place: LocalStorage) -> None:
    attempt = launch(place)
    name, other = CheckpointName(100, 0, 1), CheckpointName(200, 0, 1)
    with pytest.raises(ValueError, match="does not belong"):
        publish(place, attempt, name, [], states, lambda records: manifest(other, {}, attempt))
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
    assert [entry.name for entry in place.list(checkpoint_path(CheckpointName(200, 0, 2)))] == [
        *BLOBS,
        "state.rank00000.json",
    ]
    with pytest.raises(FencedError):
        delete(place, displaced, [first])
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
    delete(place, attempt, [name])
    assert removed[0] == checkpoint_path(name, "manifest.json")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "plots"]


def test_deleting_leaves_no_folder_and_may_be_repeated(place: LocalStorage) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    delete(place, attempt, [name])
    delete(place, attempt, [name])
    assert Catalog(place).names() == []


def test_a_run_in_memory_publishes_and_deletes_too(tmp_path: Path) -> None:
    place = open_storage(f"memory://{tmp_path.name}")
    attempt = launch(place)
    first, second = save(attempt, 100), save(attempt, 200)
    assert line(place) == [str(second), str(first)]
    delete(place, attempt, [first])
    assert line(place) == [str(second)]


# -- blobs that are still what they were ------------------------------------------------------------------------------

FROZEN = b"frozen " * 300


class Unlinked(LocalStorage):
    """A folder on a file system without hard links."""

    def link(self, source: str, target: str) -> bool:
        self.size(source)
        return False


class Watched(LocalStorage):
    """Notes which files are written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        self.written.append(path.rpartition("/")[2])
        super().write(path, chunks)


class WatchedUnlinked(Watched, Unlinked):
    """Both."""


def share(attempt: Attempt, step: int, before: Manifest | None, *, frozen: bytes = FROZEN) -> Manifest:
    """Publish a checkpoint with a blob that is likely to be what it was `before`."""
    name = CheckpointName(step, 0, attempt.number)
    record = published_blob(before.blobs["model.frozen.safetensors"], FROZEN) if before else None
    blobs = [
        Blob("model.safetensors", [memoryview(b"weights of %d" % step)], len(b"weights of %d" % step)),
        Blob("model.frozen.safetensors", [memoryview(frozen)], len(frozen), before=record),
    ]
    return publish(attempt.storage, attempt, name, blobs, states, lambda records: manifest(name, records, attempt))


def blob_file(place: LocalStorage, published: Manifest) -> Path:
    return Path(place.url, published.blobs["model.frozen.safetensors"].path)


def verified(place: LocalStorage, published: Manifest) -> None:
    catalog = Catalog(LocalStorage(Path(place.url)))
    verify_bytes(catalog, catalog.manifest(published.name))


def test_an_unchanged_blob_gets_a_second_name_and_is_not_written(tmp_path: Path) -> None:
    place = Watched(tmp_path / "run")
    attempt = launch(place)
    first = share(attempt, 100, None)
    place.written.clear()
    second = share(attempt, 200, first)
    assert place.written == ["model.safetensors", "state.rank00000.json", "manifest.json"]
    assert blob_file(place, second).parent.name == str(second.name)
    assert blob_file(place, second).samefile(blob_file(place, first))
    delete(place, attempt, [first.name])
    verified(place, second)


def test_where_there_are_no_links_the_record_leads_to_where_the_bytes_are(tmp_path: Path) -> None:
    place = WatchedUnlinked(tmp_path / "run")
    attempt = launch(place)
    first = share(attempt, 100, None)
    place.written.clear()
    second = share(attempt, 200, first)
    third = share(attempt, 300, second)
    assert place.written == ["model.safetensors", "state.rank00000.json", "manifest.json"] * 2
    assert blob_file(place, third) == blob_file(place, second) == blob_file(place, first)
    verified(place, third)


@pytest.mark.parametrize("kind", [Watched, WatchedUnlinked])
@pytest.mark.parametrize("frozen", [FROZEN[:-1] + b"!", FROZEN + b"longer", b""])
def test_a_blob_that_changed_is_written_whatever_was_expected_of_it(
    tmp_path: Path, kind: type[Watched], frozen: bytes
) -> None:
    place = kind(tmp_path / "run")
    attempt = launch(place)
    first = share(attempt, 100, None)
    second = share(attempt, 200, first, frozen=frozen)
    assert blob_file(place, second).read_bytes() == frozen
    assert blob_file(place, first).read_bytes() == FROZEN
    verified(place, second)


@pytest.mark.parametrize("kind", [Watched, WatchedUnlinked])
@pytest.mark.parametrize("damage", ["removed", "cut short", "a symbolic link", "a folder", "its folder is gone"])
def test_what_is_no_longer_there_as_it_was_is_written_anew(tmp_path: Path, kind: type[Watched], damage: str) -> None:
    place = kind(tmp_path / "run")
    attempt = launch(place)
    first = share(attempt, 100, None)
    file = blob_file(place, first)
    spoil(file, damage)
    second = share(attempt, 200, first)
    assert blob_file(place, second).parent.name == str(second.name)
    assert not blob_file(place, second).is_symlink()
    verified(place, second)


def spoil(file: Path, damage: str) -> None:
    if damage == "cut short":
        file.write_bytes(FROZEN[:-1])
        return
    file.rename(file.parent.parent / "elsewhere")
    if damage == "a symbolic link":
        file.symlink_to(file.parent.parent / "elsewhere")
    elif damage == "a folder":
        file.mkdir()
    elif damage == "its folder is gone":
        shutil.rmtree(file.parent)


def test_rot_of_one_file_takes_exactly_the_checkpoints_that_share_it(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path / "run")
    attempt = launch(place)
    published: list[Manifest] = []
    for number in range(24):  # written anew at every tenth, as the format demands
        before = published[-1] if number % 10 else None
        published.append(share(attempt, 100 * (number + 1), before))
    file = blob_file(place, published[13])
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    with file.open("r+b") as opened:  # in place, as disks do it
        opened.write(data)
    catalog, rotten = Catalog(LocalStorage(tmp_path / "run")), []
    for number, each in enumerate(published):
        try:
            verify_bytes(catalog, catalog.manifest(each.name))
        except CorruptCheckpointError:
            rotten.append(number)
    assert rotten == list(range(10, 20))


def test_a_save_that_shares_what_it_can_needs_room_only_for_the_rest(tmp_path: Path) -> None:
    attempt = launch(Small(tmp_path / "run"))
    with pytest.raises(StorageError, match="No space left"):
        share(attempt, 100, None)
    attempt.storage.free_bytes = lambda: None  # type: ignore[method-assign]
    first = share(attempt, 200, None)
    attempt.storage.free_bytes = lambda: 100  # type: ignore[method-assign]
    share(attempt, 300, first)
    with pytest.raises(StorageError, match="No space left"):
        share(attempt, 400, first, frozen=FROZEN[::-1])


def test_a_save_that_fails_takes_back_its_names_and_not_the_bytes_that_others_have(tmp_path: Path) -> None:
    first = share(launch(LocalStorage(tmp_path / "run")), 100, None)
    attempt = launch(Failing(str(tmp_path / "run"), "manifest.json", fenced=False), resumed_from=first.name)
    with pytest.raises(StorageError, match="disk full"):
        share(attempt, 200, first)
    place = LocalStorage(tmp_path / "run")
    assert Catalog(place).names() == [first.name]
    verified(place, first)


def test_a_link_is_durable_before_the_manifest_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LocalStorage(tmp_path / "run")
    attempt = launch(place)
    first = share(attempt, 100, None)
    trace, volatile_at_the_manifest = watch_the_manifest(place, monkeypatch)
    second = share(attempt, 200, first)
    assert blob_file(place, second) in trace.named
    assert volatile_at_the_manifest == []


def test_a_producer_that_gives_other_than_it_announced_publishes_nothing(place: LocalStorage) -> None:
    attempt = launch(place)
    name = CheckpointName(100, 0, attempt.number)
    blob = Blob("model.safetensors", [memoryview(b"12345")], 6)
    with pytest.raises(ValueError, match=r"model.safetensors: 5 bytes in its chunks, expected 6"):
        publish(place, attempt, name, [blob], states, lambda records: manifest(name, records, attempt))
    assert Catalog(place).names() == []


# -- several blobs at once --------------------------------------------------------------------------------------------


class Wide(LocalStorage):
    """A folder whose three blobs must be in work at one instant; one of them may fail."""

    parallel = 3

    def __init__(self, root: Path, *, failing: str | None = None) -> None:
        super().__init__(root)
        self._together = threading.Barrier(3)
        self._failing = failing
        self.ended: list[str] = []

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        name = path.rpartition("/")[2]
        if name in THREE:
            self._together.wait(60)
            if name == self._failing:
                raise StorageError(f"{name} cannot be written")
        elif name == "manifest.json":
            assert sorted(self.ended[:-1]) == sorted(THREE)  # all blobs before the state, and it before the manifest
            assert self.ended[-1] == "state.rank00000.json"
        super().write(path, chunks)
        self.ended.append(name)


THREE = {"a.safetensors": b"a" * 10, "model.safetensors": b"b" * 20, "c.safetensors": b"c" * 30}


def test_as_many_blobs_are_written_at_once_as_the_storage_wants(tmp_path: Path) -> None:
    attempt = launch(Wide(tmp_path / "run"))
    name = save(attempt, 100, contents=THREE)
    catalog = Catalog(LocalStorage(tmp_path / "run"))
    verify_bytes(catalog, catalog.manifest(name))
    assert list(catalog.manifest(name).blobs) == [*THREE, "state.rank00000.json"]


@pytest.mark.parametrize("failing", THREE)
def test_one_blob_of_several_that_fails_fails_the_save_and_all_are_taken_back(tmp_path: Path, failing: str) -> None:
    first = save(launch(LocalStorage(tmp_path / "run")), 100)
    place = Wide(tmp_path / "run", failing=failing)
    attempt = launch(place, resumed_from=first)
    with pytest.raises(StorageError, match=f"{failing} cannot be written"):
        save(attempt, 200, contents=THREE)
    assert sorted(name for name in place.ended if name in THREE) == sorted(set(THREE) - {failing})
    assert Catalog(place).names() == [first]


# -- a full disk, seen before the first byte --------------------------------------------------------------------------


class Small(LocalStorage):
    """A folder on a disk with 100 bytes left."""

    def free_bytes(self) -> int | None:
        return 100


def test_a_save_that_cannot_fit_is_refused_with_both_figures_before_anything_is_written(tmp_path: Path) -> None:
    attempt = launch(Small(tmp_path / "run"))
    with pytest.raises(StorageError, match=r"No space left on device: 320B needed, 100B free") as caught:
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
    assert set(Catalog(place).manifest(name).blobs) == {*BLOBS, "extra.safetensors", "state.rank00000.json"}
    there = {entry.name for entry in place.list(checkpoint_path(name))}
    assert there == {
        *BLOBS,
        "extra.safetensors",
        "state.rank00000.json",
        "manifest.json",
    }  # what was there before was taken back first
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
    verify_bytes(catalog, catalog.manifest(name))
    for file_name, data in BLOBS.items():
        assert (tmp_path / "run" / checkpoint_path(name, file_name)).read_bytes() == data
