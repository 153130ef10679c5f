"""Try a `state_dict` before a crash does: load an earlier state into a copy, and compare what follows.

Nothing of the object itself is read or changed, and no random stream moves.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from resumable.data.pass_base import Opening
from resumable.data.passes.handed_out import HandedOut, OtherBatchesError
from resumable.data.passes.keyed_stream import Batches, KeyedStream, Ticket
from resumable.data.passes.loader_stream import named
from resumable.data.passes.stream_state import StreamState
from resumable.data.rng.streams import saved_streams

SECONDS = 5.0
_MAX_ITEMS, _MAX_BYTES = 200_000, 64 * 2**20
_LIBRARIES = ("datasets", "torchdata")  # whose states are known; a resume proves them by the batches before it


class Verdict(Enum):
    """What a trial found."""

    LEADS_ON = "the batches that followed the state came again"
    DIFFERS = "other batches came"
    UNPROVED = "no trial could be made"


def is_known(dataset: object) -> bool:
    """Return whether a library that is tested with this package defines the dataset or loader."""
    return type(named(dataset)).__module__.partition(".")[0] in _LIBRARIES


def tried(loader: DataLoader[Any], opening: Opening, proof: Mapping[str, Any], *, count: int, digest: str) -> Verdict:
    """Return whether the state in `proof` leads to the batches from there to batch `count`, of `digest`."""
    if not is_copyable(loader.dataset) or not is_copyable(loader.collate_fn):
        return Verdict.UNPROVED
    deadline = time.monotonic() + SECONDS
    with saved_streams():
        for late in (False, True):
            try:
                stream = _copied_stream(loader, opening)
            except Exception:
                return Verdict.UNPROVED
            handed = HandedOut(opening.address, stream.dataset, "", [[count, digest]], tolerate=None)
            try:
                _read_on(stream, opening, proof, handed, late=late, count=count, deadline=deadline)
                return Verdict.LEADS_ON
            except TimeoutError:
                return Verdict.UNPROVED
            except (OtherBatchesError, StopIteration):
                continue
            except Exception:
                return Verdict.UNPROVED  # perhaps of the copy alone
    return Verdict.DIFFERS


def _copied_stream(loader: DataLoader[Any], opening: Opening) -> KeyedStream:
    ticket = Ticket()
    ticket.write(opening.key, opening.epoch)
    stream = KeyedStream(loader, ticket, opening.generator_rule)
    stream.dataset, stream.collate = copy.deepcopy((loader.dataset, loader.collate_fn))
    return stream


def _read_on(
    stream: KeyedStream,
    opening: Opening,
    proof: Mapping[str, Any],
    handed: HandedOut,
    *,
    late: bool,
    count: int,
    deadline: float,
) -> None:
    state = StreamState(stream.dataset, named(stream.dataset), "", opening.address)  # type: ignore[arg-type]
    state.load(proof)
    handed.restart(proof["batches"], proof["digest"], is_proof=True)
    stream.start, stream.late = proof["batches"], late
    batches: Batches = iter(stream)
    state.load_iterator(proof, batches.items)
    while handed.count < count:
        if time.monotonic() > deadline:
            raise TimeoutError
        handed.add(next(batches))


def is_copyable(root: object) -> bool:
    """Return whether a copy takes little time and memory, and shares no closure with the object."""
    seen: set[int] = set()
    waiting, size = [root], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, FunctionType) and value.__closure__:
            return False
        if id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
            continue
        seen.add(id(value))
        size += value.nbytes if isinstance(value, torch.Tensor | np.ndarray) else sys.getsizeof(value, 0)
        if len(seen) > _MAX_ITEMS or size > _MAX_BYTES:
            return False
        waiting.extend(_parts(value))
    return True


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    return [*vars(value).values()] if hasattr(value, "__dict__") and not isinstance(value, FunctionType) else []
