"""Verify a checkpoint: every blob is undamaged, and is the file that the manifest's records describe.

A blob may be undamaged and still be the wrong one: shared by mistake, or from another save. Both are checked in one
pass over the bytes, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from resumable.errors import CorruptCheckpointError
from resumable.state.files.stream_digests import DigestedSlice, StreamDigester
from resumable.state.tensors.dtypes import may_hold
from resumable.state.tensors.tensor_locations import locate
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import Manifest, ObjectRecord, TensorRecord
from resumable.utils.messages import quoted


def verify(catalog: Catalog, manifest: Manifest, name: CheckpointName) -> None:
    """Read every blob once, and compare sizes and digests of the blobs, and of each tensor in them.

    Raises:
        CorruptCheckpointError: It names the blob, and the tensor where the blob itself is undamaged.
        NoCheckpointError: The checkpoint was pruned meanwhile.
        StorageError: The storage failed; the checkpoint may be undamaged.
    """
    recorded = _recorded(manifest)
    passing = {blob: StreamDigester(manifest.blobs[blob].size) for blob in recorded}
    catalog.verify(manifest, name, {blob: file.see for blob, file in passing.items()})
    held = {blob: _held(blob, file) for blob, file in passing.items()}
    for record in manifest.objects.values():
        _refuse_misplaced(record, held)
    for blob, tensors in held.items():
        for key, found in tensors.items():
            _refuse_other(blob, key, found, recorded[blob])


def _recorded(manifest: Manifest) -> dict[str, list[Mapping[str, TensorRecord]]]:
    """Return, for each blob that holds tensors, what its objects record."""
    recorded: dict[str, list[Mapping[str, TensorRecord]]] = {}
    for record in manifest.objects.values():
        for blob in record.blobs if record.tensors else ():
            recorded.setdefault(blob, []).append(record.tensors)
    return recorded


def _held(blob: str, file: StreamDigester) -> Mapping[str, DigestedSlice]:
    try:
        return file.tensors()
    except ValueError as error:
        raise _other(blob, str(error)) from error


def _refuse_misplaced(record: ObjectRecord, held: Mapping[str, Mapping[str, DigestedSlice]]) -> None:
    if record.tensors:
        headers = [{key: found.place for key, found in held[blob].items()} for blob in record.blobs]
        try:
            locate(headers, record.tensors)
        except ValueError as error:
            raise _other(" and ".join(record.blobs), str(error)) from error


def _refuse_other(blob: str, key: str, found: DigestedSlice, recorded: list[Mapping[str, TensorRecord]]) -> None:
    records = [tensors[key] for tensors in recorded if key in tensors and tensors[key].alias is None]
    if not records:
        raise _other(blob, f"tensor {key!r}: in the file, and not recorded")
    for record in records:
        tag, shape = found.place.dtype_tag, found.place.shape
        if not may_hold(tag, shape, record.dtype, record.shape):
            raise _other(
                blob, f"tensor {key!r}: the file holds {tag}{list(shape)}, expected {record.dtype}{record.shape}"
            )
        if found.digest != record.digest:
            raise _other(blob, f"tensor {key!r}: digest differs: {found.digest}, expected {record.digest}")


def _other(blob: str, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{blob}: whole, but not the file that the manifest describes: {quoted(what)}")
