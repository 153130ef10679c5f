"""Digesting beside the writing: the same digest, whatever is written where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import xxhash

from resumable.store import digesting
from resumable.store.digesting import Digested, digest_of


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digesting, "DIGEST_PIECE_BYTES", 1000)
    monkeypatch.setattr(digesting, "BESIDE_BYTES", 300)


def expected(whole: bytes, range_bytes: int = digesting.RANGE_BYTES) -> tuple[list[str], str]:
    """The digests of the ranges, and the digest of the file, computed at once."""
    ranges = [xxhash.xxh3_128(whole[start : start + range_bytes]) for start in range(0, len(whole), range_bytes)]
    joined = b"".join(each.digest() for each in ranges)
    return [each.hexdigest() for each in ranges], xxhash.xxh3_128_hexdigest(joined)


def views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytes((number + place) % 251 for place in range(size))) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "chunks",
    [views(), views(0), views(1), views(299), views(300), views(5000, 1, 0, 299, 1001), views(10, 3000, 10)],
)
@pytest.mark.parametrize("range_bytes", [1, 299, 700, 1000, 5000, digesting.RANGE_BYTES])
def test_the_digest_is_that_of_all_bytes_and_every_byte_is_given_once(
    chunks: list[memoryview], range_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digesting, "RANGE_BYTES", range_bytes)
    content, whole = Digested(chunks), b"".join(chunks)
    for _ in range(2):  # a storage that tries again
        assert b"".join(content) == whole
        found = content.digest()
        assert (list(found.ranges), found.value) == expected(whole, range_bytes)
        assert digest_of(chunks) == found
        assert content.size == len(whole)


def test_no_piece_is_larger_than_a_piece_and_none_is_copied() -> None:
    memory = bytearray(2500)
    given = list(Digested([memoryview(memory).cast("H")]))
    memory[:] = b"x" * 2500
    assert [len(piece) for piece in given] == [1000, 1000, 500]
    assert b"".join(given) == memory


class Reused:
    """A producer with one buffer, which it fills anew as soon as the next chunk is asked for."""

    def __init__(self, chunks: int) -> None:
        self._buffer = bytearray(1000)
        self._chunks = chunks

    def contents(self) -> list[bytes]:
        return [bytes([number]) * 1000 for number in range(self._chunks)]

    def __iter__(self) -> Iterator[memoryview]:
        for content in self.contents():
            self._buffer[:] = content
            yield memoryview(self._buffer)


def test_the_memory_of_a_chunk_may_be_used_again_when_the_next_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = _held_until_asked(monkeypatch)
    chunks = Reused(9)
    content = Digested(chunks)
    written = b""
    for piece in content:
        written += piece
        slow.set()  # only now, when all of the piece is written, may it be digested
    assert written == b"".join(chunks.contents())
    assert content.digest().value == expected(written)[1]


def _held_until_asked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let every digest wait for an event, which it clears again."""
    go, real = threading.Event(), xxhash.xxh3_128

    class Held:
        def __init__(self, data: bytes = b"") -> None:
            self._seen = real(data)

        def digest(self) -> bytes:
            return self._seen.digest()

        def update(self, piece: memoryview) -> None:
            assert go.wait(60)
            go.clear()
            self._seen.update(piece)

        def reset(self) -> None:
            self._seen.reset()

        def hexdigest(self) -> str:
            return self._seen.hexdigest()

    monkeypatch.setattr(digesting.xxhash, "xxh3_128", Held)
    return go


def test_a_large_piece_is_digested_while_it_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    digested = threading.Event()
    _digest_by(monkeypatch, lambda piece: digested.set())
    for _ in Digested(views(1000)):
        assert digested.wait(60)  # while this loop, which is the writing, has the piece


def test_a_small_piece_needs_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    _digest_by(monkeypatch, lambda piece: threads.add(threading.current_thread()))
    assert len(list(Digested(views(299, 10)))) == 2
    assert threads == {threading.current_thread()}


def test_a_digest_that_fails_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(piece: memoryview) -> None:
        raise MemoryError("of the digest")

    _digest_by(monkeypatch, fail)
    with pytest.raises(MemoryError, match="of the digest"):
        list(Digested(views(5000)))


def test_no_thread_is_left_however_the_iteration_ends() -> None:
    def alive() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "resumable-digest"]

    list(Digested(views(5000)))
    assert alive() == []
    given_up = iter(Digested(views(5000)))
    next(given_up)
    assert alive() == ["resumable-digest"]
    given_up.close()  # type: ignore[attr-defined]
    assert alive() == []


def _digest_by(monkeypatch: pytest.MonkeyPatch, action: Callable[[memoryview], object]) -> None:
    class Watched:
        def update(self, piece: memoryview) -> None:
            action(piece)

    monkeypatch.setattr(digesting.xxhash, "xxh3_128", Watched)
