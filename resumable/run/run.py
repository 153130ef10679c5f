"""The read side: a run and its checkpoints, on any storage, without the user's code; never writes."""

from __future__ import annotations

import functools
import os
import re
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
from resumable.policy import suspicion
from resumable.policy.retention import Candidate, Rule, best
from resumable.run.verification import verify
from resumable.state.loading.result import Loaded
from resumable.store.blob_reader import BlobReader
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import Manifest, ObjectRecord
from resumable.store.storage.open import open_storage
from resumable.utils import strict_json
from resumable.utils.events import size
from resumable.utils.location import location
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


class Run:
    """The checkpoints of one run as one linear history, whatever crashed and whoever wrote late.

    `url` is a folder or any fsspec URL; `storage_options` are handed to fsspec. Opening reads nothing; every method
    looks at the storage anew. Raises `NoCheckpointError` where there is nothing of the kind asked for.
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = str(url)
        self.location = location(self.url)
        """Where it is, for messages: without the secrets that `url` may hold."""
        self._storage = open_storage(self.url, storage_options)
        self.catalog = Catalog(self._storage)

    def __repr__(self) -> str:
        return f"Run({self.location!r})"

    def checkpoints(self, reject: Callable[[str, str], None] | None = None) -> list[Checkpoint]:
        """Every readable checkpoint of the run's history, oldest first, by the cheap checks: manifest and sizes.

        Whatever is skipped and newer than the newest good one is told to `reject(name, reason)`.
        """
        self._storage.renew()
        history = self.catalog.history(reject) if reject else self.catalog.history()
        return [Checkpoint(self.catalog, name, manifest) for name, manifest in reversed(history)]

    def latest(self) -> Checkpoint:
        """The newest checkpoint of the history."""
        return self._existing()[-1]

    def best(self) -> Checkpoint:
        """The checkpoint with the best finite value of the metric named in the run's own `keep.best`."""
        checkpoints = self._existing()
        wanted = best_rule(checkpoints[-1].manifest)
        metric = wanted.best_metric
        if metric is None:
            raise NoCheckpointError(
                f"{self.location}: none is best, for the run's config names no keep.best.metric",
                "choose @latest or @STEP; for later runs, name a metric and log it with trainer.log(...)",
            )
        winner = best([checkpoint.candidate(metric) for checkpoint in reversed(checkpoints)], wanted)
        if not winner:
            raise NoCheckpointError(
                f"{self.location}: no checkpoint carries a value of the metric {metric!r}",
                "call trainer.log(...) with the metric that keep.best.metric names, or choose @latest or @STEP",
            )
        return next(checkpoint for checkpoint in checkpoints if checkpoint.name == winner[0])

    def finite(self) -> Checkpoint:
        """Return the newest checkpoint that is not suspect.

        A checkpoint is suspect while a metric that was finite before is NaN or infinite.

        Returns:
            The checkpoint that `RUN@finite` names.

        Raises:
            NoCheckpointError: Every checkpoint is suspect, or there is none.
        """
        checkpoints = self._existing()
        marked = suspects(checkpoints)
        for checkpoint in reversed(checkpoints):
            if checkpoint.name not in marked:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: every checkpoint is suspect: {checkpoints[0].name} is so already",
            "begin the run again from the start in another folder, with what made it diverge changed",
        )

    def at(self, step: int) -> Checkpoint:
        """The newest checkpoint that was taken at exactly `step`."""
        checkpoints = self._existing()
        found = [checkpoint for checkpoint in checkpoints if checkpoint.step == step]
        if not found:
            steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints[-8:])
            raise NoCheckpointError(
                f"{self.location}: no checkpoint at step {step}", f"the newest are at steps {steps}"
            )
        return found[-1]

    def select(self, selector: str | None) -> Checkpoint:
        """`latest` (or None), `best`, `finite`, a step number, or a checkpoint's full name."""
        if selector in (None, "latest"):
            return self.latest()
        if selector == "best":
            return self.best()
        if selector == "finite":
            return self.finite()
        if selector is not None and selector.isdigit():
            return self.at(int(selector))
        for checkpoint in self._existing():
            if checkpoint.name == selector:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: no checkpoint {selector!r}", f"`resumable ls {self.location}` lists them"
        )

    def folder(self, name: CheckpointName) -> Checkpoint:
        """The checkpoint in the folder of this name, on the line of the history or off it."""
        manifest = self.catalog.manifest(name)
        self.catalog.check(manifest, name)
        return Checkpoint(self.catalog, name, manifest)

    def _existing(self) -> list[Checkpoint]:
        rejected: list[str] = []
        checkpoints = self.checkpoints(lambda name, reason: rejected.append(f"{name}: {reason}"))
        if checkpoints:
            return checkpoints
        if rejected:
            raise CorruptCheckpointError(
                f"{self.location}: none of the checkpoints can be read: " + "; ".join(rejected),
                "restore the run from a copy, or start a new run in another folder",
            )
        raise NoCheckpointError(f"{self.location}: no checkpoints here", self._elsewhere())

    def _elsewhere(self) -> str:
        """What may have been meant by a place without checkpoints."""
        url, selector = parse_target(self.url)
        if selector is not None:
            return f"a run is opened without its selector: Run({location(url)!r}).select({selector!r})"
        slip = selector_slip(self.url)
        if slip and not self._storage.list(""):
            return slip
        return (
            "is this the folder or URL that `run:` names? An exported model is proved by `resumable verify DIR` only "
            "where its proof.json is"
        )


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


def suspects(checkpoints: Iterable[Checkpoint]) -> set[str]:
    """Return the names of those that are suspect, given the whole history, oldest first."""
    checkpoints = list(checkpoints)
    marks = suspicion.suspects(checkpoint.manifest for checkpoint in checkpoints)
    return {checkpoint.name for checkpoint, suspect in zip(checkpoints, marks, strict=True) if suspect}


def best_rule(manifest: Manifest) -> Rule:
    """What "best" means to a run, by the config in a checkpoint of it; without a metric where that does not say."""
    keep = manifest.config.get("keep")
    wanted = keep.get("best") if isinstance(keep, dict) else None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("metric"), str):
        return Rule()
    return Rule(best_metric=wanted["metric"], best_mode="max" if wanted.get("mode") == "max" else "min")


def _is_state(document: Any, objects: Iterable[str]) -> bool:
    if not isinstance(document, dict) or document.keys() != {"objects", "rng", "position"}:
        return False
    return isinstance(document["objects"], dict) and document["objects"].keys() == set(objects)


_TARGET = re.compile(r"(?P<url>.+?)(?:@(?P<selector>latest|best|finite|\d+|step-[0-9.ea]+))?", re.DOTALL)


def parse_target(text: str) -> tuple[str, str | None]:
    """Split `RUN[@latest|@best|@finite|@STEP]` into the run's URL and the selector."""
    match = _TARGET.fullmatch(text)
    assert match is not None or not text
    return (match["url"], match["selector"]) if match else (text, None)


def selector_slip(target: str) -> str | None:
    """What to write where `target` ends as if in a selector and is none; None where it does not."""
    url, _, selector = location(target).rpartition("@")
    path = url.partition("://")[2] if "://" in url else url
    if not url or "/" in selector or ("://" in url and "/" not in path) or parse_target(target)[1] is not None:
        return None
    return f"unknown selector {quoted(repr(selector))}: write @latest, @best, @finite, @STEP or @step-NAME"
