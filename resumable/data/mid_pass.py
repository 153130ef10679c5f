"""Refuse settings of a loader that changed in the middle of a pass, and name the ways on. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from resumable.data.addresses import PassAddress
from resumable.errors import ChangedDataError

Changed = Mapping[str, tuple[object, object]]
"""The value before and now, by the name of the setting."""

_DROP = (
    "; or drop the rest of the epoch: `resumable rewind RUN@latest --next-epoch`, "
    "or `resumable branch RUN@latest NEW_RUN --next-epoch` for a run of its own"
)


def refuse_in_mid_pass(address: PassAddress, changed: Changed) -> None:
    """Raise `ChangedDataError` where any setting changed."""
    if changed:
        drop = _DROP if address.loop.partition(":")[0] == "batches" else ""
        raise ChangedDataError(
            f"{address}: changed in the middle of a pass, which cannot go on with it: {in_words(address, changed)}",
            f"put it back, and change it at the end of an epoch{drop}",
        )


def in_words(address: PassAddress, changed: Changed) -> str:
    """Return the changes as `batches.batch_size 4->6`."""
    name = f"{address.loop}.{address.number}" if address.number and not address.is_cycle else address.loop
    return ", ".join(f"{name}.{setting} {before}->{now}" for setting, (before, now) in changed.items())
