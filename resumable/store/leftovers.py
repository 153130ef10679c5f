"""See what earlier attempts left in a run, so that only what nobody changes any more is deleted. Deletes nothing.

A folder without a manifest may be a save that a kill cut short. It may also be part of a copy that is still arriving,
or be written by a process of the old launch that lives on. Those grow. So a folder may go only if it holds the very
files that it held when this attempt saw it before, and the same is true of each temporary file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from resumable.store.layout import (
    ATTEMPTS,
    ATTEMPTS_KEPT,
    MANIFEST,
    PINS,
    CheckpointName,
    checkpoint_path,
    parse_attempt,
)
from resumable.store.storage.own_files import is_probe, is_temporary
from resumable.store.storage.protocol import Entry, FileSizes, Storage, sizes_of
from resumable.utils.threads import in_lanes

MAX_SEEN_SAVES = 32  # at a launch, where each costs a request: a run may keep hundreds of checkpoints


@dataclass
class Leftovers:
    """The possible leftovers of earlier attempts, as this attempt first saw them.

    `saves` has the content of folders without a manifest, `files` that of other folders, by path: temporary files,
    probes, and the files of attempts long past.
    """

    saves: dict[CheckpointName, FileSizes] = field(default_factory=dict)
    files: dict[str, FileSizes] = field(default_factory=dict)


def see_saves(
    storage: Storage, names: Sequence[CheckpointName], files: Mapping[CheckpointName, Sequence[Entry]] | None = None
) -> dict[CheckpointName, FileSizes]:
    """Return the content of those of these folders without a manifest; `files` is what was listed just now."""
    if files:
        listings = [sizes_of(files.get(name, ())) for name in names]
    else:
        listings = in_lanes(lambda name: sizes_in(storage, checkpoint_path(name)), names, storage.parallel)
    return {name: found for name, found in zip(names, listings, strict=True) if MANIFEST not in found}


def see_files(storage: Storage, attempt: int) -> dict[str, FileSizes]:
    """List, by folder, the other files that only an attempt lower than `attempt` can have left."""
    stale = {folder: _stale(folder, sizes_in(storage, folder), attempt) for folder in ("", ATTEMPTS, PINS)}
    return {folder: files for folder, files in stale.items() if files}


def sizes_in(storage: Storage, folder: str) -> FileSizes:
    """List a folder by one request."""
    return sizes_of(storage.list(folder))


def freed_bytes(removed: Collection[Entry]) -> int:
    """Return how many bytes are free once these files are removed: none for a file that keeps another name."""
    names = Counter(entry.file_id for entry in removed)
    last = {entry.file_id: entry for entry in removed if entry.file_id is not None}
    sole = [entry for entry in removed if entry.file_id is None]
    return sum(entry.size or 0 for entry in [*sole, *(e for e in last.values() if names[e.file_id] >= e.links)])


def is_unchanged(before: FileSizes | None, now: FileSizes, names: Iterable[str]) -> bool:
    """Return whether a folder was seen before with the same content, and the sizes of `names` are known."""
    return before == now and all(now[name] is not None for name in names)


def _stale(folder: str, files: FileSizes, attempt: int) -> FileSizes:
    """Return the temporary files, the probes, and the files of attempts long past."""
    return {name: size for name, size in files.items() if is_temporary(name) or _is_of_attempts(folder, name, attempt)}


def _is_of_attempts(folder: str, name: str, attempt: int) -> bool:
    """Return whether this is a probe, or a file of an attempt long past: its own, or that of its end."""
    number = parse_attempt(name.replace(".left.json", ".json"))
    return folder == ATTEMPTS and (is_probe(name) or (number is not None and number < attempt - ATTEMPTS_KEPT))
