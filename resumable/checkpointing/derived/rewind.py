"""Put a run back to one of its checkpoints: a new attempt publishes it once more, and what is newer is off the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resumable.checkpointing.derived.content import Derived
from resumable.checkpointing.reference_chain import MAX_CHAIN, chain_length
from resumable.errors import CorruptCheckpointError, NoCheckpointError
from resumable.run.checkpoint import Checkpoint
from resumable.store import pins
from resumable.store.attempts import begin, lock_run
from resumable.store.catalog import Catalog
from resumable.store.layout import RUN_FILE, CheckpointName
from resumable.store.lineage import is_on_line
from resumable.store.publish import publish

if TYPE_CHECKING:
    from resumable.store.storage.protocol import Storage


@dataclass(frozen=True)
class Rewound:
    """The new newest checkpoint of a run, and those that are off the line now, newest first."""

    name: CheckpointName
    off_line: Sequence[CheckpointName]


def rewind(
    storage: Storage, catalog: Catalog, target: Checkpoint, *, discard: bool, to_next_epoch: bool
) -> Rewound | None:
    """Publish `target` once more under a new attempt. Return None where it is the newest of the line already.

    What goes off the line is pinned, unless `discard`.

    Raises:
        FencedError: A program of this machine uses the run, or another launch began meanwhile.
        CorruptCheckpointError: The checkpoint is damaged; nothing was changed.
        LoopError: There is no pass to drop.
        NoCheckpointError: It was deleted meanwhile.
    """
    unlock = lock_run(storage)
    try:
        _refuse_a_part(storage, catalog)
        line = [name for name, _ in catalog.refreshed().history()]
        name = target.manifest.name
        if line[:1] == [name] and not to_next_epoch:
            return None
        derived = Derived.of(target, catalog, to_next_epoch=to_next_epoch)
        return _published(storage, derived, line, discard=discard)
    finally:
        unlock()


def _refuse_a_part(storage: Storage, catalog: Catalog) -> None:
    if catalog.run_file() is None:
        raise CorruptCheckpointError(
            f"{storage.url}: expected a whole run, found one without {RUN_FILE}",
            "if it is being copied, wait; otherwise copy that file too",
        )


def _published(storage: Storage, derived: Derived, line: Sequence[CheckpointName], *, discard: bool) -> Rewound:
    source = derived.source.manifest
    is_pinned = source.name in pins.pinned(storage)
    pins.pin(storage, source.name)  # until the new manifest names its files
    try:
        Catalog(storage).check(source, source.name)
        attempt = begin(storage, resumed_from=source.name, lineage_before=source.lineage)
        off_line = [name for name in line if not is_on_line(name, attempt.lineage)]
        for name in () if discard else off_line:
            pins.pin(storage, name)
        shares = chain_length(source, derived.catalog.manifest) < MAX_CHAIN
        notes = source.notes | {"rewound_from": str(source.name)}
        publish(
            storage,
            attempt,
            derived.name(attempt.number),
            derived.blobs(shares=shares),
            derived.states,
            lambda blobs: derived.manifest(blobs, attempt, reason="rewind", notes=notes),
        )
    except NoCheckpointError:
        is_pinned = False
        raise
    finally:
        if not is_pinned:
            pins.unpin(storage, source.name)
    return Rewound(derived.name(attempt.number), off_line)
