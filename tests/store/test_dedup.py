"""Which blobs are offered to be shared, save after save."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from resumable.store.dedup import PublishedBlob, Sharing
from resumable.store.digesting import FileDigest
from resumable.store.documents.manifest import MAX_NAMED, BlobRecord

NAME = "model.frozen.safetensors"


def blob(content: str, named: int = 1) -> PublishedBlob:
    digest = FileDigest((content * 32,))
    path = f"checkpoints/step-000000001.e0000.a0001/{NAME}"
    return PublishedBlob(BlobRecord(path=path, rank=0, size=100, named=named, digest=digest.value), digest)


def save(sharing: Sharing, content: str, *, frozen: bool) -> str | None:
    """One save of this content, which is shared if it is what was offered; the content that had been offered."""
    offered = sharing.before(NAME, frozen=frozen)
    same = offered is not None and offered.digest == blob(content).digest
    sharing.published({NAME: blob(content, offered.record.named + 1 if offered and same else 1)})
    return offered.digest.ranges[0][0] if offered else None


def test_what_is_said_to_be_frozen_is_offered_from_the_second_save_on() -> None:
    sharing = Sharing({})
    assert save(sharing, "a", frozen=True) is None
    assert save(sharing, "a", frozen=True) == "a"


def test_what_says_nothing_is_offered_once_it_was_unchanged() -> None:
    sharing = Sharing({})
    assert [save(sharing, "a", frozen=False) for _ in range(4)] == [None, None, "a", "a"]


def test_what_changed_is_offered_no_more_whatever_is_said_of_it() -> None:
    sharing = Sharing({})
    assert [save(sharing, content, frozen=True) for content in "aabcc"] == [None, "a", "a", None, None]
    assert sharing.before(NAME, frozen=True) == blob("c"), "until it is found unchanged once more"


def test_at_most_ten_checkpoints_share_one_file() -> None:
    sharing = Sharing({})
    offered = [save(sharing, "a", frozen=True) is not None for _ in range(25)]
    assert MAX_NAMED == 10
    assert offered == ([False] + [True] * 9) * 2 + [False] + [True] * 4


def test_a_launch_goes_on_counting_where_the_checkpoint_that_it_resumed_from_ended() -> None:
    sharing = Sharing({NAME: blob("a", named=8)})
    assert [save(sharing, "a", frozen=True) for _ in range(4)] == ["a", "a", None, "a"]
    assert Sharing({NAME: blob("a")}).before(NAME, frozen=False) is None, "whether it changed is unknown"


@pytest.mark.parametrize("named", [0, MAX_NAMED + 1])
def test_no_record_names_a_file_more_often_than_allowed(named: int) -> None:
    with pytest.raises(ValidationError, match="named"):
        blob("a", named)


def test_a_save_that_came_to_nothing_changes_nothing() -> None:
    sharing = Sharing({})
    save(sharing, "a", frozen=True)
    assert sharing.before(NAME, frozen=True) == sharing.before(NAME, frozen=True) == blob("a")
    sharing.published({})
    assert sharing.before(NAME, frozen=True) is None, "what one checkpoint lacks is not offered to the next"
