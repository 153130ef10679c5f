"""From a checkpoint to what serves elsewhere, with the proof beside it; each name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    return attribute(__name__, _HOME, name)
