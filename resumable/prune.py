"""Deletes what retention does not keep; knows no tensors. Refuses to touch what this format did not write."""

from __future__ import annotations

from dataclasses import dataclass

from resumable import retention
from resumable.errors import CheckpointError, NoCheckpointError, StorageError
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.storage import Storage
from resumable.store.writer import delete


@dataclass(frozen=True)
class Plan:
    """What stays and what goes, newest first."""

    keep: tuple[CheckpointName, ...]
    delete: tuple[CheckpointName, ...]


def plan(catalog: Catalog, rule: retention.Rule, *, attempt: int) -> Plan:
    """Decide, from the run's history, what `attempt` may delete.

    Of the history everything that the rule does not keep. Outside of it (rejected, unfinished, written late by a
    displaced attempt) only folders of lower attempts, and only once `rule.last` checkpoints of this attempt exist.
    What is pinned stays in any case.
    """
    pinned = catalog.pinned()
    history = catalog.history()
    candidates = [
        retention.Candidate(str(name), m.step, m.epoch, m.metrics.get(rule.best_metric or ""), name in pinned)
        for name, m in history
    ]
    kept = retention.keep(candidates, rule)
    keep = tuple(name for name, _ in history if str(name) in kept)
    rest = [name for name, _ in history if str(name) not in kept]
    if sum(name.attempt == attempt for name, _ in history) >= max(rule.last, 1):
        known = {name for name, _ in history} | pinned
        rest += [name for name in catalog.names() if name not in known and name.attempt < attempt]
    return Plan(keep, tuple(rest))


def prune(storage: Storage, catalog: Catalog, attempt: Attempt, rule: retention.Rule) -> Plan:
    """Carry the plan out, the manifest of each checkpoint first.

    `FencedError` as soon as a newer attempt owns the run. One that cannot be deleted keeps no other from being
    deleted; its `StorageError` is raised at the end.
    """
    decided = plan(catalog, rule, attempt=attempt.number)
    failures: list[StorageError] = []
    for name in decided.delete:
        try:
            delete(storage, attempt, name)
        except StorageError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
    return decided


def make_room(storage: Storage, catalog: Catalog, attempt: Attempt) -> None:
    """On a full disk: remove at once what saves of earlier attempts left without a manifest. Raises as `prune`."""
    for name in catalog.names():
        if name.attempt < attempt.number and not _is_committed(catalog, name):
            delete(storage, attempt, name)


def _is_committed(catalog: Catalog, name: CheckpointName) -> bool:
    try:
        catalog.manifest(name)
    except NoCheckpointError:
        return False
    except CheckpointError:
        pass  # damaged, or newer than we know: somebody may want to look at it
    return True
