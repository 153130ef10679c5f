"""Format positions and metrics of checkpoints as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def batch_text(position: Mapping[str, object]) -> str:
    """Return `417/1800` inside an epoch, and nothing between two epochs."""
    if position.get("batch") is None:
        return ""
    length = position.get("length")
    return f"{position['batch']}/{'?' if length is None else length}"


def metrics_text(values: Mapping[str, float], *, digits: int = 4) -> str:
    """Return `loss=0.02890 accuracy=0.9832`."""
    return " ".join(f"{name}={value:.{digits}g}" for name, value in values.items())
