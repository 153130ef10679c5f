"""One committed checkpoint: its blobs, read and verified on request. Independent of the user's code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

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
from resumable.utils.memory import memory_bytes
from resumable.utils.messages import quoted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resumable.state.loading.into_model import StoredWeights

STATE_BLOB = "state.rank00000.json"
# Stored with the objects, under reserved names.
GRADIENTS = "gradients"
GOLDEN = "golden"
# In the environment of a manifest: the names of objects that a program creates only while it trains.
LATE = "late"

StateDict = dict[str, Any]
T = TypeVar("T")


class Checkpoint:
    """One committed checkpoint of a run; get it from `Run`.

    Reads its blobs on request, and verifies every byte that it reads.
    """

    def __init__(self, catalog: Catalog, name: CheckpointName, manifest: Manifest) -> None:
        self._catalog = catalog
        self._name = name
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r})"

    @property
    def name(self) -> str:
        """Return the folder's name: step, completed epochs, attempt."""
        return str(self._name)

    @property
    def step(self) -> int:
        """Return the number of completed steps."""
        return self.manifest.step

    @property
    def epoch(self) -> int:
        """Return the number of completed epochs."""
        return self.manifest.epoch

    @property
    def size_bytes(self) -> int:
        """Return the size of all blobs together, in bytes."""
        return sum(blob.size for blob in self.manifest.blobs.values())

    def candidate(self, metric: str | None) -> Candidate:
        """Return the facts by which retention decides about this checkpoint.

        Args:
            metric: The watched metric, or None.
        """
        value = self.manifest.metrics.get(metric) if metric else None
        return Candidate(self.name, self.step, self.epoch, value)

    def verify(self) -> None:
        """Read every blob once, and compare its size and digest, and the digests of its tensors.

        Raises:
            CorruptCheckpointError: It names the blob that differs, and the tensor where the blob itself is whole.
            NoCheckpointError: The checkpoint was pruned meanwhile.
            StorageError: The storage failed.
        """
        verify(self._catalog, self.manifest, self._name)

    @overload
    def load(self, name: str) -> StateDict: ...

    @overload
    def load(self, name: str, kind: type[T]) -> T: ...

    def load(self, name: str, kind: type[Any] | None = None) -> Any:
        """Return the state of one object, as its `state_dict()` returned it.

        Args:
            name: The name under which the object was passed to `Trainer`.
            kind: The expected type, for the few objects whose state is no dict: `list` for a list, for example.

        Returns:
            The state. Tensors are on the CPU, with their dtype, bits and memory format.

        Raises:
            NoCheckpointError: The checkpoint has no object of this name.
            RunMismatchError: The state is not of the type `kind`.
            CorruptCheckpointError: The stored bytes are damaged.
        """
        from resumable.state.objects.choose_adapter import loadable_state

        tree = self.tree(name)
        try:
            state = loadable_state(self._record(name).kind, tree)
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(name, error) from error
        if kind is not None and not isinstance(state, kind):
            raise RunMismatchError(
                f"{self.name}: {name}: expected a {kind.__name__}, found a {type(state).__name__}",
                "`resumable show` lists the objects and their kinds",
            )
        return state

    def load_into(
        self,
        model: nn.Module,
        *,
        name: str | None = None,
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
        skip: Iterable[str] = (),
    ) -> Loaded:
        """Copy an object's weights and buffers into `model`, in place; optimizers and RNG streams stay as they are.

        Args:
            model: The module to fill; its parameters stay the same objects, with their dtypes and devices.
            name: A module, or an object whose state maps the model's names to tensors; by default the only module,
                or `model`.
            strict: Raise for every name and shape that does not match. If false, what matches is loaded.
            rename: Maps prefixes of stored keys to prefixes of the model's names; the first that matches wins.
            skip: Patterns (`head.*`) of the model's names that stay as they are.

        Returns:
            The number of tensors that were loaded, and the names that did not match.

        Raises:
            RunMismatchError: A name or shape does not match; nothing was changed.
            NoCheckpointError: The checkpoint has no object of this name.
            CorruptCheckpointError: The stored bytes are damaged; the values of the model are undefined.
        """
        from resumable.state.loading.into_model import load_into_model

        name = name or self.main_module()
        found = load_into_model(model, self._stored(name), strict=strict, rename=rename, skip=skip)
        return Loaded.report(found, self.name, name=name)

    def _stored(self, name: str) -> StoredWeights:
        from resumable.state.loading.sources import StoredModule, StoredTensors

        record, where = self._record(name), f"{self.name}: {name}"
        if record.kind != "module" and not record.tensors:
            raise RunMismatchError(f"{where}: holds no tensors", "`resumable show` lists the objects and their kinds")

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
        """Read and decode the whole stored tree of one object.

        Args:
            name: The name under which the object was passed to `Trainer`.

        Returns:
            Plain values, containers and tensors on the CPU.
        """
        return self.decoded(name, self.tensors(name))

    def decoded(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Decode the stored tree of one object.

        Args:
            name: The name under which the object was passed to `Trainer`.
            tensors: The tensors of the tree, by their keys in the blobs.

        Returns:
            Plain values, containers and the given tensors.
        """
        from resumable.state.codec import decode

        try:
            return decode(self.document["objects"][name], tensors)
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(name, error) from error

    def tensors(
        self, name: str, *, into: Mapping[str, torch.Tensor] | None = None, keys: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Read the tensors of one object, and verify every byte in its final place.

        Args:
            name: The name under which the object was passed to `Trainer`.
            into: Tensors to fill in place, by key. One is used if it has the stored dtype and shape, is on the CPU and
                shares its memory with no other. Their contents are undefined after an error.
            keys: The keys to read; for all others the entry of `into` is returned. By default all.

        Returns:
            The tensors by their keys in the blobs, on the CPU; none if the object has no blob.
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
        """Return a function that reads and verifies one tensor of an object at a time, by its key in the blobs.

        Args:
            name: The name under which the object was passed to `Trainer`.
        """
        from resumable.state.files.tensor_reader import TensorReader

        record = self._record(name)
        with self._reported(" and ".join(record.blobs)):
            reader = TensorReader(self._sources(name), record.tensors)

        def read(key: str) -> torch.Tensor:
            with self._reported(" and ".join(record.blobs)):
                return reader.read(key)

        return read

    def _sources(self, name: str) -> list[BlobReader]:
        return [self._catalog.reader(self.manifest, blob) for blob in self._record(name).blobs]

    @contextmanager
    def _reported(self, where: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if isinstance(error, ResumableError):
                raise
            raise self._malformed(where, error) from error

    def inline_tree(self, part: str) -> Any:
        """Decode a part of the state file that holds its tensors itself.

        Args:
            part: `rng` or `position`.

        Returns:
            Plain values, containers and tensors on the CPU.
        """
        from resumable.state.codec import decode

        try:
            return decode(self.document[part], {})
        except (ValueError, KeyError) as error:
            raise self._malformed(part, error) from error

    @functools.cached_property
    def document(self) -> dict[str, Any]:
        """Read and verify the state file: everything that is not a tensor, still in the codec's JSON."""
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
        # A sparse file of a terabyte costs a forger nothing; reading all of it would cost the reader much.
        needed = self.manifest.blobs[blob].size
        if needed > memory_bytes():
            raise CheckpointError(
                f"{self.name}: {blob} has {size(needed)}, more than the memory of this machine",
                "load it on a machine with more memory; `resumable verify` verifies it without holding it in memory",
            )

    def _record(self, name: str) -> ObjectRecord:
        try:
            return self.manifest.objects[name]
        except KeyError:
            names = ", ".join(self.manifest.objects)
            raise NoCheckpointError(f"{self.name}: no object {name!r}", f"this checkpoint holds: {names}") from None

    def main_module(self) -> str:
        """Return the name of the only module, or `model`.

        Raises:
            RunMismatchError: There are several modules, or none.
        """
        modules = [name for name, record in self.manifest.objects.items() if record.kind == "module"]
        if len(modules) == 1:
            return modules[0]
        if "model" in modules:
            return "model"
        raise RunMismatchError(
            f"{self.name}: holds {len(modules)} modules ({', '.join(modules) or 'none'}), expected one, or one of the "
            "name `model`",
            "name one: load_into(model, name=...)",
        )

    def _malformed(self, where: str, error: Exception) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self.name}: {where}: {quoted(error)}", "`resumable verify` lists the undamaged checkpoints"
        )


def is_golden(name: str, record: ObjectRecord) -> bool:
    """Return whether it is a golden input. The kind is compared too, because objects could once have this name."""
    return name == record.kind == GOLDEN


def _is_state(document: object, objects: Iterable[str]) -> bool:
    if not isinstance(document, dict) or document.keys() != {"objects", "rng", "position"}:
        return False
    return isinstance(document["objects"], dict) and document["objects"].keys() == set(objects)
