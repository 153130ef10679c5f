"""The objects in which a program differs from its checkpoint, where the config accepts that the attempt goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from resumable.checkpointing.mismatch.adoption import Adoption, refuse_unknown, report_adopted, report_dropped
from resumable.checkpointing.mismatch.carried_state import carried_names
from resumable.checkpointing.mismatch.object_mismatch import ObjectKind, dropped_objects, joined_objects
from resumable.run.checkpoint import Checkpoint
from resumable.utils.events import warn

DROPPED = "dropped"  # in the environment of a manifest: the names that the run went on without, also earlier


@dataclass(frozen=True)
class AcceptedObjects:
    """The differences of one attempt.

    `joined` are objects that the checkpoint lacks, which stay as they are at this launch. `dropped` are objects of the
    checkpoint that the program lacks. `former` are all names that the run went on without.
    """

    joined: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    former: frozenset[str] = frozenset()

    @classmethod
    def of(cls, objects: Mapping[str, ObjectKind], resumed: Checkpoint | None, adoption: Adoption) -> AcceptedObjects:
        """Return what differs, and log it."""
        if resumed is None:
            return cls()
        manifest = resumed.manifest
        joined, dropped = joined_objects(objects, manifest, adoption), dropped_objects(objects, manifest, adoption)
        _report(objects, joined, dropped, adoption)
        variables = frozenset(name for name in carried_names(resumed).names if adoption.drops(name))
        return cls(joined, dropped, dropped | variables | _dropped_before(resumed))

    def facts(self) -> dict[str, object]:
        """Return what a manifest stores, so that the same command can be run again."""
        return {DROPPED: sorted(self.former)} if self.former else {}


def refuse_unknown_drops(drop: Collection[str], objects: Collection[str], checkpoint: Checkpoint) -> None:
    """Raise `ConfigError` for a name in `drop` that neither the program nor the checkpoint has, or ever had."""
    names = carried_names(checkpoint).names | _dropped_before(checkpoint)
    refuse_unknown("drop", drop, names.union(objects, checkpoint.manifest.objects))


def _report(
    objects: Mapping[str, ObjectKind], joined: Iterable[str], dropped: Iterable[str], adoption: Adoption
) -> None:
    adopted = [name for name in joined if adoption.adopts(name)]
    if adopted:
        report_adopted(adopted)
    if dropped:
        report_dropped(dropped)
    for name in sorted(set(joined) - set(adopted)):
        warn(f"{name}: the run was begun without it: {objects[name].joins}")


def _dropped_before(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the names that the run went on without before a checkpoint, which comes from anybody."""
    names = checkpoint.manifest.environment.get(DROPPED)
    return frozenset(each for each in names if isinstance(each, str)) if isinstance(names, list) else frozenset()
