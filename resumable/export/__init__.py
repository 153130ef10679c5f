"""From a checkpoint to what serves elsewhere, with the proof beside it; each name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resumable.utils.lazy_imports import attribute

if TYPE_CHECKING:
    from resumable.export.check import Measured, verify
    from resumable.export.exporter import Exported, export
    from resumable.export.proof.document import Proof

_HOME = {
    "Exported": "exporter",
    "Measured": "check",
    "Proof": "proof.document",
    "export": "exporter",
    "verify": "check",
}

__all__ = ["Exported", "Measured", "Proof", "export", "verify"]


def __getattr__(name: str) -> Any:
    return attribute(__name__, _HOME, name)
