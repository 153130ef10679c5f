"""Compare how much a finished run was to train with how much it is to train now."""

from __future__ import annotations

from collections.abc import Mapping

Limits = Mapping[str, float | None]
"""The requested amount of training, by the name of the limit; None or a negative number for no limit."""


def is_raised(now: Limits, before: Limits) -> bool:
    """Return whether any limit is higher than it was before the checkpoint."""
    return any(now[name] != limit and _is_more(now[name], limit) for name, limit in before.items())


def _is_more(now: float | None, before: float | None) -> bool:
    unlimited = now is None or now < 0
    return unlimited or (before is not None and 0 <= before < (now or 0))
