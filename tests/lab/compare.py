"""Compares the final checkpoints of two runs, bit for bit; knows nothing of how they came about."""

from __future__ import annotations

from typing import Any

from resumable import Checkpoint, Run


def differences(one: Run, other: Run) -> list[str]:
    """Where the newest checkpoints of two runs differ; both must verify."""
    checkpoints = [run.latest() for run in (one, other)]
    for checkpoint in checkpoints:
        checkpoint.verify()
    found: list[str] = []
    _walk("", *(_content(checkpoint) for checkpoint in checkpoints), found)
    return found


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    return {
        "tensors": {
            name: {
                key: [record.dtype, list(record.shape), record.strides, record.alias, record.digest]
                for key, record in records.items()
            }
            for name, records in checkpoint.records.items()
        },
        "step": manifest.step,
        "epoch": manifest.epoch,
        "finished": manifest.finished,
        "position": manifest.position,
        "metrics": {key: repr(value) for key, value in manifest.metrics.items()},
        "kinds": {name: record.model_dump(mode="json") for name, record in manifest.objects.items()},
        "state": checkpoint.document,
    }


def _walk(where: str, one: Any, other: Any, found: list[str]) -> None:
    if type(one) is not type(other):
        found.append(f"{where}: {one!r:.80} against {other!r:.80}")
    elif isinstance(one, dict):
        if list(one) != list(other):
            found.append(f"{where}: keys {list(one)} against {list(other)}")
        for key in [key for key in one if key in other]:
            _walk(f"{where}.{key}", one[key], other[key], found)
    elif isinstance(one, list):
        if len(one) != len(other):
            found.append(f"{where}: length {len(one)} against {len(other)}")
        for index, pair in enumerate(zip(one, other, strict=False)):
            _walk(f"{where}[{index}]", *pair, found)
    elif repr(one) != repr(other):  # repr tells -0.0 from 0.0
        found.append(f"{where}: {one!r:.80} against {other!r:.80}")
