"""Begin a run of its own from a checkpoint of another one, on any storage. The other run is only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resumable.checkpointing.derived.content import Derived, Link
from resumable.errors import CheckpointError, FencedError, RunMismatchError
from resumable.run.run import Run
from resumable.store.attempts import begin, lock_run
from resumable.store.catalog import Catalog
from resumable.store.documents.manifest import Manifest, RunFile
from resumable.store.layout import RUN_FILE
from resumable.store.publish import publish

if TYPE_CHECKING:
    from resumable.store.storage.protocol import Storage

NOTE = "branched_from"  # its key in the notes of the first manifest


@dataclass(frozen=True)
class Branched:
    """The first checkpoint of the new run, and its identity."""

    name: str
    run_id: str


def branch(source: Run, derived: Derived, target: Storage, *, location: str, link: Link) -> Branched:
    """Write a checkpoint as the first one of a new run. `run.json` is written last: until then nobody may launch it.

    A branch that was interrupted behind its manifest is completed.

    Raises:
        RunMismatchError: There is a run already.
        FencedError: Another program works there.
    """
    unlock = lock_run(target)
    try:
        origin = {"run": source.location, "run_id": derived.source.manifest.run_id, "checkpoint": derived.source.name}
        written = _written_before(target, location, origin) or _written(source, derived, target, location, origin, link)
        _complete(target, written)
        return Branched(str(written.name), written.run_id)
    finally:
        unlock()


def _written(
    source: Run, derived: Derived, target: Storage, location: str, origin: dict[str, str], link: Link
) -> Manifest:
    identity = RunFile.new(data_seed=_data_seed(source.catalog, derived.source.manifest))
    attempt = begin(target, resumed_from=None, lineage_before=[])
    before = derived.source.manifest
    return publish(
        target,
        attempt,
        derived.name(attempt.number),
        derived.blobs(shares=False, link=link),
        derived.states,
        lambda blobs: derived.manifest(
            blobs,
            attempt,
            run_id=identity.run_id,
            reason="branch",
            notes={NOTE: origin},
            config=before.config | {"run": location, "data_seed": identity.data_seed},
        ),
    )


def _written_before(target: Storage, location: str, origin: dict[str, str]) -> Manifest | None:
    """Return the manifest of the same branch that has no `run.json` yet; raise where there is anything else."""
    catalog = Catalog(target)
    if catalog.run_file() is None:
        line = catalog.history()
        if not line:
            return None
        if len(line) == 1 and line[0][1].notes.get(NOTE) == origin:
            return line[0][1]
    raise RunMismatchError(
        f"{location}: expected a place without a run, found one, or a part of one",
        "name another folder for the new run; nothing was changed",
    )


def _complete(target: Storage, manifest: Manifest) -> None:
    """Write `run.json`, from which on the run may be launched."""
    record = RunFile(run_id=manifest.run_id, data_seed=manifest.config["data_seed"], created=manifest.created)
    try:
        target.create(RUN_FILE, record.dump())
    except FileExistsError:
        raise FencedError(
            f"{target.url}: another program began a run there meanwhile", "name another folder for the new run"
        ) from None


def _data_seed(catalog: Catalog, manifest: Manifest) -> int:
    found = catalog.run_file()
    seed = manifest.config.get("data_seed") if found is None else found.data_seed
    if not isinstance(seed, int):
        raise CheckpointError(
            f"{manifest.name}: its run has no run.json, and its config no data_seed", "copy run.json of the run, too"
        )
    return seed
