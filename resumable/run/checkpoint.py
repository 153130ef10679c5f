"""One committed checkpoint: its blobs, read and verified on request. Independent of the user's code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resumable.errors import NoCheckpointError, RunMismatchError
from resumable.policy.retention import Candidate
from resumable.run.checkpoint_documents import CheckpointDocuments
from resumable.run.tensor_files import TensorFiles
from resumable.run.tensor_records import Records
from resumable.run.verification import verify_blobs, verify_earlier_blobs
from resumable.state.loading.result import Loaded
from resumable.state.tensors.boxes import Box
from resumable.state.tensors.inline_records import InlineRecords, key_in_optimizer
from resumable.state.tensors.records import TensorRecord
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.documents.manifest import Manifest, ObjectRecord
from resumable.store.documents.rank_state import RankState
from resumable.store.layout import CheckpointName

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resumable.state.loading.into_model import StoredWeights

StateDict = dict[str, Any]
T = TypeVar("T")


class Checkpoint:
    """One committed checkpoint of a run; get it from `Run`.

    Reads its blobs on request, and verifies every byte that it reads.
    """

    def __init__(self, catalog: Catalog, name: CheckpointName, manifest: Manifest) -> None:
        self._catalog = catalog
        self._name = name
        self._documents = CheckpointDocuments(catalog, name, manifest)
        self._files = TensorFiles(catalog, name, manifest, self._documents)
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
        self._catalog.check(self.manifest, self._name)
        states, records = self._documents.states, self.records
        if self._documents.earlier is None:
            verify_blobs(self._catalog, self.manifest, states)
        else:
            verify_earlier_blobs(self._catalog, self.manifest, self._documents.earlier, records)

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
        except (ValueError, LookupError, TypeError) as error:
            raise self._documents.malformed(name, error) from error
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

        record, records, where = self._record(name), self.records[name], f"{self.name}: {name}"
        inline = self.inline_records(name)
        if record.kind != "module" and not records and not inline.records:
            raise RunMismatchError(f"{where}: holds no tensors", "`resumable show` lists the objects and their kinds")

        def read(into: Mapping[str, torch.Tensor], keys: Collection[str]) -> Mapping[str, torch.Tensor]:
            return self.tensors(name, into=into, keys=keys)

        try:
            if record.kind == "module":
                return StoredModule(where, self.document["objects"][name], records, read)
            return StoredTensors(where, records, inline, read)
        except (ValueError, LookupError, TypeError) as error:
            raise self._documents.malformed(name, error) from error

    def inline_records(self, name: str) -> InlineRecords:
        """Return the records of the tensors that stand in the document of one object, not in its files.

        Args:
            name: The name under which the object was passed to `Trainer`.
        """
        key_of = key_in_optimizer if self._record(name).kind == "optimizer" else ".".join
        return InlineRecords.of(self.document["objects"][name], key_of, self.records[name])

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
        except (ValueError, LookupError, TypeError) as error:
            raise self._documents.malformed(name, error) from error

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
        self._record(name)
        return self._files.read(name, into=into or {}, keys=keys)

    def reader(self, name: str) -> Callable[[str], torch.Tensor]:
        """Return a function that reads and verifies one tensor of an object at a time, by its key in the blobs.

        Args:
            name: The name under which the object was passed to `Trainer`.
        """
        self._record(name)
        return self._files.reader(name)

    def read_box(self, name: str, key: str, offsets: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """Read a part of one tensor, from whichever files hold it, and verify every byte that is used.

        Args:
            name: The name under which the object was passed to `Trainer`.
            key: The key of the tensor in the records of the object.
            offsets: The first index of the part in each dimension.
            shape: Its number of indices in each dimension.

        Returns:
            The part, on the CPU and row-major. It takes little memory beyond it: 48 MiB for each thread that reads.

        Raises:
            NoCheckpointError: The checkpoint has no object of this name, or the object no such tensor.
            ValueError: The part does not lie within the tensor.
            CorruptCheckpointError: The stored bytes are damaged.
        """
        self._record(name)
        return self._files.read_box(name, key, Box(tuple(offsets), tuple(shape)))

    def blobs_of(self, name: str) -> list[str]:
        """Return the names of the files that hold the tensors of an object, each once.

        Args:
            name: The name under which the object was passed to `Trainer`.
        """
        return self._files.names_of(name)

    def published_blobs(self) -> dict[str, PublishedBlob]:
        """Return its files of tensors, to share once `verify` has passed; none before version 3."""
        return self._files.published()

    def located(self, name: str) -> Mapping[str, TensorRecord]:
        """Return the records of an object with the location of each piece, which earlier versions do not record.

        Args:
            name: The name under which the object was passed to `Trainer`.
        """
        return self._files.located(name)

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
        except (ValueError, LookupError) as error:
            raise self._documents.malformed(part, error) from error

    @property
    def notes(self) -> Mapping[str, Any]:
        """Return what was noted for people and later launches; it decides nothing, and comes from anybody."""
        return self.states[0].notes

    @property
    def document(self) -> dict[str, Any]:
        """Read and verify what is not a tensor, still in the codec's JSON: `objects`, `rng` and `position`."""
        return self._documents.content

    @property
    def states(self) -> Mapping[int, RankState]:
        """Read and verify the state file of each rank, by rank."""
        return self._documents.states

    @property
    def records(self) -> Records:
        """Read the record of each tensor, by object and key."""
        return self._documents.records

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
