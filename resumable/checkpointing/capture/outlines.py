"""Watch the structure of modules and optimizers from save to save: one comparison for each object that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from resumable.checkpointing.capture.snapshot import Captured, Snapshot
from resumable.checkpointing.capture.structure_changes import (
    MAX_CHANGES,
    STRUCTURE,
    Change,
    Outline,
    changes_in,
    differences,
    note_of,
    warning,
)
from resumable.checkpointing.position import Position
from resumable.run.checkpoint import Checkpoint
from resumable.state.codec import decode
from resumable.state.objects.modules import encoded_state
from resumable.state.objects.pruning import before_pruning, mask_of, pruned_names
from resumable.state.tensors.facts import Recorded

_KINDS = ("module", "optimizer")


class StructureWatch:
    """Compares each snapshot with the one before, which is at first the checkpoint that a launch resumed from."""

    def __init__(self, resumed: Checkpoint | None, position: Position, *, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._resumed = resumed  # until the first snapshot, when it was restored and so is known to be well-formed
        self._position = position
        self._changes: dict[str, list[Change]] = {}
        self._outlines: dict[str, Outline] = {}
        self._seen: dict[str, object] = {}  # the description of the tensors of each object: the same for one structure

    def noted(self, snapshot: Snapshot, *, without: Collection[str]) -> Snapshot:
        """Return the snapshot with the changes so far in its notes. Logs one WARN for those that it shows first.

        The objects in `without` are built again by others than the program.
        """
        self._begin()
        found: dict[str, list[str]] = {}
        for name, captured in snapshot.objects.items():
            if captured.kind in _KINDS and captured.encoded.tensors.description is not self._seen.get(name):
                self._seen[name] = captured.encoded.tensors.description
                before, now = self._outlines.get(name), _outline_of(captured)
                self._outlines[name] = now
                if before is not None and name not in without and (differs := differences(before, now)):
                    found[name] = differs
        if found:
            self._note(found, Change.between(self._position, snapshot.position))
        self._position = snapshot.position
        note = note_of(self._changes)
        if note is None:
            return snapshot
        notes: Any = snapshot.values.get("notes", {})
        return replace(snapshot, values={**snapshot.values, "notes": {**notes, STRUCTURE: note}})

    def _begin(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._outlines = _outlines_of(resumed)
            noted = changes_in(resumed.notes)
            self._changes = {name: changes for name, changes in noted.items() if name in self._outlines}

    def _note(self, found: Mapping[str, list[str]], change: Change) -> None:
        for name in found:
            self._changes[name] = [*self._changes.get(name, []), change][-MAX_CHANGES:]
        self._warn(warning(found, change))


def _outline_of(captured: Captured) -> Outline:
    facts = captured.encoded.tensors.description.facts
    return outline(captured.kind, captured.encoded.document, facts)


def _outlines_of(checkpoint: Checkpoint) -> dict[str, Outline]:
    documents, records = checkpoint.document["objects"], checkpoint.records
    found: dict[str, Outline] = {}
    for name, record in checkpoint.manifest.objects.items():
        if record.kind in _KINDS:
            facts = {key: each for key, each in records[name].items() if each.alias is None}
            found[name] = outline(record.kind, documents[name], facts)
    return found


def outline(kind: str, document: Any, facts: Mapping[str, Recorded]) -> Outline:
    """Return the structure of a module or an optimizer from its document and the facts of its tensors."""
    if kind == "optimizer":
        groups: Any = [decode(group["params"], {}) for group in document["groups"]]
        return Outline({}, frozenset(), frozenset(), tuple(frozenset(map(before_pruning, names)) for names in groups))
    flags: Any = decode(document["requires_grad"], {})
    training: Any = decode(document["training"], {})
    names = {name for name, _ in encoded_state(document)}
    masks = {mask_of(name) for name in pruned_names(names)}  # pruning is repeated without the program
    tensors = {before_pruning(name): _shown(facts[name]) for name in names - masks if name in facts}
    return Outline(tensors, frozenset(tensors) - {before_pruning(name) for name in flags}, frozenset(training), ())


def _shown(fact: Recorded) -> str:
    return f"{fact.dtype}{list(fact.shape)}"
