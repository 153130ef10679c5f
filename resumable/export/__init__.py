"""Export a model from a checkpoint, with a proof that it is the same model. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resumable.utils.lazy_imports import attribute

if TYPE_CHECKING:
    from resumable.export.exporter import Exported, export
    from resumable.export.proof.schema import Proof
    from resumable.export.verifier import Measured, verify

_HOME = {
    "Exported": "exporter",
    "Measured": "verifier",
    "Proof": "proof.schema",
    "export": "exporter",
    "verify": "verifier",
}

__all__ = ["Exported", "Measured", "Proof", "export", "verify"]


def __getattr__(name: str) -> object:
    return attribute(__name__, _HOME, name)
