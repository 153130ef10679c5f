"""Which slabs a save writes, and which files it names: any sequence of changes, as numbers alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable.checkpointing.slabs import MOST_ON_DISK, NOTHING_STORED, SlabPlan, StoredSlab, StoredSlabs, plan
from resumable.run.rank_records import most_bytes
from resumable.state.tensors.boxes import Box
from resumable.state.tensors.slabs import PAGE_BYTES, Slab
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import FileDigest
from resumable.store.documents.manifest import MAX_NAMED, BlobRecord
from resumable.store.layout import slab_name

FOLDER = "checkpoints/step-000000000.e0000.a0001"

Contents = dict[Slab, str]


@dataclass(frozen=True)
class Change:
    """What happens before one save: the slabs that are overwritten, by number, and how many slabs there are then."""

    slabs: frozenset[int]
    count: int


CHANGES = st.builds(Change, st.frozensets(st.integers(0, 39), max_size=6), st.integers(1, 40))


def slab(number: int) -> Slab:
    return Slab("rows", "float64", Box((number * 512, 0), (512, 3)))


class Saves:
    """Saves one after the other, and what the files hold that they wrote; finds what breaks a promise."""

    def __init__(self) -> None:
        self.before = NOTHING_STORED
        self.files: dict[str, Contents] = {}
        self.named: Counter[str] = Counter()
        self.live: Contents = {}

    def save(self, change: Change, *, in_turn: bool = True) -> SlabPlan:
        """Save once; assert that the checkpoint finds each slab, and that no file is named too often."""
        step = len(self.files)
        live = {slab(number): self.live.get(slab(number), "new") for number in range(change.count)}
        live |= {slab(number): f"{step}.{number}" for number in change.slabs if number < change.count}
        digests = {each: xxhash.xxh3_128_hexdigest(content.encode()) for each, content in live.items()}
        name = slab_name("buffer", step=step, epoch=0)
        found = plan(self.before, digests, name=name, in_turn=in_turn)
        self.files[name] = {each: live[each] for each in found.write}
        assert found.slabs.keys() == live.keys()
        for each, stored in found.slabs.items():
            assert self.files[stored.file][each] == live[each]
            assert stored.digest == digests[each]
        assert {stored.file for stored in found.slabs.values()} - {name} == found.shared.keys()
        self.named.update({name, *found.shared})
        assert max(self.named.values()) <= MAX_NAMED
        size = found.layout.size + sum(blob.record.size for blob in found.shared.values())
        assert size <= MOST_ON_DISK * sum(each.facts.nbytes for each in live) + len(found.layout.header)
        self.before = found.stored(self._published(found))
        self.live = live
        return found

    def _published(self, found: SlabPlan) -> dict[str, PublishedBlob]:
        sizes = {found.name: found.layout.size} | {name: blob.record.size for name, blob in found.shared.items()}
        return {name: self._blob(name, size) for name, size in sizes.items()}

    def _blob(self, name: str, size: int) -> PublishedBlob:
        record = BlobRecord(path=f"{FOLDER}/{name}", rank=0, size=size, named=self.named[name], digest="0" * 32)
        return PublishedBlob(record, FileDigest(()))


@given(st.lists(CHANGES, min_size=2, max_size=40))
@settings(max_examples=60)
def test_any_changes_leave_each_checkpoint_whole_and_no_file_named_too_often(changes: list[Change]) -> None:
    saves = Saves()
    for change in changes:
        saves.save(change)


@given(st.lists(st.frozensets(st.integers(0, 39), max_size=6), min_size=25, max_size=40), st.integers(9, 40))
@settings(max_examples=40)
def test_a_save_writes_no_more_than_what_changed_and_a_ninth(changes: list[frozenset[int]], count: int) -> None:
    saves = Saves()
    assert len(saves.save(Change(frozenset(), count)).write) == count
    for changed in changes:
        written = saves.save(Change(changed, count)).write
        assert len(written) <= len(changed) + math.ceil(count / 9)


def test_out_of_turn_only_what_changed_is_written_until_a_file_may_not_be_named_again() -> None:
    saves = Saves()
    counts = [len(saves.save(Change(frozenset(), 20), in_turn=False).write) for _ in range(21)]
    assert counts == [20, *[0] * 9, 20, *[0] * 9, 20]


def test_a_file_of_the_name_that_is_written_is_not_shared() -> None:
    saves = Saves()
    first = saves.save(Change(frozenset(), 20))
    again = plan(saves.before, {each: at.digest for each, at in first.slabs.items()}, name=first.name, in_turn=True)
    assert not again.shared
    assert len(again.write) == 20


def test_a_file_that_readers_find_too_large_for_what_is_left_is_not_shared() -> None:
    wide = Slab("wide", "complex128", Box((0, 0), (2**14, 2**10)))
    most = most_bytes(wide.box.elements)
    assert most < MOST_ON_DISK * wide.facts.nbytes
    old, new = slab_name("buffer", step=8, epoch=0), slab_name("buffer", step=9, epoch=0)
    for size, written in ((most, ()), (most + 1, (wide,))):
        record = BlobRecord(path=f"{FOLDER}/{old}", rank=0, size=size, named=1, digest="0" * 32)
        before = StoredSlabs({wide: StoredSlab("1" * 32, old, 4096)}, {old: PublishedBlob(record, FileDigest(()))})
        assert plan(before, {wide: "1" * 32}, name=new, in_turn=False).write == written


def test_slabs_of_whole_pages_begin_at_pages_and_others_follow() -> None:
    odd = Slab("odd", "uint8", Box((0,), (1000,)))
    found = plan(
        NOTHING_STORED,
        {odd: "0" * 32, slab(0): "1" * 32, slab(1): "2" * 32},
        name=slab_name("buffer", step=0, epoch=0),
        in_turn=True,
    )
    assert [each.key for each in found.write] == ["rows", "rows", "odd"]
    assert all(at.begin % PAGE_BYTES == 0 for at in found.slabs.values())
