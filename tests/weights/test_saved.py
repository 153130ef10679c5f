"""Weights out of files of `resumable.save`: proved by their digests, with all their names and dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

from resumable import CorruptCheckpointError, load_weights, save
from tests.nets import Net, assert_equal


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path)
        return
    yield "memory://saved"
    fsspec.filesystem("memory").rm("saved", recursive=True)


def spoilt(url: str, old: bytes, new: bytes) -> None:
    with fsspec.open(url, "rb") as file:
        image = file.read()
    assert old in image
    with fsspec.open(url, "wb") as file:
        file.write(image.replace(old, new, 1))


def test_a_flipped_bit_is_found_and_its_tensor_named(place: str) -> None:
    url = f"{place}/net.safetensors"
    state = Net(1).state_dict()
    save(state, url)
    data = state["head.weight"].numpy().tobytes()
    spoilt(url, data, bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CorruptCheckpointError, match=r"net\.safetensors: tensor 'head\.weight': digest differs"):
        load_weights(Net(2), url)


def test_another_header_is_refused(place: str) -> None:
    url = f"{place}/net.safetensors"
    save(Net(1).state_dict(), url)
    spoilt(url, b"head.", b"heap.")
    with pytest.raises(CorruptCheckpointError, match=r"net\.safetensors: the header is not the one that was written"):
        load_weights(Net(2), url)


def linears() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model.register_buffer("waves", torch.zeros(2, dtype=torch.complex128))
    return model


def test_both_names_of_a_tensor_and_dtypes_that_the_format_lacks_come_in(tmp_path: Path) -> None:
    tied, apart = linears(), linears()
    tied[1].weight = tied[0].weight  # type: ignore[index]
    tied.waves += 1 + 2j  # type: ignore[operator]
    save(tied.state_dict(), tmp_path / "tied.safetensors")
    load_weights(apart, tmp_path / "tied.safetensors")
    assert_equal(apart, tied.state_dict())
    save({"epoch": 3, "model": tied.state_dict()}, tmp_path / "nested.safetensors")
    again = linears()
    load_weights(again, tmp_path / "nested.safetensors", rename={"model.": ""})
    assert_equal(again, tied.state_dict())
