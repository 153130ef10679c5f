"""Decide how a loader is read, and refuse loaders and positions that cannot be resumed. Independent of open passes.

A map-style dataset is read by address, an iterable dataset as a stream, a loader with a state of its own by that, and
everything else by replay.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeAlias, TypeGuard

from torch.utils.data import DataLoader, IterableDataset, IterDataPipe

from resumable.data.addresses import PassAddress
from resumable.data.pass_base import Opening
from resumable.data.passes.handed_out import are_digests
from resumable.data.passes.replay import type_of, workers_of
from resumable.data.passes.stream_state import is_proof
from resumable.data.sampling.packed_order import PackedOrder
from resumable.errors import CorruptCheckpointError, LoopError
from resumable.prepared.loaders import prepared_loader
from resumable.stateful import Stateful, has_state_dict

LoaderKind: TypeAlias = Literal["address", "stream", "loader", "replay"]

# The kinds of position that a loader of each kind resumes from: a stream has a state or is replayed.
_POSITIONS: dict[LoaderKind, tuple[str, ...]] = {
    "address": ("address",),
    "stream": ("state", "replay"),
    "loader": ("state", "replay"),
    "replay": ("replay",),
}
# What a position of each kind holds at least.
_PARTS = {
    "address": {"batches", "order", "dataset_length", "sampler"},
    "state": {"batches", "workers", "dataset"},
    "replay": {"batches", "workers"},
}
_DRAWN = {"batches": int, "order": str, "ended": bool}  # how far stateful samplers were drawn


def loader_kind(loader: object) -> LoaderKind:
    """Return how this loader is read."""
    if not iterates_as_torch(loader):
        return "loader" if _has_own_state(loader) else "replay"
    return "stream" if isinstance(loader.dataset, IterableDataset) else "address"


def iterates_as_torch(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Return whether only torch's own code iterates the loader, so that a loader of ours can take its place."""
    bases: list[type] = [DataLoader]
    module = sys.modules.get("torchdata.stateful_dataloader.stateful_dataloader")
    if module is not None:
        bases.append(module.StatefulDataLoader)
    names = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
    kind = type(loader)
    as_torch = any(all(getattr(kind, name, None) is getattr(base, name) for name in names) for base in bases)
    return as_torch and not isinstance(getattr(loader, "dataset", None), IterDataPipe)


def _has_own_state(loader: object) -> TypeGuard[Stateful]:
    """Return whether a loader can be put to where it was, and is neither a wrapper nor a DataLoader.

    Classes of torch's and torchdata's DataLoader seed workers and samplers when a pass begins, which no state holds.
    """
    is_other = hasattr(loader, "base_dataloader") or prepared_loader(loader) is not None
    return has_state_dict(loader) and not is_other and not isinstance(loader, DataLoader)


def refuse_loader(loader: object, address: PassAddress) -> None:
    """Raise `LoopError` for what cannot be iterated, or not twice in the same order."""
    if getattr(loader, "in_order", True) is False and workers_of(loader) > 0:
        raise LoopError(
            f"{address}: the loader has in_order=False, so batches come in the order in which workers finish",
            "leave in_order at True: without it no run can be repeated",
        )
    if not hasattr(type(loader), "__iter__") and not hasattr(type(loader), "__getitem__"):
        raise LoopError(f"{address}: {type_of(loader)} cannot be iterated", "pass a DataLoader or another iterable")


def check_position(kind: LoaderKind, opening: Opening) -> None:
    """Raise `LoopError` for a position of another kind, and `CorruptCheckpointError` for one that lacks a part."""
    if opening.resume is None:
        return
    before = opening.resume.get("kind")
    if before not in _POSITIONS[kind]:
        raise LoopError(
            f"{opening.address}: the checkpoint holds a position by {before}, but this loader goes by {kind}",
            "resume with the kind of loader and dataset that the run began with",
        )
    done = opening.batches_done
    whole = _PARTS[before] <= opening.resume.keys() and isinstance(opening.resume.get("sampler", {}), dict)
    drawn = "drawn" not in opening.resume or _is_drawn(opening.resume["drawn"], at_least=done)
    stored = "indices" not in opening.resume or isinstance(opening.resume["indices"], PackedOrder)
    marked = "digests" not in opening.resume or are_digests(opening.resume["digests"], batches=done)
    if not (whole and drawn and stored and marked and is_proof(opening.resume.get("proof"), batches=done)):
        raise CorruptCheckpointError(f"{opening.address}: not the position of a pass by {before}")


def _is_drawn(value: object, *, at_least: int) -> bool:
    if not isinstance(value, dict) or any(type(value.get(key)) is not kind for key, kind in _DRAWN.items()):
        return False
    return bool(value["batches"] >= at_least)
