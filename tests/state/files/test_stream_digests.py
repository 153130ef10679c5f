"""What a file holds, found out while it passes in pieces of any length, is what reading it whole gives."""

from __future__ import annotations

import json
import struct

import pytest
import torch
import xxhash

from resumable.state.files.stream_digests import DigestedSlice, StreamDigester
from resumable.state.tensors.safetensors_layout import Layout, parse_header
from tests.state.roundtrip import save_tree

PIECES = [1, 7, 64, 1000, 10**6]


def example() -> bytes:
    torch.manual_seed(3)
    saved = save_tree(
        {
            "large": torch.rand(40, 11),
            "empty": torch.zeros(0, 3),
            "scalar": torch.tensor(2.5),
            "flags": torch.rand(11) > 0.5,
            "more": torch.zeros(0),
        }
    )
    return bytes(saved.image)


def passed(data: bytes, *, step: int, file: StreamDigester | None = None) -> StreamDigester:
    file = file or StreamDigester(len(data))
    for start in range(0, len(data), step):
        file.see(memoryview(data)[start : start + step], start)
    return file


def whole(data: bytes) -> dict[str, DigestedSlice]:
    places = parse_header(data).items()
    return {
        key: DigestedSlice(place, xxhash.xxh3_128_hexdigest(data[place.start : place.end])) for key, place in places
    }


@pytest.mark.parametrize("step", PIECES)
def test_pieces_of_any_length_give_what_the_whole_gives(step: int) -> None:
    data = example()
    assert dict(passed(data, step=step).tensors()) == whole(data)
    assert len(whole(data)) == 5


@pytest.mark.parametrize("step", PIECES)
def test_a_file_of_nothing_but_empty_tensors_or_none_is_one_too(step: int) -> None:
    for entries in ([("none", "F32", (0, 2), 0)], []):
        data = Layout(entries).header
        assert dict(passed(data, step=step).tensors()) == whole(data)


@pytest.mark.parametrize("step", PIECES)
def test_what_passes_once_more_is_looked_at_once_more(step: int) -> None:
    data = example()
    wrong = bytearray(data)
    wrong[9] ^= 4  # within the header
    wrong[-1] ^= 4
    file = passed(bytes(wrong)[: len(wrong) - 3], step=step, file=StreamDigester(len(data)))
    assert dict(passed(data, step=step, file=file).tensors()) == whole(data)


@pytest.mark.parametrize("step", PIECES)
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "too few"),
        (b"abc", "too few"),
        (struct.pack("<Q", 2**63) + bytes(100), "a header of"),
        (struct.pack("<Q", 200) + b"{}", "too few"),
        (struct.pack("<Q", 4) + b"{]}}" + bytes(3000), "brackets|JSON"),
        (struct.pack("<Q", 2) + b"{}" + bytes(5), "the tensors end at byte 10, the file at 15"),
    ],
)
def test_what_is_no_such_file_is_told_when_it_has_passed(step: int, data: bytes, error: str) -> None:
    file = passed(data, step=step)
    with pytest.raises(ValueError, match=error):
        file.tensors()


def test_a_malformed_header_is_parsed_once_and_not_for_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    monkeypatch.setattr(
        "resumable.state.tensors.safetensors_layout.strict_json.loads", lambda text, **_: parsed.append(len(text))
    )
    header = json.dumps([1] * 5000).encode()
    passed(struct.pack("<Q", len(header)) + header + bytes(50_000), step=1000)
    assert parsed == [len(header)]
