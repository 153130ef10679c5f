"""Delete checkpoints that retention drops, but never a blob that a kept checkpoint references."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.policy import retention, suspicion
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_of
from resumable.store.leftovers import see_saves
from resumable.store.publish import delete, delete_stale_files, delete_unfinished
from resumable.store.storage.protocol import Storage


@dataclass(frozen=True)
class PrunePlan:
    """The checkpoints to keep and to delete, newest first.

    Deletion in this order never leaves a manifest without one of its blobs: a checkpoint shares blobs of older ones
    only. `shares` maps each checkpoint to those whose blobs it references. `finite` is the newest that is not suspect;
    it is kept. `unfinished` are the folders of earlier attempts without a manifest, to be deleted or not.
    """

    keep: tuple[CheckpointName, ...]
    delete: tuple[CheckpointName, ...]
    shares: Mapping[CheckpointName, frozenset[CheckpointName]] = field(default_factory=dict, repr=False, compare=False)
    finite: CheckpointName | None = field(default=None, compare=False)
    unfinished: frozenset[CheckpointName] = field(default=frozenset(), compare=False)


def plan(
    catalog: Catalog, rule: retention.Rule, *, attempt: int, seen: Container[CheckpointName] | None = None
) -> PrunePlan:
    """Decide, from the run's history, what `attempt` may delete.

    In the history these are all checkpoints that the rule does not keep. Outside of it (rejected, unfinished, written
    late by a displaced attempt) they are folders of lower attempts, once `rule.last` checkpoints of this attempt exist.
    Where the storage fences exactly, `seen` has the unfinished ones that this attempt saw before. Those go as soon as a
    newer attempt than theirs has committed a checkpoint, and no other unfinished one does.
    Pinned checkpoints are kept, and so is each whose blobs a kept checkpoint references, inside the history or outside.
    Raises `StorageError` where a manifest cannot be read now: the blobs that it references are unknown.
    """
    pinned = catalog.pinned()
    history = catalog.history()
    suspects = [*suspicion.are_suspect(m for _, m in reversed(history))][::-1]
    candidates = [
        retention.Candidate(str(name), m.step, m.epoch, m.metrics.get(rule.best_metric or ""), name in pinned, suspect)
        for (name, m), suspect in zip(history, suspects, strict=True)
    ]
    kept = retention.keep(candidates, rule)
    rest = [name for name, _ in history if str(name) not in kept]
    listed = {name for name, _ in history} | pinned
    beside = [name for name in catalog.names() if name not in listed and name.attempt < attempt]
    unfinished = frozenset(name for name in beside if seen is not None and _is_unfinished(catalog, name))
    if sum(name.attempt == attempt for name, _ in history) >= max(rule.last, 1):
        rest += [name for name in beside if name not in unfinished]
    head = history[0][0].attempt if history else 0
    rest += [name for name in unfinished if name.attempt < head and seen is not None and name in seen]
    shares = _shares(catalog) if rest else {}
    delete = _unshared(rest, shares)
    finite = next((name for (name, _), suspect in zip(history, suspects, strict=True) if not suspect), None)
    return PrunePlan(tuple(name for name, _ in history if name not in delete), delete, shares, finite, unfinished)


def _shares(catalog: Catalog) -> dict[CheckpointName, frozenset[CheckpointName]]:
    """Map each checkpoint to the others whose blobs it references."""
    shares = {}
    for name in catalog.names():
        try:
            blobs = catalog.manifest(name).blobs.values()
        except (NoCheckpointError, CorruptCheckpointError):
            continue  # it is no checkpoint, and these bytes never will be
        shares[name] = frozenset(checkpoint_of(blob.path) for blob in blobs) - {name}
    return shares


def _unshared(
    candidates: Iterable[CheckpointName], shares: Mapping[CheckpointName, frozenset[CheckpointName]]
) -> tuple[CheckpointName, ...]:
    """Return the candidates that no checkpoint references which is kept or deleted later; newest first."""
    going = set(candidates)
    while True:
        needed = {
            other
            for name, others in shares.items()
            for other in others
            if name not in going or other.order > name.order  # no writer references a newer one
        }
        if not going & needed:
            return tuple(sorted(going, key=lambda name: name.order, reverse=True))
        going -= needed


def prune(storage: Storage, catalog: Catalog, attempt: Attempt, rule: retention.Rule) -> PrunePlan:
    """Carry out the plan, and delete the manifest of each checkpoint first; then what else earlier attempts left.

    Raises `FencedError` as soon as a newer attempt owns the run. Where one checkpoint cannot be deleted, those whose
    blobs it references are kept, all others are deleted, and its `StorageError` is raised at the end.
    """
    decided = plan(catalog, rule, attempt=attempt.number, seen=attempt.left.saves if storage.exclusive else None)
    failures: list[StorageError] = []
    needed: set[CheckpointName] = set()
    for name in decided.delete:
        gone = False
        try:
            delete_one = delete_unfinished if name in decided.unfinished else delete
            gone = name not in needed and delete_one(storage, attempt, name)
        except StorageError as failure:
            failures.append(failure)
        if not gone:
            needed |= decided.shares.get(name, frozenset())
    if failures:
        raise failures[0]
    delete_stale_files(storage, attempt)
    see_unfinished(storage, attempt, decided.unfinished)
    return decided


def see_unfinished(storage: Storage, attempt: Attempt, names: Iterable[CheckpointName]) -> None:
    """Look into the unfinished folders that `attempt` has not seen, so that a later pruning may delete them."""
    unseen = [name for name in names if name not in attempt.left.saves]
    if unseen:
        attempt.left.saves.update(see_saves(storage, unseen))


def make_room(storage: Storage, catalog: Catalog, attempt: Attempt) -> None:
    """Delete, on a full disk, what saves of earlier attempts left without a manifest. Raises as `prune`."""
    earlier = [name for name in catalog.names() if name.attempt < attempt.number]
    # In a run that is being copied, a manifest may arrive after those of checkpoints that share its blobs.
    for name in _unshared([name for name in earlier if not _is_committed(catalog, name)], _shares(catalog)):
        delete(storage, attempt, name)


def _is_unfinished(catalog: Catalog, name: CheckpointName) -> bool:
    """Return whether there is no manifest; False where that cannot be known now."""
    try:
        return not _is_committed(catalog, name)
    except StorageError:
        return False


def _is_committed(catalog: Catalog, name: CheckpointName) -> bool:
    try:
        catalog.manifest(name)
    except NoCheckpointError:
        return False
    except CheckpointError:
        pass  # damaged, or of a newer format: kept for inspection
    return True
