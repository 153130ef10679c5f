"""What is particular to storage behind fsspec."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from resumable.errors import ConfigError, StorageError
from resumable.store.storage import fsspec_storage
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.retry import PatientStorage
from tests.store.flat import CarelessStore, FlatStore


def stored(kind: type[FlatStore], folder: Path) -> FsspecStorage:
    return FsspecStorage(kind(folder=str(folder), skip_instance_cache=True), "bucket/run", "flat://bucket/run")


def test_exclusive_create_is_probed_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    honest, careless = stored(FlatStore, tmp_path), stored(CarelessStore, tmp_path)
    assert honest.exclusive
    assert not careless.exclusive
    assert list(tmp_path.iterdir()) == []


def test_exists_then_write_does_not_count_as_exclusive(tmp_path: Path) -> None:
    assert not FsspecStorage(LocalFileSystem(skip_instance_cache=True), str(tmp_path), "x://").exclusive


def test_reading_never_probes(tmp_path: Path) -> None:
    store = FlatStore(folder=str(tmp_path), skip_instance_cache=True)
    place = FsspecStorage(store, "bucket/run", "flat://bucket/run")
    place.list("attempts")
    with pytest.raises(FileNotFoundError):
        place.read("run.json", max_bytes=10)
    assert not [request for request in store.requests if request.startswith("put")]


def test_a_create_that_is_refused_because_of_its_own_lost_answer_succeeds(tmp_path: Path) -> None:
    class LosesAnswers(FlatStore):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
            super().pipe_file(path, value, mode)
            if mode == "create":
                super().pipe_file(path, value, mode)  # what a client's retry does

    place = stored(LosesAnswers, tmp_path)
    place.__dict__["exclusive"] = True
    place.create("a/f", b"mine")
    with pytest.raises(FileExistsError):
        place.create("a/f", b"of another")


def test_without_exclusive_create_the_last_to_write_wins_and_the_other_is_told(tmp_path: Path) -> None:
    class Raced(CarelessStore):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
            super().pipe_file(path, value)
            super().pipe_file(path, b"of another")

    place = stored(Raced, tmp_path)
    place.__dict__["exclusive"] = False
    with pytest.raises(FileExistsError, match="by another program at the same time"):
        place.create("a/f", b"mine")


def test_a_half_written_file_is_not_published_when_it_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(FlatStore):
        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            file = super()._open(path, mode, **options)
            write = file.write

            def broken(data: bytes) -> None:
                write(data)
                raise ConnectionResetError(104, "Connection reset by peer")

            file.write = broken
            return file

    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", 10)
    place = stored(Breaks, tmp_path)
    with pytest.raises(StorageError, match="Connection reset by peer"):
        place.write("a/f", [bytes(100)])
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_read_that_fails_for_a_while_is_repeated(tmp_path: Path) -> None:
    failures = iter([TimeoutError("timed out"), RuntimeError("a driver's own kind of error")])

    class Flaky(FlatStore):
        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
            for failure in failures:
                raise failure
            return super().cat_file(path, start, end)

    place = PatientStorage(stored(Flaky, tmp_path))
    place.write("f", [b"data"])
    assert place.read("f") == b"data"


def test_a_storage_that_stays_away_is_a_storage_error_with_the_place(tmp_path: Path) -> None:
    class Away(FlatStore):
        def _list(self, path: str) -> list[dict[str, Any]]:
            raise RuntimeError("no route to host")

    with pytest.raises(StorageError, match="cannot list flat://bucket/run/checkpoints: no route to host"):
        stored(Away, tmp_path).list("checkpoints")


def test_a_refused_permission_is_not_asked_for_again(tmp_path: Path) -> None:
    asked = []

    class Forbids(FlatStore):
        def _list(self, path: str) -> list[dict[str, Any]]:
            asked.append(path)
            raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match="Permission denied") as caught:
        PatientStorage(stored(Forbids, tmp_path)).list("checkpoints")
    assert len(asked) == 1
    assert caught.value.errno == 13
    assert "who may write" in str(caught.value.hint)


def test_a_folder_is_never_removed_with_what_is_in_it(tmp_path: Path) -> None:
    class Recursive(FlatStore):
        def rmdir(self, path: str) -> None:
            raise AssertionError("this one would remove everything")

    place = stored(Recursive, tmp_path)
    place.write("a/f", [b"x"])
    place.remove_dir("a")
    assert place.read("a/f") == b"x"


def test_an_answer_that_ends_early_is_never_taken_for_a_short_file(tmp_path: Path) -> None:
    class Cuts(FlatStore):
        cut = True

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
            data = super().cat_file(path, start, end)
            return data[: len(data) // 2] if self.cut else data

    place, buffer = stored(Cuts, tmp_path), bytearray(10)
    place.write("f", [b"0123456789"])
    for read in (
        lambda: place.read("f"),
        lambda: place.read("f", max_bytes=100),
        lambda: place.read_into("f", memoryview(buffer)),
    ):
        with pytest.raises(StorageError, match=r"cannot read flat://bucket/run/f: the answer ended after \d+ bytes"):
            read()
    Cuts.cut = False
    assert place.read("f", max_bytes=100) == b"0123456789"


@pytest.mark.parametrize("failure", [NotImplementedError("no conditions here"), TypeError("unexpected keyword: mode")])
def test_a_backend_that_knows_no_condition_is_not_exclusive(tmp_path: Path, failure: Exception) -> None:
    class Simple(FlatStore):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
            if mode == "create":
                raise failure
            super().pipe_file(path, value)

    place = stored(Simple, tmp_path)
    assert not place.exclusive
    place.create("a/f", b"mine")
    place.create("a/f", b"mine")  # repeated, because its answer was lost
    with pytest.raises(FileExistsError):
        place.create("a/f", b"of another")


def test_what_a_failed_probe_left_is_removed_by_the_next(tmp_path: Path) -> None:
    failures = iter([TimeoutError("timed out")])

    class Flaky(FlatStore):
        def rm_file(self, path: str) -> None:
            for failure in failures:
                raise failure
            super().rm_file(path)

    place = stored(Flaky, tmp_path)
    with pytest.raises(StorageError, match="timed out"):
        _ = place.exclusive
    assert len(list(tmp_path.iterdir())) == 1
    assert place.exclusive
    assert list(tmp_path.iterdir()) == []


def test_without_probing_nothing_is_tried_and_create_looks_first(tmp_path: Path) -> None:
    store = FlatStore(folder=str(tmp_path), skip_instance_cache=True)
    place = FsspecStorage(store, "bucket/run", "flat://bucket/run", probe=False)
    assert not place.exclusive
    place.create("a/f", b"mine")
    with pytest.raises(FileExistsError):
        place.create("a/f", b"of another")
    assert [request for request in store.requests if request.startswith("put")] == ["put bucket/run/a/f"]


@pytest.mark.parametrize(
    ("url", "options", "message", "hint"),
    [
        ("nosuch://bucket/x", {}, "Protocol not known: nosuch", "check the URL"),
        ("simplecache::memory://x", {}, "expected a storage, found a cache: simplecache", "name the storage behind it"),
        ("flatten://x", {}, "Protocol not known", "check the URL"),
    ],
)
def test_a_url_that_cannot_work_is_a_config_error(url: str, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_storage(url, options)
    assert hint in str(caught.value.hint)


def test_a_missing_package_is_a_config_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match="gs://bucket/x") as caught:
        open_storage("gs://bucket/x")
    assert caught.value.hint == "pip install gcsfs"


def test_paths_and_file_urls_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (str(tmp_path / "run"), "run", f"file://{tmp_path}/run"):
        place = open_storage(url, {"ignored": "here"})
        assert place.locks
        assert place.url == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_read_after_the_cache_was_dropped_is_a_new_request(tmp_path: Path) -> None:
    class Caching(FlatStore):
        """Keeps what it read until it is told to forget it."""

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            kept = self.__dict__.setdefault("kept", {})
            if path not in kept:
                kept[path] = super().cat_file(path)
            return bytes(kept[path][start:end])

        def invalidate_cache(self, path: str | None = None) -> None:
            self.__dict__.setdefault("kept", {}).pop(path, None)

    place, writer = stored(Caching, tmp_path), stored(FlatStore, tmp_path)
    writer.write("a/f", [b"wrong"])
    assert place.read("a/f", max_bytes=10) == b"wrong"
    writer.write("a/f", [b"right"])
    assert place.read("a/f", max_bytes=10) == b"wrong"
    place.drop_cache("a/f")
    assert place.read("a/f", max_bytes=10) == b"right"
