"""What earlier attempts left: what is seen at a launch, and what goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resumable.errors import FencedError
from resumable.store.attempts import Attempt, begin
from resumable.store.catalog import Catalog
from resumable.store.layout import ATTEMPTS_KEPT, CheckpointName, attempt_path, checkpoint_path
from resumable.store.leftovers import freed_bytes, see_files, see_saves
from resumable.store.pins import pin
from resumable.store.publish import delete_stale_files, delete_unfinished
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Storage
from tests.store.building import launch, save
from tests.store.flat import FlatStore

LEFT = CheckpointName(150, 0, 1)
STALE = [".tmp-" + "a" * 16, "attempts/.tmp-" + "b" * 16, "pins/.tmp-" + "c" * 16, "attempts/.probe-" + "d" * 16]


@pytest.fixture(params=["folder", "flat"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "run")
    return FsspecStorage(FlatStore(folder=str(tmp_path), skip_instance_cache=True), "bucket/run", "flat://bucket/run")


def second(place: Storage) -> Attempt:
    """The second attempt, which has seen what the first one left: an unfinished save beside a checkpoint."""
    first = save(launch(place), 100)
    for file in ("model.safetensors", ".tmp-" + "e" * 16):
        place.write(checkpoint_path(LEFT, file), [b"left by a kill"])
    attempt = launch(place, resumed_from=first)
    attempt.left.saves.update(see_saves(place, Catalog(place).names()))
    return attempt


def files(place: Storage, folder: str) -> list[str]:
    return [entry.name for entry in place.list(folder)]


def test_an_unfinished_save_is_seen_and_a_checkpoint_is_not(place: Storage) -> None:
    assert second(place).left.saves == {LEFT: {"model.safetensors": 14, ".tmp-" + "e" * 16: 14}}


def test_an_unfinished_save_that_stands_still_goes_with_its_temporary_files(place: Storage) -> None:
    assert delete_unfinished(place, second(place), LEFT)
    assert LEFT not in Catalog(place).names()


def grow(place: Storage) -> None:
    place.write(checkpoint_path(LEFT, "model.safetensors"), [b"left by a kill, and longer now"])


def arrive(place: Storage) -> None:
    place.write(checkpoint_path(LEFT, "optimizer.safetensors"), [b""])


def shrink(place: Storage) -> None:
    place.remove(checkpoint_path(LEFT, ".tmp-" + "e" * 16))


def commit(place: Storage) -> None:
    place.write(checkpoint_path(LEFT, "manifest.json"), [b"{}"])


@pytest.mark.parametrize("change", [grow, arrive, shrink, commit])
def test_one_that_changed_since_it_was_seen_stays_whole(place: Storage, change: Callable[[Storage], None]) -> None:
    attempt = second(place)
    change(place)
    before = files(place, checkpoint_path(LEFT))
    assert not delete_unfinished(place, attempt, LEFT)
    assert files(place, checkpoint_path(LEFT)) == before
    assert delete_unfinished(place, attempt, LEFT) == (change is not commit)  # it stands still now


def test_one_that_is_pinned_stays(place: Storage) -> None:
    attempt = second(place)
    pin(place, LEFT)
    assert not delete_unfinished(place, attempt, LEFT)
    assert LEFT in Catalog(place).names()


def test_what_is_foreign_in_it_stays_and_is_no_reason_to_keep_the_rest(place: Storage) -> None:
    attempt = second(place)
    place.write(checkpoint_path(LEFT, "notes.txt"), [b"mine"])
    attempt.left.saves.update(see_saves(place, [LEFT]))
    assert delete_unfinished(place, attempt, LEFT)
    assert files(place, checkpoint_path(LEFT)) == ["notes.txt"]


def test_a_displaced_attempt_deletes_nothing_of_what_it_saw(place: Storage) -> None:
    attempt = second(place)
    place.write(STALE[0], [b"x"])
    attempt.left.files.update(see_files(place, attempt.number))
    begin(place, resumed_from=None, lineage_before=[])
    with pytest.raises(FencedError, match="owns this run now"):
        delete_unfinished(place, attempt, LEFT)
    with pytest.raises(FencedError, match="owns this run now"):
        delete_stale_files(place, attempt)
    assert LEFT in Catalog(place).names()
    assert place.read(STALE[0]) == b"x"


def test_temporary_files_and_probes_go_and_what_is_new_grew_or_is_foreign_stays(place: Storage) -> None:
    foreign = [".tmp-x", "attempts/.probe", "attempts/notes.txt", "pins/.probe-ab", ".probe-ab"]
    attempt = launch(place)
    for path in [*STALE, *foreign]:
        place.write(path, [b"x"])
    attempt.left.files.update(see_files(place, attempt.number))
    place.write(STALE[1], [b"longer"])
    place.write("attempts/.tmp-" + "0" * 16, [b"new"])
    delete_stale_files(place, attempt)
    left = {f"{folder}/{name}".lstrip("/") for folder in ("", "attempts", "pins") for name in files(place, folder)}
    assert {STALE[1], "attempts/.tmp-" + "0" * 16, *foreign} <= left
    assert not left & {STALE[0], STALE[2], STALE[3]}


def test_of_a_crash_loop_the_files_of_the_last_hundred_attempts_stay(place: Storage) -> None:
    attempts = [launch(place) for _ in range(ATTEMPTS_KEPT + 6)]
    zombie, holder = attempts[2], attempts[-1]
    for number in (5, 6):
        place.write(f"attempts/{number:06d}.left.json", [b"reserved"])
    holder.left.files.update(see_files(place, holder.number))
    delete_stale_files(place, holder)
    standing = {"000006.left.json", *(f"{number:06d}.json" for number in range(6, holder.number + 1))}
    assert set(files(place, "attempts")) == standing
    holder.check()
    with pytest.raises(FencedError, match=rf"attempt {holder.number} .*owns this run now; this is attempt 3"):
        zombie.check()
    assert begin(place, resumed_from=None, lineage_before=[]).number == holder.number + 1


def test_an_attempt_whose_file_is_gone_and_that_has_no_successor_is_fenced_too(place: Storage) -> None:
    attempt = launch(place)
    place.remove(attempt_path(attempt.number))
    with pytest.raises(FencedError, match="removed or replaced"):
        attempt.check()


def test_a_file_frees_its_bytes_with_its_last_name(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path)
    place.write("a", [b"1234567"])
    place.write("d", [b"12"])
    for name in ("b", "c"):
        place.link("a", name)
    entries = {entry.name: entry for entry in place.list("")}
    assert freed_bytes([entries["a"], entries["b"]]) == 0
    assert freed_bytes([entries["a"], entries["d"]]) == 2
    assert freed_bytes([*entries.values()]) == 9
