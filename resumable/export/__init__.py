"""From a checkpoint to what serves elsewhere, with the proof beside it; each name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resumable.facade import attribute

if TYPE_CHECKING:
    from resumable.export.check import Measured, verify
    from resumable.export.exporting import Exported, export
    from resumable.export.proof import Proof

_HOME = {
    "Exported": "exporting",
    "Measured": "check",
    "Proof": "proof",
    "export": "exporting",
    "verify": "check",
}

__all__ = ["Exported", "Measured", "Proof", "export", "verify"]


def __getattr__(name: str) -> Any:
    return attribute(__name__, _HOME, name)
