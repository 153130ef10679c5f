"""Which blobs are offered to be shared, save after save."""

from __future__ import annotations

from resumable.store.dedup import MAX_CHECKPOINTS, Sharing
from resumable.store.manifest import BlobRecord

NAME = "model.frozen.safetensors"


def record(content: str, step: int = 1) -> BlobRecord:
    path = f"checkpoints/step-{step:09d}.e0000.a0001/{NAME}"
    return BlobRecord(path=path, rank=0, size=100, digest=content * 32)


def save(sharing: Sharing, written: BlobRecord, *, frozen: bool) -> BlobRecord | None:
    """One save that writes, or shares, what `written` says; what had been offered for it."""
    offered = sharing.before(NAME, frozen=frozen)
    sharing.published({NAME: written}, candidates={NAME: offered})
    return offered


def test_what_is_said_to_be_frozen_is_offered_from_the_second_save_on() -> None:
    sharing = Sharing()
    assert save(sharing, record("a"), frozen=True) is None
    assert save(sharing, record("a"), frozen=True) == record("a")


def test_what_says_nothing_is_offered_once_it_was_unchanged() -> None:
    sharing = Sharing()
    offered = [save(sharing, record("a"), frozen=False) for _ in range(4)]
    assert offered == [None, None, record("a"), record("a")]


def test_what_changed_is_offered_no_more_whatever_is_said_of_it() -> None:
    sharing = Sharing()
    offered = [save(sharing, record(content), frozen=True) for content in "aabcc"]
    assert offered == [None, record("a"), record("a"), None, None]
    assert sharing.before(NAME, frozen=True) == record("c"), "until it is found unchanged once more"


def test_at_most_ten_checkpoints_share_one_file() -> None:
    sharing = Sharing()
    offered = [save(sharing, record("a"), frozen=True) is not None for _ in range(25)]
    assert MAX_CHECKPOINTS == 10
    assert offered == ([False] + [True] * 9) * 2 + [False] + [True] * 4


def test_a_save_that_came_to_nothing_changes_nothing() -> None:
    sharing = Sharing()
    save(sharing, record("a"), frozen=True)
    assert sharing.before(NAME, frozen=True) == sharing.before(NAME, frozen=True) == record("a")
    sharing.published({}, candidates={})
    assert sharing.before(NAME, frozen=True) is None, "what one checkpoint lacks is not offered to the next"
