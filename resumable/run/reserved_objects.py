"""The names of what a checkpoint stores with the objects that a user passed. Reads nothing."""

from __future__ import annotations

from resumable.store.documents.manifest import ObjectRecord

GRADIENTS = "gradients"
GOLDEN = "golden"
ORDERS = "sampling_orders"
CARRIED = "carried"
DATASETS = "dataset_states"  # in the features of a manifest
# In the environment of a manifest: the names of objects that a program creates only while it trains.
LATE = "late"


def is_golden(name: str, record: ObjectRecord) -> bool:
    """Return whether it is a golden input. The kind is compared too, because objects could once have this name."""
    return name == record.kind == GOLDEN


def is_orders(name: str, record: ObjectRecord) -> bool:
    """Return whether an object holds the sampling orders of the passes in progress, and none that a user passed."""
    return name == record.kind == ORDERS


def is_carried(name: str, record: ObjectRecord) -> bool:
    """Return whether it is the variables of the loop. The kind is compared too: an object may have this name."""
    return name == record.kind == CARRIED
