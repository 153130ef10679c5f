"""Refuse objects that are not those of the checkpoint: by name, kind and shape. Reads no blobs of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from resumable.errors import (
    RunMismatchError,
)
from resumable.run.checkpoint import GRADIENTS, LATE, Checkpoint, is_golden
from resumable.state.tensors.records import TensorRecord
from resumable.store.documents.manifest import Manifest, ObjectRecord


class ObjectKind(Protocol):
    """The facts of an object that are compared before its state is read."""

    @property
    def kind(self) -> str: ...
    @property
    def type(self) -> str: ...

    @property
    def joins(self) -> str | None: ...

    def misfits(self, tensors: Mapping[str, TensorRecord]) -> list[str]:
        """Return the names, shapes and dtypes of tensors that do not match."""


def late_objects(found: Manifest) -> frozenset[str]:
    """Return the names of objects that the program creates only while it trains."""
    names = found.environment.get(LATE)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def joined_objects(objects: Mapping[str, ObjectKind], found: Manifest) -> frozenset[str]:
    """Return the names of objects that the checkpoint lacks, and that its run may go on with."""
    return frozenset(name for name, each in objects.items() if each.joins is not None and name not in found.objects)


def refuse_other_objects(
    run: str, objects: Mapping[str, ObjectKind], checkpoint: Checkpoint, *, whole: bool = False
) -> None:
    """Raise `RunMismatchError` unless these are the objects of a checkpoint.

    Objects that the program creates only while it trains are compared with `whole` alone, once they exist.
    """
    found = checkpoint.manifest
    late = frozenset() if whole else late_objects(found)
    objects = {name: each for name, each in objects.items() if name not in late}
    saved = {
        name: record
        for name, record in found.objects.items()
        # A program may set another golden input, or none.
        if name != GRADIENTS and name not in late and not is_golden(name, record)
    }
    joined = joined_objects(objects, found)
    missing, unexpected = sorted(saved.keys() - objects.keys()), sorted(objects.keys() - saved.keys() - joined)
    differences = [
        *([f"not passed: {', '.join(missing)}"] if missing else []),
        *([f"not in the checkpoint: {', '.join(unexpected)}"] if unexpected else []),
        *(
            f"{name}: expected {_shown(record)}, found {_shown(objects[name])}"
            for name, record in saved.items()
            if name in objects and not _is_same_kind(objects[name], record)
        ),
        *(
            f"{name}: {misfit}"
            for name, record in saved.items()
            if name in objects and _is_same_kind(objects[name], record)
            for misfit in objects[name].misfits(checkpoint.records[name])
        ),
    ]
    if differences:
        raise RunMismatchError(
            f"{run}: this run holds other objects than were passed to Trainer(...): {'; '.join(differences)}",
            "pass the same objects under the same names; for a new run name another folder in `run`, into which "
            "resumable.load_weights takes the weights of this one",
        )


def _shown(each: ObjectKind | ObjectRecord) -> str:
    return each.type if each.kind in ("module", "optimizer") else f"{each.kind} {each.type}"


def _is_same_kind(live: ObjectKind, saved: ObjectRecord) -> bool:
    # Modules and user classes may be renamed; SGD would silently load the state of AdamW.
    torch_owns = live.type.startswith("torch.optim.") and saved.type.startswith("torch.optim.")
    return live.kind == saved.kind and (live.type == saved.type or not torch_owns)
