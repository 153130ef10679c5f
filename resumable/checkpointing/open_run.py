"""The first second of an attempt: take the lock, discover, verify, refuse what does not fit, claim a number.

Knows no tensors. Nothing is written into a run before everything about it was found right.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

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
from resumable.run.checkpoint import GRADIENTS, LATE, Checkpoint, is_golden
from resumable.run.verification import verify
from resumable.store.attempts import Attempt, begin, create_run, displaced, lock_run
from resumable.store.catalog import LISTING_ATTEMPTS, Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import Manifest, ObjectRecord, RunFile, TensorRecord
from resumable.store.storage.protocol import Storage
from resumable.utils.events import emit, warn
from resumable.utils.messages import quoted

GENERATOR_RULE = "generator_rule"  # its key in the environment of a manifest

Refuse = Callable[[Manifest], None]  # raises for what cannot be used


class Sort(Protocol):
    """What is compared of an object before its state is: what sort of thing it is."""

    @property
    def kind(self) -> str: ...
    @property
    def type(self) -> str: ...

    def misfits(self, tensors: Mapping[str, TensorRecord]) -> list[str]:
        """What can be seen at once not to fit: names, shapes and dtypes of tensors."""


@dataclass(frozen=True)
class OpenedRun:
    """A run that this attempt may write to, until `unlock`."""

    run_file: RunFile
    resumed: Checkpoint | None
    attempt: Attempt
    unlock: Callable[[], None]

    @property
    def generator_rule(self) -> int:
        """The rule by which random generators are found: of a run that goes on the one that it began with."""
        rule: int = NEWEST_RULE if self.resumed is None else _generator_rule(self.resumed.manifest)
        return rule


def open_run(config: Config, storage: Storage, catalog: Catalog, objects: Mapping[str, Sort]) -> OpenedRun:
    """Open the run that `config` names for one more attempt.

    Raises `FencedError` where another process holds the run, `StorageError` where it cannot be written to,
    `CorruptCheckpointError` where checkpoints exist and none is valid, `RunMismatchError` where the run belongs to
    other objects or another data_seed.
    """
    unlock = _lock(config, storage)
    try:
        refuse = partial(_refuse_unfit, config.location, objects)
        resumed = discover(config, catalog, refuse=refuse) if _exists(config, catalog) else None
        _refuse_unfenced(config, storage)
        run_file = create_run(storage, data_seed=_fresh_seed() if config.data_seed is None else config.data_seed)
        _refuse_other_seed(config, run_file)
        lineage = resumed.manifest.lineage if resumed else []
        name = CheckpointName.parse(resumed.name) if resumed else None
        attempt = begin(storage, resumed_from=name, lineage_before=lineage)
        resumed, attempt = _settled(config, catalog.anew(), refuse, resumed, attempt)
        if resumed is None or not resumed.manifest.finished:
            _name_displaced(storage, attempt)
    except BaseException:
        unlock()
        raise
    return OpenedRun(run_file, resumed, attempt, unlock)


def _lock(config: Config, storage: Storage) -> Callable[[], None]:
    try:
        return lock_run(storage)
    except FencedError as error:
        if "this program" not in str(error.__cause__):
            raise
        raise FencedError(
            f"{config.location}: this program has a Trainer on this run already, and that is in its loop",
            "let the loop end or leave it, or call its close() first; two would overwrite each other",
        ) from error
    except OSError as error:  # the first write of an attempt: whatever is wrong with the place shows here
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise StorageError(
            f"{config.location}: cannot be written to: {cause.strerror or cause}",
            getattr(error, "hint", None) or "name a folder in `run` that this user may write to",
        ) from error


def _refuse_unfenced(config: Config, storage: Storage) -> None:
    """Where two launches at one instant may both take one number, that is said, or refused as the config wants it."""
    if config.fencing == "off" or storage.exclusive:
        return
    if config.fencing == "require":
        raise StorageError(
            f"{config.location}: this storage does not create files exclusively, and the config says fencing: require",
            "name a storage in `run` that does (a folder, S3 with conditional writes), or say fencing: auto",
        )
    warn(
        f"{config.location}: this storage does not create files exclusively: do not launch this run twice at the same "
        "instant (`fencing: off` silences this line, `fencing: require` refuses such a storage)"
    )


def _name_displaced(storage: Storage, attempt: Attempt) -> None:
    """Say which launch lost the run to this one, where it may still live: no lock of this machine tells."""
    before = displaced(storage, attempt)
    if before is None or (storage.locks and before.host == socket.gethostname()):
        return  # the first, or one that the lock proves to be gone
    emit(
        "DISPLACE",
        attempt=before.attempt,
        host=before.host,
        pid=before.pid,
        by=attempt.number,
        note="if it still runs, it stops at its next save",
    )


def _settled(
    config: Config, catalog: Catalog, refuse: Refuse, resumed: Checkpoint | None, attempt: Attempt
) -> tuple[Checkpoint | None, Attempt]:
    """What is newest now that every earlier attempt is fenced: while we looked, one may have saved and pruned.

    Looked at with fresh eyes, for nothing that was seen before the claim need still be there.
    """
    rejected: dict[str, str] = {}
    newest = _newest_valid(catalog, rejected, refuse, proven=resumed)
    if newest is None:
        _refuse_a_fresh_start(config, catalog, rejected)
        if resumed is not None:
            raise NoCheckpointError(
                f"{config.location}: {resumed.name} was the newest a moment ago, and now there is none",
                "another program deletes in this run: stop it, and restore the run from a copy",
            )
    if newest is None or (resumed is not None and newest.name == resumed.name):
        return newest, attempt
    lineage = (*newest.manifest.lineage, (attempt.number, newest.name))
    return newest, replace(attempt, lineage=lineage)


def discover(config: Config, catalog: Catalog, *, refuse: Refuse = lambda manifest: None) -> Checkpoint | None:
    """The newest checkpoint whose every byte is right; each bad one on the way is named in a REJECT line.

    `refuse` raises for what cannot be used; it is asked before the bytes are read.
    """
    rejected: dict[str, str] = {}
    found = _newest_valid(catalog, rejected, refuse)
    for rejected_name, reason in rejected.items():
        emit("REJECT", rejected_name, reason=reason, next=found.name if found else "none")
    if found is None:
        _refuse_a_fresh_start(config, catalog, rejected)
    return found


def _newest_valid(
    catalog: Catalog, rejected: dict[str, str], refuse: Refuse, *, proven: Checkpoint | None = None
) -> Checkpoint | None:
    """The newest that is right in every byte; `proven` was read already and is not read again."""
    for _ in range(LISTING_ATTEMPTS):
        rejected.clear()
        try:
            for name, manifest in catalog.line(rejected.__setitem__):
                if proven is not None and str(name) == proven.name:
                    return proven
                refuse(manifest)
                try:
                    verify(catalog, manifest, name)
                except CorruptCheckpointError as error:
                    rejected[str(name)] = error.message
                else:
                    return Checkpoint(catalog, name, manifest)
            return None
        except NoCheckpointError:
            continue  # pruned while it was read, by an attempt that still runs elsewhere: there are newer ones
    raise StorageError(
        "the checkpoints of this run were pruned faster than they could be read",
        "another job is writing to this run: stop it, or name another folder in `run`",
    )


def _exists(config: Config, catalog: Catalog) -> bool:
    exists = catalog.run_file() is not None or bool(catalog.names())
    if exists and config.resume == "never":
        raise RunMismatchError(
            f"{config.location}: there is a run already, and the config says resume: never",
            "name another folder in `run`, or say resume: auto to continue it; nothing was deleted",
        )
    if not exists and config.resume == "must":
        raise NoCheckpointError(
            f"{config.location}: no run here, and the config says resume: must",
            "check `run` and the storage, or say resume: auto to begin a new run",
        )
    return exists


def _refuse_a_fresh_start(config: Config, catalog: Catalog, rejected: Mapping[str, str]) -> None:
    damaged = "".join(f"\n  {name}: {why}" for name, why in rejected.items() if _was_committed(catalog, name))
    if damaged:
        raise CorruptCheckpointError(
            f"{config.location}: none of the checkpoints is valid:{damaged}",
            "restore the run from a copy, or name another folder in `run` to begin anew; nothing was deleted",
        )
    if config.resume == "must":
        raise NoCheckpointError(
            f"{config.location}: the run has no checkpoint yet, and the config says resume: must",
            "say resume: auto to begin it again from the start",
        )


def _was_committed(catalog: Catalog, name: str) -> bool:
    parsed = CheckpointName.parse(name)
    try:
        if parsed is not None:
            catalog.manifest(parsed)
    except NoCheckpointError:
        return False
    except CheckpointError:
        return True
    return True


def _refuse_unfit(run: str, objects: Mapping[str, Sort], found: Manifest) -> None:
    _refuse_unknown_rule(run, found)
    refuse_other_objects(run, objects, found)


def _generator_rule(manifest: Manifest) -> Any:
    # The first rule had no number.
    return manifest.environment.get(GENERATOR_RULE, 1)


def _refuse_unknown_rule(run: str, found: Manifest) -> None:
    rule = _generator_rule(found)
    if type(rule) is not int or rule not in RULES:
        raise RunMismatchError(
            f"{run}: this run finds random generators by rule {quoted(rule)}, expected at most {NEWEST_RULE}",
            "it was written by a newer resumable: upgrade this one",
        )


def late_objects(found: Manifest) -> frozenset[str]:
    """The names of the objects that are put in place while a program trains, so that no launch begins with them."""
    names = found.environment.get(LATE)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def refuse_other_objects(run: str, objects: Mapping[str, Sort], found: Manifest, *, whole: bool = False) -> None:
    """Raise `RunMismatchError` where these are not the objects of a checkpoint.

    Those that come late are compared only with `whole`: once they are there.
    """
    late = frozenset() if whole else late_objects(found)
    objects = {name: given for name, given in objects.items() if name not in late}
    saved = {
        name: record
        for name, record in found.objects.items()
        # A golden input the program may name another time, or not at all.
        if name != GRADIENTS and name not in late and not is_golden(name, record)
    }
    missing, unexpected = sorted(saved.keys() - objects.keys()), sorted(objects.keys() - saved.keys())
    differences = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"unexpected: {', '.join(unexpected)}"] if unexpected else []),
        *(
            f"{name}: stored {_sort(record)}, given {_sort(objects[name])}"
            for name, record in saved.items()
            if name in objects and not _same_sort(objects[name], record)
        ),
        *(
            f"{name}: {misfit}"
            for name, record in saved.items()
            if name in objects and _same_sort(objects[name], record)
            for misfit in objects[name].misfits(record.tensors)
        ),
    ]
    if differences:
        raise RunMismatchError(
            f"{run}: this run holds other objects than were given to Trainer(...): {'; '.join(differences)}",
            "pass the same objects under the same names, or name another folder in `run` for a new run",
        )


def _sort(thing: Sort | ObjectRecord) -> str:
    return thing.type if thing.kind in ("module", "optimizer") else f"{thing.kind} {thing.type}"


def _same_sort(given: Sort, saved: ObjectRecord) -> bool:
    # Modules and user classes may be renamed; an SGD that is given AdamW's state would take it silently.
    torch_owns = given.type.startswith("torch.optim.") and saved.type.startswith("torch.optim.")
    return given.kind == saved.kind and (given.type == saved.type or not torch_owns)


def _fresh_seed() -> int:
    # From the system: drawing it must not touch the streams that the user may have seeded.
    return random.SystemRandom().getrandbits(31)


def _refuse_other_seed(config: Config, run_file: RunFile) -> None:
    if config.data_seed not in (None, run_file.data_seed):
        raise RunMismatchError(
            f"{config.location}: data_seed is {config.data_seed} in the config, but this run was created with "
            f"{run_file.data_seed}",
            "take data_seed out of the config to continue this run, or name another folder in `run`",
        )
