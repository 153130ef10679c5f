"""What is deleted and what is kept where checkpoints share their blobs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from resumable.checkpointing.prune import make_room, plan, plan_of_nothing, prune
from resumable.config.config import Config
from resumable.errors import FencedError, FormatVersionError, NoCheckpointError, StorageError
from resumable.policy.retention import Rule
from resumable.store.attempts import Attempt, begin
from resumable.store.catalog import Catalog
from resumable.store.documents.manifest import BlobRecord, Manifest
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.pins import pin, unpin
from resumable.store.publish import Blob, publish
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Entry, Storage
from tests.store.building import blob_of, file_of, launch, line, manifest, published, states, states_of, verify_bytes
from tests.store.building import save_whole as save
from tests.store.flat import CarelessStore, FlatStore
from tests.store.opening import open_run

FROZEN = b"frozen " * 20
LAST = Rule(last=1)


class Unlinked(LocalStorage):
    """A folder on a file system without hard links, whose removals and reads may fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.stuck: set[str] = set()
        self.unreadable: set[str] = set()
        self.removed: list[str] = []
        self.before_removal: Callable[[], object] = lambda: None

    def link(self, source: str, target: str) -> bool:
        return False

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        if any(part in path for part in self.unreadable):
            raise StorageError("the network is away")
        return super().read(path, max_bytes=max_bytes)

    def remove(self, path: str) -> None:
        self.before_removal()
        if any(part in path for part in self.stuck):
            raise StorageError("may not remove")
        super().remove(path)
        self.removed.append(path)


class Several(Unlinked):
    """One that removes several files at once, in any order, and lists the files of all checkpoints at once."""

    removed_at_once = 1000

    def list_below(self, path: str) -> dict[str, list[Entry]]:  # type: ignore[override]
        return {entry.name: self.list(f"{path}/{entry.name}") for entry in self.list(path) if entry.is_dir}

    def remove_all(self, paths: Sequence[str]) -> None:
        super().remove_all(sorted(paths))


@pytest.fixture(params=["folder", "several", "flat"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage without links: a blob that is shared is named by its path."""
    if request.param != "flat":
        return (Unlinked if request.param == "folder" else Several)(tmp_path / "run")
    return FsspecStorage(FlatStore(folder=str(tmp_path), skip_instance_cache=True), "bucket/run", "flat://bucket/run")


def share(attempt: Attempt, step: int, before: CheckpointName | None, **fields: Any) -> CheckpointName:
    """Publish a checkpoint whose frozen blob is that of the one before."""
    name, record = CheckpointName(step, 0, attempt.number), None
    if before is not None:
        foreign = Catalog(attempt.storage).manifest(before).blobs["model.frozen.safetensors"]
        record = published(foreign, file_of("model.frozen.safetensors", FROZEN))
    contents = {"model.safetensors": b"%d" % step, "model.frozen.safetensors": FROZEN}
    blobs = [blob_of("model.safetensors", b"%d" % step), blob_of("model.frozen.safetensors", FROZEN, record)]
    written = states_of(contents)
    publish(attempt.storage, attempt, name, blobs, written, lambda records: manifest(name, records, attempt, **fields))
    return name


def standing(storage: Storage) -> list[CheckpointName]:
    """What stands, newest first. Raises where one lacks a byte."""
    catalog, found = Catalog(storage), []
    for name in catalog.names():
        try:
            verify_bytes(catalog, catalog.manifest(name))
        except NoCheckpointError:
            continue
        found.append(name)
    return found


def test_what_holds_a_blob_of_what_stays_stays_and_goes_with_the_last_that_names_it(place: Storage) -> None:
    attempt = launch(place)
    owner = share(attempt, 100, None)
    second, third = share(attempt, 200, owner), share(attempt, 300, owner)
    decided = prune(place, Catalog(place), attempt, LAST)
    assert (decided.keep, decided.delete) == ((third, owner), (second,))
    assert standing(place) == [third, owner]
    anew = share(attempt, 400, None)
    assert prune(place, Catalog(place), attempt, LAST).keep == (anew,)
    assert standing(place) == Catalog(place).names() == [anew]


def test_a_chain_of_references_is_followed_to_its_end(place: Storage) -> None:
    attempt = launch(place)
    first = share(attempt, 100, None)
    second = forged(attempt, 200, first, "model.safetensors")
    third = forged(attempt, 300, second, "own200.safetensors")
    assert prune(place, Catalog(place), attempt, LAST).delete == ()
    assert standing(place) == [third, second, first]


def forged(attempt: Attempt, step: int, other: CheckpointName, file_name: str) -> CheckpointName:
    """A checkpoint with a blob of its own, `own200.safetensors` at step 200, beside one of `other`."""
    name = CheckpointName(step, 0, attempt.number)
    foreign = Catalog(attempt.storage).manifest(other).blobs[file_name]
    own = Blob(f"own{step}.safetensors", [memoryview(b"%d" % step)], len(b"%d" % step))

    def named(records: dict[str, BlobRecord]) -> Manifest:
        return manifest(name, records | {file_name: foreign}, attempt)

    publish(attempt.storage, attempt, name, [own], states, named)
    return name


KINDS = pytest.mark.parametrize("kind", [Unlinked, Several])


@KINDS
def test_at_no_instant_of_a_pruning_does_a_manifest_lack_its_blob(tmp_path: Path, kind: type[Unlinked]) -> None:
    place = kind(tmp_path / "run")
    attempt = launch(place)
    owner = share(attempt, 100, None)
    others = [share(attempt, step, owner) for step in (200, 300)]
    newest = share(attempt, 400, None)
    seen: list[list[CheckpointName]] = []
    place.before_removal = lambda: seen.append(standing(LocalStorage(tmp_path / "run")))
    prune(place, Catalog(place), attempt, LAST)
    assert standing(place) == [newest]
    assert [name for names in seen for name in names if name == newest] == [newest] * len(seen)
    manifests = [path for path in place.removed if path.endswith("manifest.json")]
    first = others[::-1] if kind is Unlinked else others  # what goes by one request goes in any order
    assert manifests == [checkpoint_path(name, "manifest.json") for name in (*first, owner)]


@KINDS
def test_what_cannot_be_deleted_keeps_what_it_names_and_nothing_else(tmp_path: Path, kind: type[Unlinked]) -> None:
    place = kind(tmp_path / "run")
    attempt = launch(place)
    unrelated = save(attempt, 50)
    owner = share(attempt, 100, None)
    stuck = share(attempt, 200, owner)
    newest = share(attempt, 300, None)
    place.stuck = {str(stuck)}
    with pytest.raises(StorageError, match="may not remove"):
        prune(place, Catalog(place), attempt, LAST)
    assert standing(place) == [newest, stuck, owner]
    assert unrelated not in Catalog(place).names()
    place.stuck = set()
    prune(place, Catalog(place), attempt, LAST)
    assert Catalog(place).names() == [newest]


def test_what_was_pinned_while_it_was_to_go_keeps_what_it_names(tmp_path: Path) -> None:
    place = Unlinked(tmp_path / "run")
    attempt = launch(place)
    owner = share(attempt, 100, None)
    second = share(attempt, 200, owner)
    third, newest = share(attempt, 300, None), share(attempt, 400, None)
    place.before_removal = lambda: pin(place, second)  # at the first removal, which is of the third
    prune(place, Catalog(place), attempt, LAST)
    assert third not in Catalog(place).names()
    assert standing(place) == [newest, second, owner]
    place.before_removal = lambda: None
    unpin(place, second)
    prune(place, Catalog(place), attempt, LAST)
    assert Catalog(place).names() == [newest]


def test_what_is_pinned_keeps_what_it_names(place: Storage) -> None:
    attempt = launch(place)
    owner = share(attempt, 100, None)
    second, third, newest = share(attempt, 200, owner), share(attempt, 300, None), share(attempt, 400, None)
    pin(place, second)
    decided = prune(place, Catalog(place), attempt, LAST)
    assert (decided.keep, decided.delete) == ((newest, second, owner), (third,))
    assert standing(place) == Catalog(place).names() == [newest, second, owner]


def test_what_is_off_the_line_keeps_what_it_names_as_long_as_it_stands(place: Storage) -> None:
    first = launch(place)
    owner, resumed_from = share(first, 100, None), share(first, 150, None)
    off_the_line = share(first, 200, owner)
    second = launch(place, resumed_from=resumed_from)
    three = [share(second, step, None) for step in (180, 170, 160)[::-1]][::-1]
    decided = prune(place, Catalog(place), second, Rule(last=4))
    assert (decided.keep, decided.delete) == ((*three, resumed_from, owner), ())
    assert standing(place) == [*three, off_the_line, resumed_from, owner]
    fourth = share(second, 190, None)
    assert prune(place, Catalog(place), second, Rule(last=4)).delete == (off_the_line, resumed_from, owner)
    assert standing(place) == [fourth, *three]


def test_nothing_is_deleted_while_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    place = Unlinked(tmp_path / "run")
    first = launch(place)
    owner = share(first, 100, None)
    zombie = share(first, 900, owner)
    second = launch(place, resumed_from=owner)
    newest = share(second, 110, None)
    pin(place, zombie)
    place.unreadable = {str(zombie)}
    with pytest.raises(StorageError, match="the network is away"):
        prune(place, Catalog(place), second, LAST)
    assert Catalog(place).names() == [newest, zombie, owner]
    place.unreadable = set()
    assert plan(Catalog(place), LAST, attempt=2).keep == (newest, owner)
    unpin(place, zombie)
    assert prune(place, Catalog(place), second, LAST).delete == (zombie, owner)


def test_what_a_damaged_manifest_named_is_kept_for_nobody(place: Storage) -> None:
    attempt = launch(place)
    owner = share(attempt, 100, None)
    damaged = share(attempt, 200, owner)
    newest = share(attempt, 300, None)
    place.write(checkpoint_path(damaged, "manifest.json"), [b"{}"])
    prune(place, Catalog(place), attempt, LAST)
    assert owner not in Catalog(place).names()
    assert line(place) == [str(newest)]


def test_beside_a_manifest_of_a_newer_version_nothing_is_deleted(place: Storage) -> None:
    attempt = launch(place)
    owner = share(attempt, 100, None)
    unknown = share(attempt, 200, owner)
    share(attempt, 300, None)
    body = b'{"format_version":99}'
    newer = body[:-1] + b',"digest":"%s"}' % digest(body).encode()
    place.write(checkpoint_path(unknown, "manifest.json"), [newer])
    with pytest.raises(FormatVersionError):
        prune(place, Catalog(place), attempt, LAST)
    assert owner in Catalog(place).names()


def test_checkpoints_that_name_each_other_are_left_alone(place: Storage) -> None:
    attempt = launch(place)
    older = save(attempt, 100)
    newer = forged(attempt, 200, older, "model.safetensors")
    catalog = Catalog(place)
    record = catalog.manifest(newer).blobs["own200.safetensors"]
    entangled = catalog.manifest(older)
    entangled = entangled.model_copy(update={"blobs": {**entangled.blobs, "own200.safetensors": record}})
    place.write(checkpoint_path(older, "manifest.json"), [entangled.dump()])
    newest = save(attempt, 300)
    prune(place, Catalog(place), attempt, LAST)
    assert standing(place) == [newest, newer, older]


def test_room_is_not_made_by_what_a_manifest_names(place: Storage) -> None:
    first = launch(place)
    owner = share(first, 100, None)
    second = launch(place, resumed_from=owner)
    place.write(checkpoint_path(CheckpointName(50, 0, 1), "model.safetensors"), [b"left by a kill"])
    share(second, 200, owner)
    place.remove(checkpoint_path(owner, "manifest.json"))  # of a copy that is still arriving
    make_room(place, Catalog(place), second)
    assert [name.step for name in Catalog(place).names()] == [200, 100]
    assert line(place)[0].startswith("step-000000200.")


def test_a_pruning_without_shared_blobs_asks_for_no_more_manifests_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LocalStorage(tmp_path / "run")
    attempt = launch(place)
    catalog, reads = Catalog(place), []
    read = place.read

    def counted(path: str, *, max_bytes: int | None = None) -> bytes:
        reads.append(path)
        return read(path, max_bytes=max_bytes)

    monkeypatch.setattr(place, "read", counted)
    for step in range(100, 600, 100):
        save(attempt, step)
        prune(place, catalog, attempt, LAST)
    manifests = [path for path in reads if path.endswith("manifest.json")]
    assert len(manifests) == len(set(manifests)) == 5


def test_a_plan_that_lists_nothing_decides_as_one_that_lists_everything() -> None:
    fewer = 0
    for seed in range(40):
        draw = random.Random(seed)
        rule = Rule(
            last=draw.randint(1, 3),
            every_steps=draw.choice([None, None, 300]),
            best_metric=draw.choice([None, "loss"]),
        )
        by_listing, by_memory = _pruned(seed, rule, remembers=False), _pruned(seed, rule, remembers=True)
        assert by_memory[0] == by_listing[0], (seed, rule)
        fewer += by_listing[1] - by_memory[1]
    assert fewer > 40


def _pruned(seed: int, rule: Rule, *, remembers: bool) -> tuple[list[list[str]], int]:
    """What stands after each of some saves, with launches between and shared blobs; and how often it was listed."""
    draw, seen, listings, before = random.Random(seed), [], 0, None
    url = f"memory://prune/{seed}/{remembers}"
    place = FsspecStorage(MemoryFileSystem(skip_instance_cache=True), url.removeprefix("memory:/"), url)
    attempt, catalog, newest = launch(place), Catalog(place), None
    for step in range(100, 1000, 100):
        if newest is not None and draw.random() < 0.2:
            newest = draw.choice([name for name, _ in Catalog(place).history()])
            attempt, catalog, before = launch(place, resumed_from=newest), Catalog(place), None
        metrics = {"loss": draw.choice([draw.random(), math.nan])} if draw.random() < 0.8 else {}
        newest = share(attempt, step, newest if draw.random() < 0.3 else None, metrics=metrics)
        added = catalog.manifest(newest)
        catalog.add(newest, added)
        before = plan_of_nothing(before, added, rule) if remembers else None
        if before is None:
            listings += 1
            before = prune(place, catalog, attempt, rule)
        seen.append([*map(str, before.keep), "", *map(str, Catalog(place).names())])
    return seen, listings


def test_a_displaced_writer_deletes_nothing_that_is_shared_either(place: Storage) -> None:
    attempt = launch(place)
    owner = share(attempt, 100, None)
    share(attempt, 200, owner)
    share(attempt, 300, None)
    begin(place, resumed_from=None, lineage_before=[])
    before = Catalog(place).names()
    with pytest.raises(FencedError, match="owns this run now"):
        prune(place, Catalog(place), attempt, LAST)
    assert Catalog(place).names() == before


@KINDS
def test_every_order_of_a_few_saves_and_prunings_keeps_every_manifest_whole(
    tmp_path: Path, kind: type[Unlinked]
) -> None:
    for number, sharing in enumerate(_choices(6)):
        place = kind(tmp_path / str(number))
        attempt, catalog, newest = launch(place), Catalog(place), None
        for step, shared in enumerate(sharing):
            newest = share(attempt, 100 * (step + 1), newest if shared else None)
            prune(place, catalog, attempt, Rule(last=2))
            named = {record.path for name in catalog.names() for record in catalog.manifest(name).blobs.values()}
            assert all(place.size(path) >= 1 for path in named)
            assert newest in standing(place)


def _choices(length: int) -> Iterable[tuple[bool, ...]]:
    return [tuple(bool(number >> place & 1) for place in range(length)) for number in range(0, 2**length, 3)]


# -- what earlier attempts left ---------------------------------------------------------------------------------------

MANY = Rule(last=3)


class _Model:
    """As much of an object as opening a run looks at."""

    kind = "module"
    type = "torch.nn.Linear"
    joins = None

    def misfits(self, tensors: object, document: object) -> list[str]:
        return []


MODEL = {"model": _Model()}


def left_by(attempt: Attempt, step: int, data: bytes = b"left by a kill") -> CheckpointName:
    """A save that a kill cut short before its manifest."""
    name = CheckpointName(step, 0, attempt.number)
    attempt.storage.write(checkpoint_path(name, "model.safetensors"), [data])
    return name


def taken_over(place: Storage) -> Attempt:
    """One more launch of the run, as the product opens it; its program holds no lock, as if it had been killed."""
    opened = open_run(Config(run="runs/x", data_seed=7), place, Catalog(place), MODEL)
    opened.unlock()
    return opened.attempt


def test_attempts_that_die_in_each_third_save_leave_one_unfinished_save_and_not_one_each(place: Storage) -> None:
    for step in range(0, 60, 10):
        attempt = taken_over(place)
        for number in (1, 2):
            save(attempt, step + number)
            prune(place, Catalog(place), attempt, MANY)
        left_by(attempt, step + 3)
        assert len(Catalog(place).names()) <= MANY.last + 1
    assert len(line(place)) == 3


def test_attempts_that_die_in_their_first_pruning_leave_one_half_deleted_checkpoint(place: Storage) -> None:
    for step in range(0, 60, 10):
        attempt = taken_over(place)
        save(attempt, step)
        prune(place, Catalog(place), attempt, LAST)
        *_, oldest = Catalog(place).names()
        save(attempt, step + 1)
        place.remove(checkpoint_path(oldest, "manifest.json"))  # here it is killed
        assert len(Catalog(place).names()) <= 2


def test_a_save_that_still_grows_goes_when_it_stood_still_between_two_prunings(place: Storage) -> None:
    first = taken_over(place)
    save(first, 100)
    growing = left_by(first, 200)
    second = taken_over(place)
    left_by(first, 200, b"a follower of the first launch writes on")
    for step in (110, 120):
        assert growing in Catalog(place).names()
        save(second, step)
        prune(place, Catalog(place), second, LAST)
    assert growing not in Catalog(place).names()


def test_an_unfinished_save_that_holds_a_blob_of_a_checkpoint_stays(place: Storage) -> None:
    first = taken_over(place)
    owner = share(first, 100, None)
    newest = share(first, 110, owner)
    place.remove(checkpoint_path(owner, "manifest.json"))  # in a copy its manifest has yet to come
    second = taken_over(place)
    save(second, 120)
    prune(place, Catalog(place), second, Rule(last=2))
    assert owner in Catalog(place).names()
    assert newest in standing(place)
    save(second, 130)
    prune(place, Catalog(place), second, Rule(last=2))
    prune(place, Catalog(place), second, Rule(last=2))
    assert [name.step for name in Catalog(place).names()] == [130, 120]


def test_an_unfinished_save_that_is_newer_than_all_that_was_committed_stays(place: Storage) -> None:
    first = taken_over(place)
    save(first, 100)
    second = taken_over(place)
    unfinished = left_by(second, 110)
    third = taken_over(place)
    assert plan(Catalog(place), LAST, attempt=third.number, seen=third.left.saves).delete == ()
    save(third, 110)
    prune(place, Catalog(place), third, MANY)
    assert unfinished not in Catalog(place).names()


def test_where_create_is_not_exclusive_unfinished_saves_wait_for_as_many_as_the_rule_keeps(tmp_path: Path) -> None:
    store = CarelessStore(folder=str(tmp_path), skip_instance_cache=True)
    place = FsspecStorage(store, "bucket/run", "careless://bucket/run")
    first = taken_over(place)
    save(first, 100)
    unfinished = left_by(first, 200)
    second = taken_over(place)
    for step in (110, 120, 130):
        assert unfinished in Catalog(place).names()
        save(second, step)
        prune(place, Catalog(place), second, MANY)
    assert unfinished not in Catalog(place).names()


def test_once_the_leftovers_went_a_pruning_lists_what_it_lists_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        lists(tmp_path / "left", monkeypatch, leaves=True)[1:]
        == lists(tmp_path / "clean", monkeypatch, leaves=False)[1:]
    )


def lists(root: Path, monkeypatch: pytest.MonkeyPatch, *, leaves: bool) -> list[int]:
    """How many folders each pruning of a second attempt lists."""
    place, listed = LocalStorage(root), []
    first = taken_over(place)
    save(first, 100)
    if leaves:
        left_by(first, 200)
        place.write("attempts/.tmp-" + "0" * 16, [b"x"])
    second, catalog, listing = taken_over(place), Catalog(place), place.list
    monkeypatch.setattr(place, "list", lambda path: [listed.append(path), *listing(path)][1:])
    counts = []
    for step in range(110, 160, 10):
        save(second, step)
        before = len(listed)
        prune(place, catalog, second, MANY)
        counts.append(len(listed) - before)
    return counts
