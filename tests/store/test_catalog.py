"""Which checkpoints count, after crashes, zombies, copies, damage and while others prune."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resumable.errors import CorruptCheckpointError, FormatVersionError, NoCheckpointError, StorageError
from resumable.store.catalog import UNFINISHED, Catalog
from resumable.store.documents.manifest import Manifest
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.publish import delete
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Entry
from tests.store.building import launch, line, save, verify_bytes

FIRST = "step-000000100.e0000.a0001"


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def rejections(place: LocalStorage) -> dict[str, str]:
    rejected: dict[str, str] = {}
    Catalog(place).history(rejected.__setitem__)
    return rejected


def overwrite(place: LocalStorage, name: CheckpointName, file_name: str, change: Callable[[bytes], bytes]) -> None:
    path = Path(place.url, checkpoint_path(name, file_name))
    path.write_bytes(change(path.read_bytes()))


def test_where_there_is_nothing_there_is_no_run(place: LocalStorage) -> None:
    catalog = Catalog(place)
    assert catalog.run_file() is None
    assert catalog.names() == []
    assert catalog.history() == []


def test_a_checkpoint_exists_if_and_only_if_its_manifest_does(place: LocalStorage) -> None:
    attempt = launch(place)
    first, second = save(attempt, 100), save(attempt, 200)
    place.remove(checkpoint_path(second, "manifest.json"))
    assert Catalog(place).names() == [second, first]
    assert line(place) == [str(first)]
    assert rejections(place) == {str(second): UNFINISHED}
    with pytest.raises(NoCheckpointError, match="no manifest"):
        Catalog(place).manifest(second)


def test_inside_an_attempt_a_later_step_and_then_a_later_epoch_is_newer(place: LocalStorage) -> None:
    attempt = launch(place)
    names = [save(attempt, 100, 0), save(attempt, 100, 1), save(attempt, 200, 1)]
    assert line(place) == [str(name) for name in reversed(names)]


def test_an_attempt_that_resumed_further_back_leaves_what_came_after_off_the_line(place: LocalStorage) -> None:
    one = launch(place)
    a, b = save(one, 100), save(one, 200)
    two = launch(place, resumed_from=a)
    assert line(place) == [str(b), str(a)]
    c = save(two, 150)
    assert line(place) == [str(c), str(a)]


def test_what_a_zombie_writes_late_is_off_the_lineage(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    zombie = launch(place)
    a = save(zombie, 100)
    two = launch(place, resumed_from=a)
    b = save(two, 110)
    monkeypatch.setattr(type(zombie), "check", lambda _: None)  # its last look was before the launch of the second
    save(zombie, 900)
    assert line(place) == [str(b), str(a)]
    assert rejections(place) == {}


def test_a_line_goes_through_many_attempts_and_skips_those_without_a_checkpoint(place: LocalStorage) -> None:
    one = launch(place)
    a = save(one, 100)
    launch(place, resumed_from=a)
    three = launch(place, resumed_from=a)
    b, c = save(three, 120), save(three, 140)
    four = launch(place, resumed_from=b)
    d = save(four, 130)
    assert line(place) == [str(d), str(b), str(a)]
    assert c.place > d.place


def test_an_attempt_without_a_valid_checkpoint_does_not_hide_the_one_before(place: LocalStorage) -> None:
    one = launch(place)
    a, b = save(one, 100), save(one, 200)
    two = launch(place, resumed_from=b)
    c = save(two, 300)
    overwrite(place, c, "manifest.json", lambda data: data[:-9])
    assert line(place) == [str(b), str(a)]
    assert "cut short" in rejections(place)[str(c)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:100], "model.safetensors: 100 bytes, expected 320"),
        (lambda data: data + b"x", "model.safetensors: 321 bytes, expected 320"),
        (lambda data: b"", "model.safetensors: 0 bytes, expected 320"),
    ],
)
def test_a_blob_of_another_size_is_rejected_by_the_cheap_check(
    place: LocalStorage, change: Callable[[bytes], bytes], reason: str
) -> None:
    attempt = launch(place)
    a, b = save(attempt, 100), save(attempt, 200)
    overwrite(place, b, "model.safetensors", change)
    assert rejections(place) == {str(b): reason}
    assert line(place) == [str(a)]


def test_a_missing_blob_is_rejected_with_its_name(place: LocalStorage) -> None:
    attempt = launch(place)
    save(attempt, 100)
    b = save(attempt, 200)
    place.remove(checkpoint_path(b, "model.safetensors"))
    assert rejections(place) == {str(b): "model.safetensors: missing"}


def test_a_flipped_bit_is_found_with_the_file_name(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable.store.blob_reader.READ_PIECE_BYTES", 100)
    monkeypatch.setattr(LocalStorage, "range_bytes", 100)
    name = save(launch(place), 100)
    catalog = Catalog(place)
    manifest = catalog.manifest(name)
    verify_bytes(catalog, manifest)
    assert catalog.read_blob(manifest, "model.safetensors") == b"weights " * 40
    overwrite(place, name, "model.safetensors", lambda data: data[:250] + b"?" + data[251:])
    catalog.check(manifest, name)
    with pytest.raises(CorruptCheckpointError, match=r"^model\.safetensors: digest differs$"):
        verify_bytes(catalog, manifest)
    with pytest.raises(CorruptCheckpointError, match=r"^model\.safetensors: digest differs$"):
        catalog.read_blob(manifest, "model.safetensors")


def test_a_blob_that_shrinks_while_it_is_read_is_damage(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    name = save(launch(place), 100)
    monkeypatch.setattr(place, "read_into", lambda path, buffer, *, offset=0, seen=None: 7)
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors: 7 bytes, expected 320"):
        Catalog(place).read_blob(Catalog(place).manifest(name), "model.safetensors")


@pytest.mark.parametrize("readers", [1, 3])
def test_pieces_that_are_read_ahead_come_in_order_and_a_failure_in_one_is_told(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, readers: int
) -> None:
    monkeypatch.setattr("resumable.store.blob_reader.READ_PIECE_BYTES", 64)
    monkeypatch.setattr(LocalStorage, "range_bytes", 64)
    monkeypatch.setattr(LocalStorage, "readers", readers)
    data = bytes(range(256)) * 40 + b"end"
    name = save(launch(place), 100, contents={"model.safetensors": data})
    catalog = Catalog(place)
    manifest = catalog.manifest(name)
    verify_bytes(catalog, manifest)
    assert catalog.read_blob(manifest, "model.safetensors") == data
    original = place.read_into

    def fail(path: str, buffer: memoryview, *, offset: int = 0, seen: Any = None) -> int:
        if offset == 640:
            raise StorageError("cannot read it: Input/output error")
        return original(path, buffer, offset=offset, seen=seen)

    monkeypatch.setattr(place, "read_into", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        verify_bytes(catalog, manifest)


class Wide(LocalStorage):
    """A folder that answers many questions at once, as object stores do."""

    parallel = 8


def test_looking_at_many_checkpoints_at_once_finds_what_looking_at_one_after_the_other_does(
    place: LocalStorage,
) -> None:
    attempt = launch(place)
    names = [save(attempt, step) for step in range(100, 130)]
    place.remove(checkpoint_path(names[-1], "model.safetensors"))
    overwrite(place, names[7], "manifest.json", lambda data: data[:-3])
    overwrite(place, names[-2], "manifest.json", lambda data: data[:-3])
    found: list[Any] = []
    for storage in (place, Wide(Path(place.url))):
        rejected: dict[str, str] = {}
        found.append(([str(name) for name, _ in Catalog(storage).history(rejected.__setitem__)], rejected))
    assert found[0] == found[1]
    assert len(found[0][0]) == 27
    assert len(found[0][1]) == 2


class Listed(Wide):
    """One that lists the files of all checkpoints at once, in pages that are not of one instant."""

    missed: Callable[[str, Entry], bool] = staticmethod(lambda folder, entry: False)

    def list_below(self, path: str) -> dict[str, list[Entry]]:  # type: ignore[override]
        folders = [entry.name for entry in self.list(path) if entry.is_dir]
        return {
            folder: [entry for entry in self.list(f"{path}/{folder}") if not self.missed(folder, entry)]
            for folder in folders
        }


@pytest.mark.parametrize("missed", ["model.safetensors", "manifest.json", "step-000000110.e0000.a0001"])
def test_what_one_long_listing_missed_is_looked_at_again(place: LocalStorage, missed: str) -> None:
    attempt = launch(place)
    names = [save(attempt, step) for step in range(105, 112)]
    place.remove(checkpoint_path(names[3], "model.safetensors"))
    storage = Listed(Path(place.url))
    storage.missed = lambda folder, entry: missed in (folder, entry.name)
    rejected: dict[str, str] = {}
    history = [name for name, _ in Catalog(storage).history(rejected.__setitem__)]
    assert history == [name for name in names[::-1] if name != names[3]]
    assert rejected == {}


def test_a_checkpoint_that_is_known_is_looked_for_anew_after_a_claim(place: LocalStorage) -> None:
    attempt = launch(place)
    older, newest = save(attempt, 100), save(attempt, 200)
    catalog = Catalog(place)
    assert next(iter(catalog.line()))[0] == newest
    place.remove(checkpoint_path(newest, "manifest.json"))
    assert next(iter(catalog.refreshed().line()))[0] == older


def test_the_manifests_of_checkpoints_that_are_gone_are_forgotten(place: LocalStorage) -> None:
    attempt, catalog = launch(place), Catalog(place)
    names: list[CheckpointName] = []
    manifests: list[weakref.ref[Manifest]] = []
    for step in range(20):
        names.append(save(attempt, step))
        manifests += [weakref.ref(manifest) for _, manifest in catalog.history()]
        for older in catalog.names()[1:]:
            delete(place, attempt, [older])
    assert catalog.names() == names[-1:]
    gc.collect()
    assert {manifest.name for known in manifests if (manifest := known()) is not None} == {names[-1]}
    assert catalog._checked == {names[-1]}


def test_an_empty_blob_is_a_blob(place: LocalStorage) -> None:
    name = save(launch(place), 100, contents={"empty.safetensors": b""})
    catalog = Catalog(place)
    verify_bytes(catalog, catalog.manifest(name))
    assert catalog.read_blob(catalog.manifest(name), "empty.safetensors") == b""


def test_a_checkpoint_of_another_run_or_under_another_name_is_rejected(place: LocalStorage, tmp_path: Path) -> None:
    other = LocalStorage(tmp_path / "other")
    foreign = save(launch(other), 300)
    attempt = launch(place)
    a = save(attempt, 100)
    shutil.copytree(Path(other.url, checkpoint_path(foreign)), Path(place.url, checkpoint_path(foreign)))
    renamed = CheckpointName(200, 0, 1)
    shutil.copytree(Path(place.url, checkpoint_path(a)), Path(place.url, checkpoint_path(renamed)))
    rejected = rejections(place)
    assert f"{renamed}" in rejected[str(renamed)]
    assert "manifest.json: of run" in rejected[str(foreign)]
    assert line(place) == [str(a)]


def test_a_newer_format_is_never_silently_fallen_behind(place: LocalStorage) -> None:
    attempt = launch(place)
    save(attempt, 100)
    b = save(attempt, 200)
    body = b'{"format_version":4}'
    overwrite(place, b, "manifest.json", lambda _: body[:-1] + b',"digest":"%s"}' % digest(body).encode())
    with pytest.raises(FormatVersionError):
        Catalog(place).history()


def test_an_io_error_is_never_taken_for_damage(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    save(launch(place), 100)

    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        Catalog(place).history()


def test_strange_things_in_the_folder_of_checkpoints_are_left_alone(place: LocalStorage) -> None:
    name = save(launch(place), 100)
    checkpoints = Path(place.url, "checkpoints")
    (checkpoints / ".DS_Store").write_bytes(b"")
    (checkpoints / "step-000000200.e0000.a0001").write_bytes(b"a file, not a folder")
    (checkpoints / "best").symlink_to(FIRST)
    (checkpoints / "step-000000300.e0000.a0001" / "manifest.json").mkdir(parents=True)
    assert line(place) == [str(name)]
    assert list(rejections(place)) == ["step-000000300.e0000.a0001"]


def test_a_manifest_over_the_bound_is_rejected_unread(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable.store.catalog.MAX_MANIFEST_BYTES", 100)
    name = save(launch(place), 100)
    assert "more than the 100 allowed" in rejections(place)[str(name)]


def test_a_copied_run_is_a_valid_run_after_every_file_that_arrives(place: LocalStorage, tmp_path: Path) -> None:
    one = launch(place)
    a, b = save(one, 100), save(one, 200)
    save(launch(place, resumed_from=b), 300)
    files = sorted(path.relative_to(place.url) for path in Path(place.url).rglob("*") if path.is_file())
    copy = LocalStorage(tmp_path / "copy")
    seen = []
    for file in files:  # checkpoints arrive before run.json here, and manifests between their blobs
        copy.write(file.as_posix(), [Path(place.url, file).read_bytes()])
        seen.append(line(copy))
        for _, manifest in Catalog(copy).history():
            verify_bytes(Catalog(copy), manifest)
    assert [str(a)] in seen
    assert seen[-1] == line(place)


class Interrupted(LocalStorage):
    """Does something else between this reader's listing and its first read."""

    def __init__(self, root: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(Path(root))
        self._meanwhile: Callable[[], None] | None = meanwhile

    def list(self, path: str) -> list[Entry]:
        found = super().list(path)
        if path == "checkpoints" and self._meanwhile:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return found


def test_a_checkpoint_pruned_while_it_is_looked_for_makes_it_list_again(place: LocalStorage) -> None:
    attempt = launch(place)
    first = save(attempt, 100)
    published = []

    def meanwhile() -> None:
        published.append(save(attempt, 200))
        delete(place, attempt, [first])

    rejected: dict[str, str] = {}
    history = Catalog(Interrupted(place.url, meanwhile)).history(rejected.__setitem__)
    assert [name for name, _ in history] == published
    assert rejected == {}


def test_a_checkpoint_pruned_while_it_is_read_is_gone_not_damaged(place: LocalStorage) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    catalog = Catalog(place)
    manifest = catalog.manifest(name)
    delete(place, attempt, [name])
    with pytest.raises(NoCheckpointError, match="was pruned meanwhile"):
        catalog.read_blob(manifest, "model.safetensors")
    with pytest.raises(NoCheckpointError, match="was pruned meanwhile"):
        catalog.check(manifest, name)


def test_reading_writes_nothing(place: LocalStorage, tmp_path: Path) -> None:
    save(launch(place), 100)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    catalog = Catalog(place)
    verify_bytes(catalog, catalog.history()[0][1])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# -- a damaged run.json -----------------------------------------------------------------------------------------------


def damage_run_file(place: LocalStorage) -> None:
    Path(place.url, "run.json").write_bytes(b"{}")


def test_what_a_damaged_run_file_said_is_taken_from_the_manifests_and_told(
    place: LocalStorage, caplog: pytest.LogCaptureFixture
) -> None:
    name = save(launch(place), 100)
    before = Catalog(place).run_file()
    assert before
    damage_run_file(place)
    found = Catalog(place).run_file()
    assert found
    assert (found.run_id, found.data_seed) == (before.run_id, before.data_seed)
    assert line(place) == [str(name)]
    assert "run.json: cut short, or not of this format" in caplog.text
    assert f"taken from {name}" in caplog.text


def test_where_the_manifests_do_not_agree_a_damaged_run_file_is_an_error(place: LocalStorage, tmp_path: Path) -> None:
    attempt = launch(place)
    save(attempt, 100)
    other = launch(LocalStorage(tmp_path / "other"))
    foreign = save(other, 200)
    shutil.copytree(Path(other.storage.url, checkpoint_path(foreign)), Path(place.url, checkpoint_path(foreign)))
    damage_run_file(place)
    with pytest.raises(CorruptCheckpointError, match=r"run\.json: cut short"):
        Catalog(place).run_file()


def test_a_damaged_run_file_without_a_checkpoint_is_an_error(place: LocalStorage) -> None:
    launch(place)
    damage_run_file(place)
    with pytest.raises(CorruptCheckpointError, match=r"run\.json: cut short"):
        Catalog(place).run_file()
