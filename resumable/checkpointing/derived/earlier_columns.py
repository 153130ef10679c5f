"""The records of tensors of a checkpoint of version 1 or 2, as the columns of a state file of this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resumable.run.checkpoint import Checkpoint
from resumable.state.tensors.records import TensorRecord


def columns_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return the columns of each object that has tensors, by its name."""
    objects = {name: checkpoint.located(name) for name in checkpoint.manifest.objects}
    return {name: _columns(records) for name, records in objects.items() if records}


def _columns(records: Mapping[str, TensorRecord]) -> dict[str, Any]:
    keys = list(records)
    stored = {key: record.pieces[0] for key, record in records.items() if record.alias is None}
    blobs = list(dict.fromkeys(str(piece.blob) for piece in stored.values()))
    return {
        "keys": keys,
        "dtypes": [record.dtype for record in records.values()],
        "shapes": [list(record.shape) for record in records.values()],
        "strides": {key: list(record.strides) for key, record in records.items() if record.strides is not None},
        "aliases": {key: record.alias for key, record in records.items() if record.alias is not None},
        "blobs": blobs,
        "pieces": {
            "key": [keys.index(key) for key in stored],
            "blob": [blobs.index(str(piece.blob)) for piece in stored.values()],
            "begin": [piece.begin for piece in stored.values()],
            "offsets": [None] * len(stored),
            "shape": [None] * len(stored),
            "own": [],
            "digest": "".join(piece.digest for piece in stored.values()),
        },
    }
