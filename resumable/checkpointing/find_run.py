"""Find a run for one more attempt: lock it, discover and verify the newest checkpoint, refuse what does not match.

Independent of tensors. Nothing is claimed here, so no other launch is fenced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from resumable.checkpointing.mismatch.accepted_objects import refuse_unknown_drops
from resumable.checkpointing.mismatch.adoption import Adoption
from resumable.checkpointing.mismatch.object_mismatch import ObjectKind, refuse_other_objects
from resumable.config.config import Config
from resumable.data.rng.find_generators import NEWEST_RULE, RULES
from resumable.errors import (
    CheckpointError,
    CorruptCheckpointError,
    FencedError,
    NoCheckpointError,
    RunMismatchError,
    StorageError,
)
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import GOLDEN
from resumable.store.attempts import create_run, lock_run
from resumable.store.catalog import LISTING_ATTEMPTS, Catalog
from resumable.store.documents.manifest import Manifest, RunFile
from resumable.store.layout import CheckpointName, is_slab_name, object_of
from resumable.store.storage.protocol import Storage
from resumable.utils.events import emit, warn
from resumable.utils.messages import quoted

GENERATOR_RULE = "generator_rule"  # its key in the environment of a manifest
PREPARED_LOADERS = "prepared_loaders"  # "address" in the environment of a run that reads the plain loader inside

Refuse = Callable[[Checkpoint], None]
"""Raises for a checkpoint that cannot be used; reads no blobs of tensors."""


@dataclass(frozen=True)
class FoundRun:
    """A run that is locked until `unlock`. Its newest checkpoint was verified, and no attempt is claimed yet."""

    run_file: RunFile
    resumed: Checkpoint | None
    rejected: frozenset[str]
    """The names of newer checkpoints than `resumed` that were found damaged."""
    unlock: Callable[[], None]

    @property
    def generator_rule(self) -> int:
        """Return the rule by which random generators are found; a run keeps the rule that it began with."""
        rule: int = NEWEST_RULE if self.resumed is None else _generator_rule(self.resumed.manifest)
        return rule

    @property
    def unwraps(self) -> bool:
        """Return whether the run reads the plain loader inside a prepared one; runs of earlier versions do not."""
        return self.resumed is None or self.resumed.manifest.environment.get(PREPARED_LOADERS) == "address"


def find_run(config: Config, storage: Storage, catalog: Catalog, objects: Mapping[str, ObjectKind]) -> FoundRun:
    """Lock the run that `config` names, and find and verify its newest checkpoint. Fences no other launch.

    A new run gets its `run.json` here, so that its identity and its seed are final.

    Raises:
        FencedError: Another process holds the run.
        StorageError: The run cannot be written to.
        CorruptCheckpointError: Checkpoints exist, and none is valid.
        RunMismatchError: The run belongs to other objects or another data_seed.
        NoCheckpointError: The config requires a checkpoint, and there is none.
    """
    unlock = _lock(config, storage)
    try:
        refuse = partial(refuse_unfit, config, objects)
        rejected: dict[str, str] = {}
        resumed = discover(config, catalog, rejected, refuse=refuse) if _exists(config, catalog) else None
        _refuse_unfenced(config, storage)
        run_file = create_run(storage, data_seed=_fresh_seed() if config.data_seed is None else config.data_seed)
        _refuse_other_seed(config, run_file)
    except BaseException:
        unlock()
        raise
    damaged = frozenset(name for name in rejected if was_committed(catalog, name))
    return FoundRun(run_file, resumed, damaged, unlock)


def _lock(config: Config, storage: Storage) -> Callable[[], None]:
    try:
        return lock_run(storage)
    except FencedError as error:
        if "this program" not in str(error.__cause__):
            raise
        raise FencedError(
            f"{config.location}: this program has a Trainer on this run already, and that one is in its loop",
            "let the loop end or leave it, or call its close() first; two would overwrite each other",
        ) from error
    except OSError as error:  # the first write of an attempt: here a location that is not writable shows
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise StorageError(
            f"{config.location}: cannot be written to: {cause.strerror or cause}",
            getattr(error, "hint", None) or "name a folder in `run` that this user may write to",
        ) from error


def _refuse_unfenced(config: Config, storage: Storage) -> None:
    """Warn or raise, as `fencing` says, where two launches at the same instant could claim the same number."""
    if config.fencing == "off" or storage.exclusive:
        return
    if config.fencing == "require":
        raise StorageError(
            f"{config.location}: this storage does not create files exclusively, and the config sets fencing: require",
            "name a storage in `run` that does (a folder, S3 with conditional writes), or set fencing: auto",
        )
    warn(
        f"{config.location}: this storage does not create files exclusively: do not launch this run twice at the same "
        "instant (`fencing: off` silences this line, `fencing: require` refuses such a storage)"
    )


def discover(
    config: Config,
    catalog: Catalog,
    rejected: dict[str, str] | None = None,
    *,
    refuse: Refuse = lambda found: None,
) -> Checkpoint | None:
    """Return the newest checkpoint that passes verification, and log a REJECT line for each newer damaged one.

    `refuse` raises for a checkpoint that cannot be used; it is called before the bytes of tensors are read. `rejected`
    is filled with the names and the reasons.
    """
    rejected = {} if rejected is None else rejected
    found = newest_valid(catalog, rejected, refuse)
    for rejected_name, reason in rejected.items():
        emit("REJECT", rejected_name, reason=reason, next=found.name if found else "none")
    if found is None:
        refuse_a_fresh_start(config, catalog, rejected)
    return found


def newest_valid(
    catalog: Catalog, rejected: dict[str, str], refuse: Refuse, *, proven: Checkpoint | None = None
) -> Checkpoint | None:
    """Return the newest checkpoint that passes verification; `proven` passed before and is not read again.

    Its blobs are kept in the memory of the catalog, if it was not proven before.
    """
    for _ in range(LISTING_ATTEMPTS):
        rejected.clear()
        try:
            for name, manifest in catalog.line(rejected.__setitem__):
                if proven is not None and str(name) == proven.name:
                    return proven
                found = Checkpoint(catalog, name, manifest)
                try:
                    refuse(found)
                    if proven is None:  # or one that turns out damaged would take the memory of the proven one
                        catalog.keep(name, _restored_sizes(manifest))
                    found.verify()
                except CorruptCheckpointError as error:
                    rejected[str(name)] = error.message.removeprefix(f"{name}: ")
                else:
                    return found
            return None
        except NoCheckpointError:
            continue  # pruned during the read, by an attempt that still runs elsewhere: newer ones exist
    raise StorageError(
        "the checkpoints of this run were pruned faster than they could be read",
        "stop the other job that writes to this run, or name another folder in `run`",
    )


def _restored_sizes(manifest: Manifest) -> dict[str, int]:
    """Return the sizes of the blobs that are restored from, and staged into later: no golden input, and no slabs."""
    return {
        name: record.size
        for name, record in manifest.blobs.items()
        if object_of(name) not in (None, GOLDEN) and not is_slab_name(name)
    }


def _exists(config: Config, catalog: Catalog) -> bool:
    exists = catalog.run_file() is not None or bool(catalog.names())
    if exists and config.resume == "never":
        raise RunMismatchError(
            f"{config.location}: there is a run already, and the config sets resume: never",
            "name another folder in `run`, or set resume: auto to continue it; nothing was deleted",
        )
    if not exists and config.resume == "must":
        raise NoCheckpointError(
            f"{config.location}: no run here, and the config sets resume: must",
            "check `run` and the storage, or set resume: auto to begin a new run",
        )
    return exists


def refuse_a_fresh_start(config: Config, catalog: Catalog, rejected: Mapping[str, str]) -> None:
    """Raise `CheckpointError` where a checkpoint was committed and none is valid, or where the config requires one."""
    damaged = "".join(f"\n  {name}: {why}" for name, why in rejected.items() if was_committed(catalog, name))
    if damaged:
        raise CorruptCheckpointError(
            f"{config.location}: no checkpoint is valid:{damaged}",
            "restore the run from a copy, or name another folder in `run` for a new run; nothing was deleted",
        )
    if config.resume == "must":
        raise NoCheckpointError(
            f"{config.location}: the run has no checkpoint yet, and the config sets resume: must",
            "set resume: auto to begin it again from the start",
        )


def was_committed(catalog: Catalog, name: str) -> bool:
    """Return whether a checkpoint has a manifest, also a damaged one."""
    parsed = CheckpointName.parse(name)
    try:
        if parsed is not None:
            catalog.manifest(parsed)
    except NoCheckpointError:
        return False
    except CheckpointError:
        return True
    return True


def refuse_unfit(config: Config, objects: Mapping[str, ObjectKind], found: Checkpoint) -> None:
    """Raise `RunMismatchError` for a checkpoint of another kind of run, or with objects of other names and kinds."""
    _refuse_unknown_rule(config.location, found.manifest)
    _refuse_other_world(config.location, found.manifest)
    refuse_unknown_drops(config.drop, objects, found)
    refuse_other_objects(config.location, objects, found, Adoption(config.adopt, config.drop))


def _refuse_other_world(run: str, found: Manifest) -> None:
    if found.world != 1:
        raise RunMismatchError(
            f"{run}: this run was saved by {found.world} processes, expected 1",
            "continue it with as many; resumable.load_weights and `resumable export` read it with one",
        )


def _generator_rule(manifest: Manifest) -> Any:
    # Rule 1 was not recorded.
    return manifest.environment.get(GENERATOR_RULE, 1)


def _refuse_unknown_rule(run: str, found: Manifest) -> None:
    rule = _generator_rule(found)
    if type(rule) is not int or rule not in RULES:
        raise RunMismatchError(
            f"{run}: this run finds random generators by rule {quoted(rule)}, expected at most {NEWEST_RULE}",
            "upgrade resumable: a newer version wrote this run",
        )


def _fresh_seed() -> int:
    # From the system: drawing it must not advance the streams that the user may have seeded.
    return random.SystemRandom().getrandbits(31)


def _refuse_other_seed(config: Config, run_file: RunFile) -> None:
    if config.data_seed not in (None, run_file.data_seed):
        raise RunMismatchError(
            f"{config.location}: data_seed is {config.data_seed} in the config, but this run was created with "
            f"{run_file.data_seed}",
            "remove data_seed from the config to continue this run, or name another folder in `run`",
        )
