"""Refuse objects that are not those of the checkpoint: by name and kind, and by content. Reads no blobs of tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from resumable.checkpointing.capture.structure_changes import Change, changes_in, way_on
from resumable.checkpointing.mismatch.adoption import Adoption, accepted_by
from resumable.checkpointing.position import Position
from resumable.errors import RunMismatchError
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import GRADIENTS, LATE, is_carried, is_golden, is_orders
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

    def misfits(self, tensors: Mapping[str, TensorRecord], document: Any) -> list[str]:
        """Return what is inside that does not match the records of tensors and the document of a checkpoint."""


def late_objects(found: Manifest) -> frozenset[str]:
    """Return the names of objects that the program creates only while it trains."""
    names = found.environment.get(LATE)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def joined_objects(objects: Mapping[str, ObjectKind], found: Manifest, adoption: Adoption) -> frozenset[str]:
    """Return the names of objects that the checkpoint lacks, and that its run may go on with."""
    accepted = (name for name, each in objects.items() if each.joins is not None or adoption.adopts(name))
    return frozenset(accepted) - found.objects.keys()


def dropped_objects(objects: Mapping[str, ObjectKind], found: Manifest, adoption: Adoption) -> frozenset[str]:
    """Return the names of objects in the checkpoint that the run goes on without."""
    return frozenset(name for name in found.objects.keys() - objects.keys() if adoption.drops(name))


def refuse_other_objects(
    run: str,
    objects: Mapping[str, ObjectKind],
    checkpoint: Checkpoint,
    adoption: Adoption,
    *,
    whole: bool = False,
) -> None:
    """Raise `RunMismatchError` unless these are the objects of a checkpoint, by name and kind, or are accepted.

    Objects that the program creates only while it trains are compared with `whole` alone, once they exist.
    """
    objects, saved = _compared(objects, checkpoint.manifest, whole=whole)
    saved = {name: record for name, record in saved.items() if name in objects or not adoption.drops(name)}
    joined = joined_objects(objects, checkpoint.manifest, adoption)
    missing, unexpected = sorted(saved.keys() - objects.keys()), sorted(objects.keys() - saved.keys() - joined)
    differences = [
        *([f"not passed: {', '.join(missing)}"] if missing else []),
        *([f"not in the checkpoint: {', '.join(unexpected)}"] if unexpected else []),
        *(
            f"{name}: expected {_shown(record)}, found {_shown(objects[name])}"
            for name, record in saved.items()
            if name in objects and not _is_same_kind(objects[name], record)
        ),
    ]
    if differences:
        raise RunMismatchError(
            f"{run}: this run holds other objects than were passed to Trainer(...): {'; '.join(differences)}",
            f"pass the same objects under the same names{_way_on(missing, unexpected, adoption)}; for a new run name "
            "another folder in `run`, into which resumable.load_weights takes the weights of this one",
        )


def refuse_other_content(
    run: str, objects: Mapping[str, ObjectKind], checkpoint: Checkpoint, position: Position, *, whole: bool = False
) -> None:
    """Raise `RunMismatchError` unless what is inside these objects matches a checkpoint, which stands at `position`.

    They are those of the checkpoint by name and kind. Tensors, shapes, dtypes and parameter groups are compared.
    """
    objects, saved = _compared(objects, checkpoint.manifest, whole=whole)
    documents, records = checkpoint.document["objects"], checkpoint.records
    found = {name: objects[name].misfits(records[name], documents[name]) for name in saved if name in objects}
    found = {name: misfits for name, misfits in found.items() if misfits}
    if found:
        noted = changes_in(checkpoint.notes)
        changes = [change for name in found for change in noted.get(name, [])]
        shown = [f"{name}: {'; '.join(misfits)}{_shown_last(noted.get(name))}" for name, misfits in found.items()]
        raise RunMismatchError(
            f"{run}: the objects differ from those of {checkpoint.name}: {'; '.join(shown)}",
            f"{way_on(changes, position)}; for a new run name another folder in `run`, into which "
            "resumable.load_weights takes the weights of this one",
        )


def _shown_last(changes: list[Change] | None) -> str:
    return f" ({changes[-1]})" if changes else ""


def _compared(
    objects: Mapping[str, ObjectKind], found: Manifest, *, whole: bool
) -> tuple[dict[str, ObjectKind], dict[str, ObjectRecord]]:
    """Return the objects of the program and of the checkpoint that are compared."""
    late = frozenset() if whole else late_objects(found)
    saved = {
        name: record
        for name, record in found.objects.items()
        # A program may set another golden input, or none; what it carries is compared when its loop begins.
        if name != GRADIENTS and name not in late and not _is_no_object(name, record)
    }
    return {name: each for name, each in objects.items() if name not in late}, saved


def _is_no_object(name: str, record: ObjectRecord) -> bool:
    """Return whether a program passes none of this name: it is stored with the objects."""
    return is_golden(name, record) or is_orders(name, record) or is_carried(name, record)


def _way_on(missing: Collection[str], unexpected: Collection[str], adoption: Adoption) -> str:
    """Return the hint about the keys that accept these differences, and what they accept already."""
    adopted = accepted_by("adopt", {*unexpected, *adoption.adopt})
    dropped = accepted_by("drop", {*missing, *adoption.drop})
    adopting = f"; to begin with the value of this launch set {adopted}" if unexpected else ""
    return adopting + (f"; to go on without it set {dropped}" if missing else "")


def _shown(each: ObjectKind | ObjectRecord) -> str:
    return each.type if each.kind in ("module", "optimizer") else f"{each.kind} {each.type}"


def _is_same_kind(live: ObjectKind, saved: ObjectRecord) -> bool:
    # Modules and user classes may be renamed; SGD would silently load the state of AdamW.
    torch_owns = live.type.startswith("torch.optim.") and saved.type.startswith("torch.optim.")
    return live.kind == saved.kind and (live.type == saved.type or not torch_owns)
