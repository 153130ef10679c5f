"""Compare the tensors of safetensors files with the proof, bit by bit. Does not import torch, runs nothing."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

from resumable.state.tensors.dtypes import stored_as
from resumable.state.tensors.safetensors_layout import Slice, parse_header
from resumable.weights.proof import WeightRecord


def weights_match(files: Iterable[Path], tensors: Mapping[str, WeightRecord]) -> bool:
    """Return whether these files hold exactly these tensors, every bit; `ValueError` for a malformed file."""
    left = dict(tensors)
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            image = memoryview(mapped)
            try:
                for name, place in parse_header(image).items():
                    record = left.pop(name, None)
                    if record is None or not _matches(record, place, image[place.start : place.end]):
                        return False
            finally:
                image.release()
    return not left


def _matches(record: WeightRecord, place: Slice, data: memoryview) -> bool:
    return (
        stored_as(record.dtype, record.shape) == (place.dtype_tag, place.shape)
        and xxhash.xxh3_128_hexdigest(data) == record.digest
    )
