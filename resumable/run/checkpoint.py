"""One committed checkpoint: its blobs, read and verified on request. Independent of the user's code."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resumable.errors import (
    CheckpointError,
    CorruptCheckpointError,
    NoCheckpointError,
    ResumableError,
    RunMismatchError,
)
from resumable.policy.retention import Candidate
from resumable.run.verification import verify
from resumable.state.loading.result import Loaded
from resumable.store.blob_reader import BlobReader
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import Manifest, ObjectRecord
from resumable.utils import strict_json
from resumable.utils.events import size
from resumable.utils.messages import quoted

if TYPE_CHECKING:
    import torch
    from torch import nn

STATE_BLOB = "state.rank00000.json"
# Stored beside the objects, under names that no object may have.
GRADIENTS = "gradients"
GOLDEN = "golden"
# In the environment of a manifest: the names of objects that a launch does not begin with.
LATE = "late"


class Checkpoint:
    """One committed snapshot; reads its blobs when asked, and verifies every byte that it reads."""

    def __init__(self, catalog: Catalog, name: CheckpointName, manifest: Manifest) -> None:
        self._catalog = catalog
        self._name = name
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r})"

    @property
    def name(self) -> str:
        """The folder's name: step, epochs completed, attempt."""
        return str(self._name)

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def epoch(self) -> int:
        return self.manifest.epoch

    @property
    def size_bytes(self) -> int:
        """The size of all blobs together."""
        return sum(blob.size for blob in self.manifest.blobs.values())

    def candidate(self, metric: str | None) -> Candidate:
        """What retention wants to know of this checkpoint."""
        value = self.manifest.metrics.get(metric) if metric else None
        return Candidate(self.name, self.step, self.epoch, value)

    def verify(self) -> None:
        """Read every blob once and compare sizes and digests, those of its tensors too.

        Raises:
            CorruptCheckpointError: It names the blob that differs, and the tensor where the blob itself is whole.
        """
        verify(self._catalog, self.manifest, self._name)

    def load(self, name: str) -> Any:
        """The state of one object: a module's `state_dict`, or what the object's own `state_dict()` gave.

        Tensors come on the CPU with their type, bits and memory format. Raises `NoCheckpointError` for an unknown name.
        """
        return self._weights(name, self.tree(name))

    def _weights(self, name: str, tree: Any) -> Any:
        from resumable.state.objects.adapt import weights

        try:
            return weights(self._record(name).kind, tree)
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(name, error) from error

    def load_into(
        self,
        model: nn.Module,
        *,
        name: str | None = None,
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
        skip: Iterable[str] = (),
    ) -> Loaded:
        """Copy an object's weights and buffers into `model`, in place; optimizer and RNG are left alone.

        `name` is that of a module, or of an object whose state is a dict of tensors by their names in the model;
        `rename` and `skip` are as `resumable.load_weights` has them. With `strict`, whatever does not fit is a
        `RunMismatchError`, and nothing was changed; otherwise what fits is taken. After a `CorruptCheckpointError` the
        values of the model are undefined.
        """
        from resumable.state.loading.into_model import load

        name = name or self.main_module()
        found = load(model, self._stored(name), strict=strict, rename=rename, skip=skip)
        return Loaded.told(found, self.name, name=name)

    def _stored(self, name: str) -> Any:
        from resumable.state.loading.sources import StoredModule, StoredTensors

        record, where = self._record(name), f"{self.name}: {name}"
        if record.kind != "module" and not record.tensors:
            raise RunMismatchError(f"{where}: holds no tensors", "`resumable show` lists what the objects are")

        def read(into: Mapping[str, torch.Tensor], keys: Collection[str]) -> Mapping[str, torch.Tensor]:
            return self.tensors(name, into=into, keys=keys)

        document = self.document["objects"][name]
        try:
            if record.kind == "module":
                return StoredModule(where, document, record.tensors, read)
            return StoredTensors(where, record.tensors, read)
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(name, error) from error

    def tree(self, name: str) -> Any:
        """The whole stored tree of one object, decoded."""
        return self.decoded(name, self.tensors(name))

    def decoded(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The stored tree of one object, made of `tensors`."""
        from resumable.state.codec import decode

        try:
            return decode(self.document["objects"][name], tensors)
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(name, error) from error

    def tensors(
        self, name: str, *, into: Mapping[str, torch.Tensor] | None = None, keys: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """The tensors of one object by their keys in its blobs, on the CPU; none where it has no blob.

        Those of `into` that are alike, and alone in their memory on the CPU, are filled in place and returned
        themselves; with `keys`, only these are read, and for all others what `into` has is returned. Every byte is
        verified, but where it is to stay: after an error the contents of `into` are undefined.
        """
        from resumable.state.files.tensor_reader import read_tensors

        record = self._record(name)
        if not record.blobs:
            return {}
        for blob in record.blobs:
            self._refuse_more_than_memory(blob)
        sources = self._sources(name)
        try:
            return read_tensors(sources, record.tensors, into=into or {}, keys=record.tensors if keys is None else keys)
        except ValueError as error:
            raise self._malformed(" and ".join(record.blobs), error) from error

    def reader(self, name: str) -> Callable[[str], torch.Tensor]:
        """Reads and verifies the tensors of one object one at a time, by their keys in its blobs."""
        from resumable.state.files.tensor_reader import TensorReader

        record = self._record(name)
        with self._judged(" and ".join(record.blobs)):
            reader = TensorReader(self._sources(name), record.tensors)

        def read(key: str) -> torch.Tensor:
            with self._judged(" and ".join(record.blobs)):
                return reader.read(key)

        return read

    def _sources(self, name: str) -> list[BlobReader]:
        return [self._catalog.reader(self.manifest, blob) for blob in self._record(name).blobs]

    @contextmanager
    def _judged(self, where: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if isinstance(error, ResumableError):
                raise
            raise self._malformed(where, error) from error

    def inline_tree(self, part: str) -> Any:
        """`rng` or `position`, decoded: parts of the state file whose tensors stand in it."""
        from resumable.state.codec import decode

        try:
            return decode(self.document[part], {})
        except (ValueError, KeyError) as error:
            raise self._malformed(part, error) from error

    @functools.cached_property
    def document(self) -> dict[str, Any]:
        """The verified state file: everything that is not a tensor, still in the codec's JSON."""
        try:
            document: dict[str, Any] = strict_json.loads(bytes(self._catalog.read_blob(self.manifest, STATE_BLOB)))
        except KeyError as error:
            raise self._malformed(STATE_BLOB, ValueError("not among the blobs")) from error
        except ValueError as error:
            raise self._malformed(STATE_BLOB, error) from error
        if not _is_state(document, self.manifest.objects.keys()):
            raise self._malformed(STATE_BLOB, ValueError("not a document for each object, rng and position"))
        return document

    def _refuse_more_than_memory(self, blob: str) -> None:
        # A sparse file of a terabyte is as cheap for a forger as its record; finding out by reading it is not.
        needed = self.manifest.blobs[blob].size
        if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise CheckpointError(
                f"{self.name}: {blob} has {size(needed)}, more than the memory of this machine",
                "load it on a larger machine, or verify it here: `resumable verify` needs no memory",
            )

    def _record(self, name: str) -> Any:
        try:
            return self.manifest.objects[name]
        except KeyError:
            known = ", ".join(self.manifest.objects)
            raise NoCheckpointError(f"{self.name}: no object {name!r}", f"this checkpoint holds: {known}") from None

    def main_module(self) -> str:
        """The name of the only module, or `model`; `RunMismatchError` where it is not clear which is meant."""
        modules = [name for name, record in self.manifest.objects.items() if record.kind == "module"]
        if len(modules) == 1:
            return modules[0]
        if "model" in modules:
            return "model"
        raise RunMismatchError(
            f"{self.name}: holds {len(modules)} modules ({', '.join(modules) or 'none'}), so it is not clear which",
            "say which: load_into(model, name=...)",
        )

    def _malformed(self, where: str, error: Exception) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self.name}: {where}: {quoted(error)}", "`resumable verify` tells which checkpoints are good"
        )


def is_golden(name: str, record: ObjectRecord) -> bool:
    """Whether it is a golden input; the kind says so too, because the name was once free for objects."""
    return name == record.kind == GOLDEN


def _is_state(document: Any, objects: Iterable[str]) -> bool:
    if not isinstance(document, dict) or document.keys() != {"objects", "rng", "position"}:
        return False
    return isinstance(document["objects"], dict) and document["objects"].keys() == set(objects)
