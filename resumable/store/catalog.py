"""Which checkpoints of a run count: the read side, which never writes; knows nothing of what blobs mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice

from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.store.blob_reader import BlobReader
from resumable.store.document import Document
from resumable.store.layout import CHECKPOINTS, MANIFEST, RUN_FILE, CheckpointName, checkpoint_path
from resumable.store.manifest import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, Manifest, RunFile
from resumable.store.parse_documents import parse_manifest, parse_run_file
from resumable.store.pins import pinned
from resumable.store.storage.protocol import Seen, Storage
from resumable.utils.events import warn
from resumable.utils.threads import in_lanes

LISTING_ATTEMPTS = 20

Reject = Callable[[str, str], None]


def ignore(name: str, reason: str) -> None:
    """A `reject` for who does not want to know."""


class Catalog:
    """The checkpoints of one run. Manifests are read once: what is published under a name never changes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._run: RunFile | None = None
        self._manifests: dict[CheckpointName, Manifest] = {}
        self._checked: set[CheckpointName] = set()

    def run_file(self) -> RunFile | None:
        """`run.json`, or None where there is no run (or a copy of one whose `run.json` has yet to arrive).

        What a damaged one said is taken from the manifests, where they agree, with a WARN.
        """
        if self._run is None:
            try:
                self._run = Document(self._storage, RUN_FILE, MAX_RECORD_BYTES).read(parse_run_file)
            except FileNotFoundError:
                return None
            except CorruptCheckpointError as error:
                self._run = self._repeated(error)
        return self._run

    def _repeated(self, damage: CorruptCheckpointError) -> RunFile:
        said = {}
        for name in self.names():
            with suppress(CorruptCheckpointError, NoCheckpointError):
                manifest = self.manifest(name)
                said[manifest.run_id, manifest.config.get("data_seed")] = name, manifest.created
        for (run_id, data_seed), (name, created) in said.items():
            if len(said) == 1 and isinstance(data_seed, int):
                warn(f"{damage.message}: what it said stands in the manifests too, and is taken from {name}")
                return RunFile(run_id=run_id, data_seed=data_seed, created=created)
        raise damage

    def names(self) -> list[CheckpointName]:
        """Every checkpoint folder, committed or not, newest first."""
        found = (CheckpointName.parse(entry.name) for entry in self._storage.list(CHECKPOINTS) if entry.is_dir)
        names = sorted((name for name in found if name), key=lambda name: name.order, reverse=True)
        for gone in self._manifests.keys() - set(names):  # or a long run would keep the manifest of every save
            self._forget(gone)
        return names

    def pinned(self) -> set[CheckpointName]:
        """The checkpoints that nothing prunes."""
        return pinned(self._storage)

    def manifest(self, name: CheckpointName) -> Manifest:
        """The manifest of a checkpoint.

        Raises `NoCheckpointError` where there is none (never committed, or pruned), `CorruptCheckpointError`,
        `FormatVersionError`, and `StorageError`, which says nothing about the checkpoint.
        """
        if name not in self._manifests:
            try:
                document = Document(self._storage, checkpoint_path(name, MANIFEST), MAX_MANIFEST_BYTES)
                self._manifests[name] = document.read(parse_manifest)
            except FileNotFoundError as error:
                raise NoCheckpointError(f"{name}: no {MANIFEST}: this save never finished, or was pruned") from error
        return self._manifests[name]

    def check(self, manifest: Manifest, name: CheckpointName) -> None:
        """The cheap checks: the right run, the right folder, every blob there with its size.

        Raises `CorruptCheckpointError`; `NoCheckpointError` if the checkpoint was pruned meanwhile.
        """
        run = self.run_file()
        if run is not None and manifest.run_id != run.run_id:
            raise CorruptCheckpointError(f"{MANIFEST}: of run {manifest.run_id}, expected {run.run_id}")
        if manifest.name != name:
            raise CorruptCheckpointError(f"{MANIFEST}: of {manifest.name}, found in {name}")
        own = checkpoint_path(name)
        listed = {own: self._sizes(own)}
        if MANIFEST not in listed[own]:
            self._forget(name)
            raise NoCheckpointError(f"{name}: was pruned meanwhile")
        for file_name, record in manifest.blobs.items():
            folder, _, base = record.path.rpartition("/")
            if folder not in listed:
                listed[folder] = self._sizes(folder)
            self.reader(manifest, file_name).check_size(listed[folder].get(base))

    def _sizes(self, folder: str) -> dict[str, int | None]:
        """One question for all the files of a folder; what it does not tell, or does not have, is asked by itself."""
        return {entry.name: entry.size for entry in self._storage.list(folder)}

    def verify(self, manifest: Manifest, name: CheckpointName, seen: Mapping[str, Seen] | None = None) -> None:
        """`check`, and the digest of every blob; reads them all, in pieces, which `seen` of the blob looks at too."""
        self.check(manifest, name)
        for file_name in manifest.blobs:
            self.reader(manifest, file_name).verify((seen or {}).get(file_name))

    def reader(self, manifest: Manifest, blob: str) -> BlobReader:
        """What reads one blob of a checkpoint, and raises as `check`. Reads nothing yet."""
        return BlobReader(
            self._storage, blob, manifest.blobs[blob], refuse_pruned=lambda: self._refuse_pruned(manifest.name)
        )

    def read_blob(self, manifest: Manifest, blob: str) -> bytearray:
        """A whole blob, read and verified in one pass. Raises as `check`."""
        return self.reader(manifest, blob).image()

    def add(self, name: CheckpointName, manifest: Manifest) -> None:
        """Take a manifest that this program has just published as read: nobody needs to ask for it."""
        self._manifests[name] = manifest
        self._checked.add(name)

    def anew(self) -> Catalog:
        """The same run, looked at with fresh eyes. What a manifest says is kept, and whether it is there looked at."""
        fresh = Catalog(self._storage)
        fresh._manifests.update(self._manifests)
        return fresh

    def history(self, reject: Reject = ignore) -> list[tuple[CheckpointName, Manifest]]:
        """The whole `line`."""
        self._look_ahead()
        return list(self.line(reject))

    def _look_ahead(self) -> None:
        """Where many questions may be asked at once, look at many checkpoints at once; `line` then knows them."""
        if self._storage.parallel == 1:
            return
        unknown = [name for name in self.names() if name not in self._checked]
        if len(unknown) > self._storage.parallel:
            in_lanes(self._glance, unknown, self._storage.parallel)

    def _glance(self, name: CheckpointName) -> None:
        with suppress(CheckpointError, StorageError):  # if it matters, `line` finds out again, and tells
            self._valid(name)

    def line(self, reject: Reject = ignore) -> Iterator[tuple[CheckpointName, Manifest]]:
        """The one line of checkpoints that leads to the newest valid one, newest first, after the cheap checks.

        It is the highest attempt that has a valid checkpoint, and of the attempts before it what they had saved when
        the next one resumed from them. What was skipped before the newest valid one goes to `reject(name, reason)`.
        The newest is found at once, the others when they are asked for. Raises `FormatVersionError` rather than
        silently falling back behind what a newer version wrote.
        """
        names, before = self.names(), None
        for _ in range(LISTING_ATTEMPTS):
            rejected: list[tuple[str, str]] = []
            missing: list[CheckpointName] = []
            line = self._walk(names, rejected, missing)
            head = list(islice(line, 1))
            # A folder without a manifest that is newer than all we found: unfinished, or pruned? A writer may have
            # committed it behind our back and pruned what is next. So only what is the same twice is believed.
            again = self.names() if missing else names
            if not missing or (again == names and missing == before):
                break
            names, before = again, missing if again == names else None
        else:
            raise StorageError(
                "the checkpoints of this run change faster than they can be listed",
                "try again; if it stays so, save less often, or keep more checkpoints (keep.last)",
            )
        for name, reason in rejected:
            reject(name, reason)
        return chain(head, line)

    def _walk(
        self, names: list[CheckpointName], rejected: list[tuple[str, str]], missing: list[CheckpointName]
    ) -> Iterator[tuple[CheckpointName, Manifest]]:
        newest_place: dict[int, tuple[int, int]] | None = None  # by attempt; what is above is off the line
        for name in names:
            if newest_place is not None and name.place > newest_place.get(name.attempt, (-1, -1)):
                continue
            try:
                manifest = self._valid(name)
            except (NoCheckpointError, CorruptCheckpointError) as error:
                if isinstance(error, NoCheckpointError) and newest_place is None:
                    missing.append(name)
                if newest_place is None:
                    rejected.append((str(name), error.message.removeprefix(f"{name}: ")))
                continue
            if newest_place is None:
                newest_place = _newest_places(manifest)
            yield name, manifest

    def _valid(self, name: CheckpointName) -> Manifest:
        manifest = self.manifest(name)
        if name not in self._checked:
            self.check(manifest, name)
            self._checked.add(name)
        return manifest

    def _refuse_pruned(self, name: CheckpointName) -> None:
        try:
            self._storage.size(checkpoint_path(name, MANIFEST))
        except (FileNotFoundError, ValueError) as error:
            self._forget(name)
            raise NoCheckpointError(f"{name}: was pruned meanwhile") from error

    def _forget(self, name: CheckpointName) -> None:
        self._manifests.pop(name, None)
        self._checked.discard(name)


def _newest_places(head: Manifest) -> dict[int, tuple[int, int]]:
    """Of each attempt on the lineage of `head`, the (step, epoch) up to which its checkpoints lie on the line."""
    places = {head.attempt: (head.step, head.epoch)}
    for _, resumed_from in head.lineage:
        parent = CheckpointName.parse(resumed_from) if resumed_from is not None else None
        if parent:
            places[parent.attempt] = parent.place
    return places
