"""Read and verify the documents of one checkpoint once: state files and records of tensors. Reads no tensors."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from resumable.errors import CorruptCheckpointError, ResumableError
from resumable.run.rank_records import blobs_by_rank, refuse_bad_records
from resumable.run.tensor_records import Records, earlier_records, joined_records, refuse_other_blobs
from resumable.store.catalog import Catalog
from resumable.store.documents.earlier_versions import EarlierObjects, is_earlier
from resumable.store.documents.manifest import Manifest
from resumable.store.documents.rank_state import RankState, parse_earlier_rank_state, parse_rank_state
from resumable.store.layout import CheckpointName, state_name
from resumable.utils.messages import quoted


class CheckpointDocuments:
    """The state files of a checkpoint of any version, and the records of its tensors.

    Each property raises `CorruptCheckpointError` for what the format does not allow.
    """

    def __init__(self, catalog: Catalog, name: CheckpointName, manifest: Manifest) -> None:
        self._catalog = catalog
        self._name = name
        self._manifest = manifest

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """Return what is not a tensor, in the codec's JSON: `objects`, and `rng` and `position` of rank 0.

        Of several documents of an object that of the lowest rank counts.
        """
        objects: dict[str, Any] = {}
        for state in reversed(self.states.values()):  # from the highest rank on
            objects.update(state.objects)
        return {"objects": objects, "rng": self.states[0].rng, "position": self.states[0].position}

    @functools.cached_property
    def records(self) -> Records:
        """Return the record of each tensor, by object and key."""
        if self.earlier is not None:
            return {name: earlier_records(record) for name, record in self.earlier.objects.items()}
        with self.reported("the records of the tensors"):
            return joined_records(self._manifest, self.states)

    @functools.cached_property
    def earlier(self) -> EarlierObjects | None:
        """Return the objects of a manifest of version 1 or 2, which records the tensors itself; None for later ones."""
        if not is_earlier(self._manifest.format_version):
            return None
        found = self._catalog.earlier_objects(self._manifest)
        with self.reported("the manifest"):
            refuse_other_blobs(self._manifest, found)
        return found

    @functools.cached_property
    def states(self) -> dict[int, RankState]:
        """Return the state file of each rank; of rank 0 alone before version 3."""
        ranks = range(1 if is_earlier(self._manifest.format_version) else self._manifest.world)
        for rank in ranks:  # before any of them is read
            if state_name(rank) not in self._manifest.blobs:
                raise self.malformed(state_name(rank), ValueError("not among the blobs"))
        written = blobs_by_rank(self._manifest)
        states = {rank: self._state(rank, written.get(rank, ())) for rank in ranks}
        documents = {name for state in states.values() for name in state.objects}
        if other := documents ^ self._manifest.objects.keys():
            raise self.malformed(state_name(0), ValueError(f"not a document for each object: {min(other)!r}"))
        return states

    def _state(self, rank: int, written: Collection[str]) -> RankState:
        with self.reported(state_name(rank)):
            data = bytes(self._catalog.read_blob(self._manifest, state_name(rank)))
            if is_earlier(self._manifest.format_version):
                return parse_earlier_rank_state(data)
            state = parse_rank_state(data)
            refuse_bad_records(self._manifest, written, rank, state)
            return state

    @contextmanager
    def reported(self, where: str) -> Iterator[None]:
        """Turn a `ValueError` into an error that names the checkpoint and `where`."""
        try:
            yield
        except ValueError as error:
            if isinstance(error, ResumableError):
                raise
            raise self.malformed(where, error) from error

    def malformed(self, where: str, error: Exception) -> CorruptCheckpointError:
        """Return an error that names the checkpoint and `where`, once."""
        reason = quoted(error).removeprefix(f"{where}: ")
        return CorruptCheckpointError(
            f"{self._name}: {where}: {reason}", "`resumable verify` lists the undamaged checkpoints"
        )
