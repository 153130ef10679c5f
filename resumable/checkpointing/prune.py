"""Deletes what retention does not keep, and nothing that what stays is made of; knows no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.policy import retention, suspicion
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_of
from resumable.store.publish import delete
from resumable.store.storage.protocol import Storage


@dataclass(frozen=True)
class Plan:
    """What stays and what goes, newest first.

    In this order no manifest ever lacks a blob: `shares` says whose blobs a checkpoint names, and they are of older
    ones. `finite` is the newest that is not suspect, which stays.
    """

    keep: tuple[CheckpointName, ...]
    delete: tuple[CheckpointName, ...]
    shares: Mapping[CheckpointName, frozenset[CheckpointName]] = field(default_factory=dict, repr=False, compare=False)
    finite: CheckpointName | None = field(default=None, compare=False)


def plan(catalog: Catalog, rule: retention.Rule, *, attempt: int) -> Plan:
    """Decide, from the run's history, what `attempt` may delete.

    Of the history everything that the rule does not keep. Outside of it (rejected, unfinished, written late by a
    displaced attempt) only folders of lower attempts, and only once `rule.last` checkpoints of this attempt exist.
    What is pinned stays in any case, and whatever holds a blob that something which stays names, on the line or off
    it. Raises `StorageError` where a manifest cannot be read now: nobody knows what it names.
    """
    pinned = catalog.pinned()
    history = catalog.history()
    suspects = [*suspicion.suspects(m for _, m in reversed(history))][::-1]
    candidates = [
        retention.Candidate(str(name), m.step, m.epoch, m.metrics.get(rule.best_metric or ""), name in pinned, suspect)
        for (name, m), suspect in zip(history, suspects, strict=True)
    ]
    kept = retention.keep(candidates, rule)
    rest = [name for name, _ in history if str(name) not in kept]
    if sum(name.attempt == attempt for name, _ in history) >= max(rule.last, 1):
        known = {name for name, _ in history} | pinned
        rest += [name for name in catalog.names() if name not in known and name.attempt < attempt]
    shares = _shares(catalog) if rest else {}
    delete = _unshared(rest, shares)
    finite = next((name for (name, _), suspect in zip(history, suspects, strict=True) if not suspect), None)
    return Plan(tuple(name for name, _ in history if name not in delete), delete, shares, finite)


def _shares(catalog: Catalog) -> dict[CheckpointName, frozenset[CheckpointName]]:
    """Of each checkpoint that stands, the others whose blobs it names."""
    shares = {}
    for name in catalog.names():
        try:
            blobs = catalog.manifest(name).blobs.values()
        except (NoCheckpointError, CorruptCheckpointError):
            continue  # it does not stand, and never will by those bytes
        shares[name] = frozenset(checkpoint_of(blob.path) for blob in blobs) - {name}
    return shares


def _unshared(
    candidates: Iterable[CheckpointName], shares: Mapping[CheckpointName, frozenset[CheckpointName]]
) -> tuple[CheckpointName, ...]:
    """What of `candidates` may go, newest first: what nothing names that stays, or goes later."""
    going = set(candidates)
    while True:
        needed = {
            other
            for name, others in shares.items()
            for other in others
            if name not in going or other.order > name.order  # no writer names a newer one
        }
        if not going & needed:
            return tuple(sorted(going, key=lambda name: name.order, reverse=True))
        going -= needed


def prune(storage: Storage, catalog: Catalog, attempt: Attempt, rule: retention.Rule) -> Plan:
    """Carry the plan out, the manifest of each checkpoint first.

    `FencedError` as soon as a newer attempt owns the run. One that cannot be deleted keeps no other from being deleted
    but those whose blobs it names; its `StorageError` is raised at the end.
    """
    decided = plan(catalog, rule, attempt=attempt.number)
    failures: list[StorageError] = []
    needed: set[CheckpointName] = set()
    for name in decided.delete:
        gone = False
        try:
            gone = name not in needed and delete(storage, attempt, name)
        except StorageError as failure:
            failures.append(failure)
        if not gone:
            needed |= decided.shares.get(name, frozenset())
    if failures:
        raise failures[0]
    return decided


def make_room(storage: Storage, catalog: Catalog, attempt: Attempt) -> None:
    """On a full disk: remove at once what saves of earlier attempts left without a manifest. Raises as `prune`."""
    earlier = [name for name in catalog.names() if name.attempt < attempt.number]
    # A copy that is still arriving may lack the manifest of a checkpoint whose blobs another one shares.
    for name in _unshared([name for name in earlier if not _is_committed(catalog, name)], _shares(catalog)):
        delete(storage, attempt, name)


def _is_committed(catalog: Catalog, name: CheckpointName) -> bool:
    try:
        catalog.manifest(name)
    except NoCheckpointError:
        return False
    except CheckpointError:
        pass  # damaged, or newer than we know: somebody may want to look at it
    return True
