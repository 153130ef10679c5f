"""Delete checkpoints that retention drops, but never a blob that a kept checkpoint references."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.policy import retention, suspicion
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog, Listed
from resumable.store.documents.manifest import Manifest
from resumable.store.layout import CheckpointName, checkpoint_of
from resumable.store.leftovers import see_saves
from resumable.store.publish import delete, delete_stale_files, delete_unfinished
from resumable.store.storage.protocol import Entry, Storage


@dataclass(frozen=True)
class Standing:
    """The checkpoints and other folders of a run, newest first, by one listing and by what was published since it.

    `others` are folders of lower attempts outside the history. Where the storage fences exactly, those without a
    manifest are `unfinished` instead. `stuck` are those that the rule does not keep and that stay: pinned, growing, or
    with a blob that another manifest names.
    """

    history: tuple[Listed, ...] = ()
    others: tuple[CheckpointName, ...] = ()
    unfinished: frozenset[CheckpointName] = frozenset()
    stuck: frozenset[CheckpointName] = frozenset()


@dataclass(frozen=True)
class PrunePlan:
    """The checkpoints to keep and to delete, newest first.

    Deletion in this order never leaves a manifest without one of its blobs: a checkpoint shares blobs of older ones
    only. `shares` maps each checkpoint to those whose blobs it references. `finite` is the newest that is not suspect;
    it is kept. `standing` is what the plan was made for, and `files` those in its folders, where they were listed.
    """

    keep: tuple[CheckpointName, ...]
    delete: tuple[CheckpointName, ...]
    shares: Mapping[CheckpointName, frozenset[CheckpointName]] = field(default_factory=dict, repr=False, compare=False)
    finite: CheckpointName | None = field(default=None, compare=False)
    standing: Standing = field(default_factory=Standing, repr=False, compare=False)
    files: Mapping[CheckpointName, Sequence[Entry]] = field(default_factory=dict, repr=False, compare=False)


def plan(
    catalog: Catalog,
    rule: retention.Rule,
    *,
    attempt: int,
    pinned: Collection[CheckpointName] | None = None,
    seen: Container[CheckpointName] | None = None,
) -> PrunePlan:
    """Decide, from the run's history, what `attempt` may delete.

    In the history these are all checkpoints that the rule does not keep. Outside of it (rejected, unfinished, written
    late by a displaced attempt) they are folders of lower attempts, once `rule.last` checkpoints of this attempt exist.
    Where the storage fences exactly, `seen` has the unfinished ones that this attempt saw before. Those go as soon as a
    newer attempt than theirs has committed a checkpoint, and no other unfinished one does.
    Pinned checkpoints are kept, and so is each whose blobs a kept checkpoint references, inside the history or outside.
    The pins are listed, unless they are given. Raises `StorageError` where a manifest cannot be read now: the blobs
    that it references are unknown.
    """
    pins = catalog.pinned() if pinned is None else pinned
    listing = catalog.listing()
    history = tuple(catalog.history(listing=listing))
    names = {name for name, _ in history}
    beside = [name for name in listing.names if name not in names and name.attempt < attempt]
    unfinished = frozenset(name for name in beside if seen is not None and _is_unfinished(catalog, name))
    standing = Standing(history, tuple(name for name in beside if name not in unfinished), unfinished)
    rest, finite = _surplus(standing, rule, attempt=attempt, pinned=pins, seen=seen or ())
    shares = _shares(catalog, names.union(listing.names)) if rest else {}
    delete = _unshared(rest, shares)
    standing = replace(standing, stuck=frozenset(rest).difference(delete))
    keep = tuple(name for name, _ in history if name not in delete)
    return PrunePlan(keep, delete, shares, finite, standing, listing.files)


def plan_of_nothing(
    before: PrunePlan | None, added: Manifest, rule: retention.Rule, *, seen: Container[CheckpointName] = ()
) -> PrunePlan | None:
    """Return the plan for one more checkpoint if it deletes nothing, by what stood at the plan before; else None. Pure.

    What other programs did since is not known: they delete, pin, or publish off the line, none of which makes more of
    the history superfluous.
    """
    newest = before.standing.history[0][0] if before and before.standing.history else None
    if before is None or newest is None or newest.attempt != added.attempt or newest.order >= added.name.order:
        return None
    standing = replace(before.standing, history=((added.name, added), *before.standing.history))
    rest, finite = _surplus(standing, rule, attempt=added.attempt, seen=seen)
    if not standing.stuck.issuperset(rest):
        return None
    return PrunePlan(tuple(name for name, _ in standing.history), (), finite=finite, standing=standing)


def _surplus(
    standing: Standing,
    rule: retention.Rule,
    *,
    attempt: int,
    pinned: Collection[CheckpointName] = (),
    seen: Container[CheckpointName] = (),
) -> tuple[list[CheckpointName], CheckpointName | None]:
    """Return what the rule does not keep, whatever shares its blobs, and the newest that is not suspect."""
    history = standing.history
    suspects = [*suspicion.are_suspect(m for _, m in reversed(history))][::-1]
    candidates = [
        retention.Candidate(str(name), m.step, m.epoch, m.metrics.get(rule.best_metric or ""), name in pinned, suspect)
        for (name, m), suspect in zip(history, suspects, strict=True)
    ]
    kept = retention.keep(candidates, rule)
    rest = [name for name, _ in history if str(name) not in kept]
    if sum(name.attempt == attempt for name, _ in history) >= max(rule.last, 1):
        rest += [name for name in standing.others if name not in pinned]
    head = history[0][0].attempt if history else 0
    rest += [name for name in standing.unfinished if name.attempt < head and name in seen and name not in pinned]
    return rest, next((name for (name, _), suspect in zip(history, suspects, strict=True) if not suspect), None)


def _shares(catalog: Catalog, names: Iterable[CheckpointName]) -> dict[CheckpointName, frozenset[CheckpointName]]:
    """Map each checkpoint to the others whose blobs it references."""
    shares = {}
    for name in names:
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
    """Carry out the plan, and delete the manifests first; where the storage fences exactly, what else was left, too.

    Returns the plan with what was really deleted.
    Raises `FencedError` as soon as a newer attempt owns the run. Where one checkpoint cannot be deleted, those whose
    blobs it references are kept, all others are deleted, and its `StorageError` is raised at the end.
    """
    seen = attempt.left.saves if storage.exclusive else None
    decided = plan(catalog, rule, attempt=attempt.number, pinned=(), seen=seen)  # `delete` reads the pins right before
    failures: list[StorageError] = []
    needed: set[CheckpointName] = set()
    gone: set[CheckpointName] = set()
    for group in _groups(decided, most=storage.removed_at_once):
        going = [name for name in group if name not in needed]
        gone.update(_deleted(storage, attempt, going, decided.files, failures))
        for name in set(group) - gone:
            needed |= decided.shares.get(name, frozenset())
    gone.update(_deleted_unfinished(storage, attempt, decided, needed, failures))
    if failures:
        raise failures[0]
    if seen is not None:
        delete_stale_files(storage, attempt)
    see_unfinished(storage, attempt, decided.standing.unfinished - gone)
    return _carried_out(decided, gone)


def _deleted_unfinished(
    storage: Storage,
    attempt: Attempt,
    decided: PrunePlan,
    needed: Container[CheckpointName],
    failures: list[StorageError],
) -> list[CheckpointName]:
    """Delete what is unfinished and not `needed`; return what is gone, and add to `failures`."""
    gone = []
    for name in decided.delete:
        if name in decided.standing.unfinished and name not in needed:
            try:
                gone += [name] if delete_unfinished(storage, attempt, name) else []
            except StorageError as failure:
                failures.append(failure)
    return gone


def see_unfinished(storage: Storage, attempt: Attempt, names: Iterable[CheckpointName]) -> None:
    """Look into the unfinished folders that `attempt` has not seen, so that a later pruning may delete them."""
    unseen = [name for name in names if name not in attempt.left.saves]
    if unseen:
        attempt.left.saves.update(see_saves(storage, unseen))


def _groups(decided: PrunePlan, *, most: int) -> Iterator[list[CheckpointName]]:
    """Yield the finished ones that go in groups of at most `most`, none of which references a blob in its group."""
    group: list[CheckpointName] = []
    named: set[CheckpointName] = set()
    for name in decided.delete:
        if name in decided.standing.unfinished:
            continue
        if group and (len(group) == most or name in named):
            yield group
            group, named = [], set()
        group.append(name)
        named |= decided.shares.get(name, frozenset())
    if group:
        yield group


def _deleted(
    storage: Storage,
    attempt: Attempt,
    group: Sequence[CheckpointName],
    files: Mapping[CheckpointName, Sequence[Entry]],
    failures: list[StorageError],
) -> list[CheckpointName]:
    """Delete a group, or each of it by itself where that fails; return what is gone, and add to `failures`."""
    if not group:
        return []
    try:
        return delete(storage, attempt, group, files=files)
    except StorageError as failure:
        if len(group) == 1:
            failures.append(failure)
            return []
    return [name for each in group for name in _deleted(storage, attempt, [each], files, failures)]


def _carried_out(decided: PrunePlan, gone: Collection[CheckpointName]) -> PrunePlan:
    history = tuple(listed for listed in decided.standing.history if listed[0] not in gone)
    others = tuple(name for name in decided.standing.others if name not in gone)
    stuck = decided.standing.stuck.union(decided.delete).difference(gone)
    return replace(
        decided,
        keep=tuple(name for name, _ in history),
        delete=tuple(name for name in decided.delete if name in gone),
        standing=Standing(history, others, decided.standing.unfinished.difference(gone), stuck),
        files={},
    )


def make_room(storage: Storage, catalog: Catalog, attempt: Attempt) -> None:
    """Delete, on a full disk, what saves of earlier attempts left without a manifest. Raises as `prune`."""
    earlier = [name for name in catalog.names() if name.attempt < attempt.number]
    # In a run that is being copied, a manifest may arrive after those of checkpoints that share its blobs.
    for name in _unshared(
        [name for name in earlier if not _is_committed(catalog, name)], _shares(catalog, catalog.names())
    ):
        delete(storage, attempt, [name])


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
