"""What decides whether bytes that were read wrong are damage: two reads that agree."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from resumable.errors import CorruptCheckpointError, StorageError
from resumable.utils.reread import READS, reread


class Cached:
    """A file whose reads bring what they are given to bring."""

    where = "run/x"

    def __init__(self, *reads: bytes) -> None:
        self._reads = list(reads)
        self.calls: list[str] = []

    def read(self) -> bytes:
        self.calls.append("read")
        return self._reads.pop(0)

    def drop_cache(self) -> None:
        self.calls.append("drop")


def judge(found: bytes) -> str:
    if found != b"right":
        raise CorruptCheckpointError(f"x: {found!r}")
    return found.decode()


def outcome(file: Cached) -> str:
    return reread([file], file.read, judge)


def warnings(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_is_right_is_read_once_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    file = Cached(b"right")
    assert outcome(file) == "right"
    assert file.calls == ["read"]
    assert not warnings(caplog)


@pytest.mark.parametrize("wrong", [[b"one"], [b"one", b"two"]])
def test_what_was_wrong_and_then_is_right_is_told_once(caplog: pytest.LogCaptureFixture, wrong: list[bytes]) -> None:
    file = Cached(*wrong, b"right")
    assert outcome(file) == "right"
    assert file.calls == ["read", *["drop", "read"] * len(wrong)]
    [line] = warnings(caplog)
    assert "a read of run/x returned other bytes than the next read" in line


@pytest.mark.parametrize("reads", [[b"one", b"one"], [b"one", b"two", b"one"], [b"one", b"two", b"two"]])
def test_two_reads_that_agree_are_damage(caplog: pytest.LogCaptureFixture, reads: list[bytes]) -> None:
    file = Cached(*reads)
    with pytest.raises(CorruptCheckpointError, match=f"x: {reads[-1]!r}"):
        outcome(file)
    assert file.calls.count("read") == len(reads)
    assert not warnings(caplog)


def test_reads_that_never_agree_say_nothing_about_the_file() -> None:
    file = Cached(b"one", b"two", b"three", b"right")
    with pytest.raises(StorageError, match=f"cannot read run/x: {READS} reads returned other bytes each") as caught:
        outcome(file)
    assert isinstance(caught.value.__cause__, CorruptCheckpointError)
    assert "the file itself may be right" in str(caught.value)


def test_an_error_of_the_reading_itself_is_never_held_back() -> None:
    file = Cached(b"wrong")

    def gone() -> bytes:
        file.read()
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        reread([file], gone, judge)
    assert file.calls == ["read"]
