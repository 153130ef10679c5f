"""Find the valid checkpoints of a run: the read side, which never writes. Independent of what blobs contain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.store.blob_reader import BlobReader
from resumable.store.documents.earlier_versions import EarlierObjects, is_earlier
from resumable.store.documents.json_file import JsonFile
from resumable.store.documents.manifest import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, Manifest, RunFile
from resumable.store.documents.parse_documents import parse_earlier_objects, parse_manifest, parse_run_file
from resumable.store.layout import CHECKPOINTS, MANIFEST, RUN_FILE, CheckpointName, checkpoint_path, is_state_name
from resumable.store.pins import pinned
from resumable.store.storage.protocol import Entry, FileSizes, Storage, sizes_of
from resumable.store.verified_images import VerifiedImages
from resumable.utils.events import warn
from resumable.utils.threads import in_lanes

LISTING_ATTEMPTS = 20
UNFINISHED = f"no {MANIFEST}: this save did not finish, which is normal after a kill, or it was pruned"

Reject = Callable[[str, str], None]
Listed = tuple[CheckpointName, Manifest]


def anything(name: CheckpointName) -> bool:
    """Accept every name."""
    return True


@dataclass(frozen=True)
class Listing:
    """Every checkpoint folder at one instant, newest first; by name the files in it, where one request lists them."""

    names: Sequence[CheckpointName]
    files: Mapping[CheckpointName, Sequence[Entry]] = field(default_factory=dict)


def ignore(name: str, reason: str) -> None:
    """Ignore a rejected checkpoint."""


class Catalog:
    """The checkpoints of one run. Manifests are read once, since a published one never changes.

    Blobs with memory in `images` are verified there, and then read from there.
    """

    def __init__(self, storage: Storage, images: VerifiedImages | None = None) -> None:
        self._storage = storage
        self._images = images
        self._run: RunFile | None = None
        self._manifests: dict[CheckpointName, Manifest] = {}
        self._checked: set[CheckpointName] = set()

    def run_file(self) -> RunFile | None:
        """Return `run.json`, or None if there is no run (or a copy of one whose `run.json` has yet to arrive).

        The content of a damaged one is taken from the manifests if they agree, with a WARN.
        """
        if self._run is None:
            try:
                self._run = JsonFile(self._storage, RUN_FILE, MAX_RECORD_BYTES).read(parse_run_file)
            except FileNotFoundError:
                return None
            except CorruptCheckpointError as error:
                self._run = self._restored_run_file(error)
        return self._run

    def _restored_run_file(self, damage: CorruptCheckpointError) -> RunFile:
        found = {}
        for name in self.names():
            with suppress(CorruptCheckpointError, NoCheckpointError):
                manifest = self.manifest(name)
                found[manifest.run_id, manifest.config.get("data_seed")] = name, manifest.created
        for (run_id, data_seed), (name, created) in found.items():
            if len(found) == 1 and isinstance(data_seed, int):
                warn(f"{damage.message}: its content is in the manifests too, and is taken from {name}")
                return RunFile(run_id=run_id, data_seed=data_seed, created=created)
        raise damage

    def names(self) -> list[CheckpointName]:
        """List every checkpoint folder, committed or not, newest first."""
        return self._sorted(entry.name for entry in self._storage.list(CHECKPOINTS) if entry.is_dir)

    def listing(self) -> Listing:
        """Do as `names`, and list the files in all of them where that takes no further request."""
        below = self._storage.list_below(CHECKPOINTS)
        if below is None:
            return Listing(self.names())
        names = self._sorted(below)
        return Listing(names, {name: below[str(name)] for name in names})

    def _sorted(self, folders: Iterable[str]) -> list[CheckpointName]:
        found = map(CheckpointName.parse, folders)
        names = sorted((name for name in found if name), key=lambda name: name.order, reverse=True)
        for gone in self._manifests.keys() - set(names):  # or a long run would keep the manifest of every save
            self._forget(gone)
        return names

    def pinned(self) -> set[CheckpointName]:
        """List the checkpoints that are never pruned."""
        return pinned(self._storage)

    def manifest(self, name: CheckpointName) -> Manifest:
        """Return the manifest of a checkpoint.

        Raises:
            NoCheckpointError: There is none: never committed, or pruned.
            CorruptCheckpointError: It is damaged.
            FormatVersionError: A newer version of the format wrote it.
            StorageError: The storage failed; the checkpoint may be valid.
        """
        if name not in self._manifests:
            try:
                file = JsonFile(self._storage, checkpoint_path(name, MANIFEST), MAX_MANIFEST_BYTES)
                self._manifests[name] = file.read(parse_manifest)
            except FileNotFoundError as error:
                raise NoCheckpointError(f"{name}: {UNFINISHED}") from error
        return self._manifests[name]

    def check(
        self, manifest: Manifest, name: CheckpointName, *, folders: Mapping[str, FileSizes] | None = None
    ) -> None:
        """Make the cheap checks: the right run, the right folder, every blob present with its size.

        `folders` are those that were listed before, by their paths; all others are listed now.

        Raises:
            CorruptCheckpointError: One of them failed.
            NoCheckpointError: The checkpoint was pruned meanwhile.
        """
        run = self.run_file()
        if run is not None and manifest.run_id != run.run_id:
            raise CorruptCheckpointError(f"{MANIFEST}: of run {manifest.run_id}, expected {run.run_id}")
        if manifest.name != name:
            raise CorruptCheckpointError(f"{MANIFEST}: of {manifest.name}, found in {name}")
        own = checkpoint_path(name)
        listed = dict(folders or {})
        if own not in listed:
            listed[own] = self._sizes(own)
        if MANIFEST not in listed[own]:
            self._forget(name)
            raise NoCheckpointError(f"{name}: was pruned meanwhile")
        for file_name, record in manifest.blobs.items():
            folder, _, base = record.path.rpartition("/")
            if folder not in listed:
                listed[folder] = self._sizes(folder)
            self.reader(manifest, file_name).check_size(listed[folder].get(base))

    def _sizes(self, folder: str) -> FileSizes:
        """Return the sizes of all the files of a folder, by one request."""
        return sizes_of(self._storage.list(folder))

    def reader(self, manifest: Manifest, blob: str) -> BlobReader:
        """Return the reader of one blob, which raises as `check`. Reads nothing yet."""
        return BlobReader(
            self._storage,
            blob,
            manifest.blobs[blob],
            refuse_pruned=lambda: self._refuse_pruned(manifest.name),
            in_ranges=not (is_earlier(manifest.format_version) or is_state_name(blob)),
            kept=self._images.of(manifest.name, blob) if self._images else None,
        )

    def earlier_objects(self, manifest: Manifest) -> EarlierObjects:
        """Read the tensor records in a manifest of version 1 or 2, which are not kept. Raises as `manifest`."""
        file = JsonFile(self._storage, checkpoint_path(manifest.name, MANIFEST), MAX_MANIFEST_BYTES)
        try:
            return file.read(parse_earlier_objects)
        except FileNotFoundError as error:
            raise NoCheckpointError(f"{manifest.name}: was pruned meanwhile") from error

    def keep(self, name: CheckpointName, sizes: Mapping[str, int]) -> None:
        """Keep blobs of these sizes of one checkpoint in memory once they are verified, if there are `images`."""
        if self._images is not None:
            self._images.begin(name, sizes)

    def read_blob(self, manifest: Manifest, blob: str) -> bytearray:
        """Read a whole blob, and verify it in the same pass. Raises as `check`."""
        return self.reader(manifest, blob).image()

    def add(self, name: CheckpointName, manifest: Manifest) -> None:
        """Add a manifest that this program has just published, so that it need not be read."""
        self._manifests[name] = manifest
        self._checked.add(name)

    def refreshed(self) -> Catalog:
        """Return a catalog that lists and checks everything again, and keeps only the content of manifests."""
        fresh = Catalog(self._storage, self._images)
        fresh._manifests.update(self._manifests)
        return fresh

    def history(self, reject: Reject = ignore, *, listing: Listing | None = None) -> list[Listed]:
        """Return the whole `line`."""
        listing = listing or self.listing()
        self._check_ahead(listing)
        return list(self.line(reject, listing=listing))

    def _check_ahead(self, listing: Listing) -> None:
        """Check many checkpoints at once for `line`, if the storage serves several requests at once."""
        unchecked = [name for name in listing.names if name not in self._checked]
        if self._storage.parallel == 1 or len(unchecked) < 2:
            return
        folders = {checkpoint_path(name): sizes_of(entries) for name, entries in listing.files.items()}
        with suppress(CheckpointError, StorageError):
            self.run_file()  # once, and not in each lane
        in_lanes(lambda name: self._try_check(name, folders), unchecked, self._storage.parallel)

    def _try_check(self, name: CheckpointName, folders: Mapping[str, FileSizes]) -> None:
        # A long listing is not of one instant. So whatever is wrong is met again by `line`, which lists each folder.
        with suppress(CheckpointError, StorageError):
            self._valid(name, folders)

    def line(
        self,
        reject: Reject = ignore,
        *,
        wanted: Callable[[CheckpointName], bool] = anything,
        listing: Listing | None = None,
    ) -> Iterator[Listed]:
        """Return the checkpoints on the line to the newest valid one, newest first, after the cheap checks.

        The line holds the checkpoints of the highest attempt that has a valid one. Of each attempt before, it holds
        those up to the one from which the next attempt resumed. `reject(name, reason)` is called for each checkpoint
        that is skipped before the newest valid one. The newest is found at once, the others on demand. Behind the
        newest only those are read whose name is `wanted`. `listing` is one that was just made.

        Raises:
            FormatVersionError: A newer version of the format wrote one: there is no silent step back behind it.
            StorageError: The storage failed, or the listing does not come to rest.
        """
        names = self.names() if listing is None else listing.names
        before: list[CheckpointName] | None = None
        for _ in range(LISTING_ATTEMPTS):
            rejected: list[tuple[str, str]] = []
            missing: list[CheckpointName] = []
            line = self._walk(names, rejected, missing, wanted)
            head = list(islice(line, 1))
            # A folder without a manifest that is newer than all we found: unfinished, or pruned? A writer may have
            # committed it meanwhile and pruned the next one. So a listing counts only if it is the same twice.
            again = self.names() if missing else list(names)
            if not missing or (again == names and missing == before):
                break
            names, before = again, missing if again == names else None
        else:
            raise StorageError(
                "the checkpoints of this run change faster than they can be listed",
                "try again; if that does not help, save less often, or keep more checkpoints (keep.last)",
            )
        for name, reason in rejected:
            reject(name, reason)
        return chain(head, line)

    def _walk(
        self,
        names: Sequence[CheckpointName],
        rejected: list[tuple[str, str]],
        missing: list[CheckpointName],
        wanted: Callable[[CheckpointName], bool],
    ) -> Iterator[Listed]:
        newest_place: dict[int, tuple[int, int]] | None = None  # by attempt; newer ones are off the line
        for name in names:
            if newest_place is not None and (not _is_within(name, newest_place) or not wanted(name)):
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

    def _valid(self, name: CheckpointName, folders: Mapping[str, FileSizes] | None = None) -> Manifest:
        manifest = self.manifest(name)
        if name not in self._checked:
            self.check(manifest, name, folders=folders)
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


def _is_within(name: CheckpointName, newest_places: Mapping[int, tuple[int, int]]) -> bool:
    return name.place <= newest_places.get(name.attempt, (-1, -1))


def _newest_places(head: Manifest) -> dict[int, tuple[int, int]]:
    """Return, for each attempt on the lineage of `head`, the (step, epoch) of its last checkpoint on the line."""
    places = {head.attempt: (head.step, head.epoch)}
    for _, resumed_from in head.lineage:
        parent = CheckpointName.parse(resumed_from) if resumed_from is not None else None
        if parent:
            places[parent.attempt] = parent.place
    return places
