"""Every state in which a power cut may leave a folder, from the changes that were made to it; touches no disk.

What is modelled is what POSIX allows, which is more than any one file system does:

- A file's data and length are safe from its fsync on. What was written later is there, or not, or as zeros, or in
  part: the first or the last half of its sectors, every other one, the first write only, all but the last; a
  truncation may be there without the data that was written after it.
- A name (made, linked, renamed, removed; of a file or a folder) is safe from the fsync of its folder on. Of later
  changes of names any subset is there: all of them in the order of a journal, one lost, one alone, and, of up to five,
  each combination. A rename is there or not, never half. A folder whose own name is lost is gone with all in it.
- Files and names do not know of each other: a rename may be there before the data of what was renamed.
- Different files fare alike, or one otherwise than all others.
- A file whose fsync failed has lost what that was to make safe, and a later fsync does not bring it back.

Not modelled: a disk that forgets what it confirmed, and damage to what was safe (`damage.py` has that).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.faults.recording import Mutation

SECTOR_BYTES = 512
MAX_COMBINED = 5

SURVIVALS = (
    *("all", "none", "lengths", "truncations", "first half", "last half", "every other sector"),
    *("first write", "all but the last write"),
)


@dataclass(frozen=True)
class State:
    """What is found after a cut. `cut`: how many changes were made before it; `how`: which of them survived."""

    files: dict[str, bytes]
    folders: frozenset[str]
    acknowledged: int | None
    cut: int
    how: str

    def make(self, folder: Path) -> None:
        """Write it into an empty folder."""
        for name in sorted(self.folders):
            (folder / name).mkdir()
        for name, data in self.files.items():
            (folder / name).write_bytes(data)

    def digest(self) -> bytes:
        seen = hashlib.blake2b(repr((sorted(self.folders), self.acknowledged)).encode())
        for name, data in sorted(self.files.items()):
            seen.update(repr((name, hashlib.blake2b(data).digest())).encode())
        return seen.digest()


def states(mutations: Sequence[Mutation], *, place: str, safe_until: int = 0) -> Iterator[State]:
    """The distinct states that a cut after each of `mutations` may leave in `place`/run, in order.

    `place`/told/STEP is where the writer says what is safe; that is believed at once. What the first `safe_until`
    changes did is safe whatever they were, and no cut comes before.
    """
    disk, acknowledged, seen = _Disk(), None, set()
    for cut in range(len(mutations) + 1):
        if cut == safe_until:
            disk.settle()
        for names, files, how in disk.outcomes() if cut >= safe_until else ():
            state = _state(names, files, f"{place}/run", acknowledged, cut, how)
            if state.digest() not in seen:
                seen.add(state.digest())
                yield state
        if cut < len(mutations):
            mutation = mutations[cut]
            path = PurePosixPath(mutation.path)
            if path.is_relative_to(f"{place}/told"):
                acknowledged = int(path.name) if path.name.isdigit() else acknowledged
            else:
                disk.apply(mutation)


def safe_from(mutations: Sequence[Mutation], *, place: str, step: int) -> int:
    """How many changes had been made when `step` was called safe."""
    told = (number for number, m in enumerate(mutations, 1) if m.path == f"{place}/told/{step}")
    return next(told)


def _state(
    names: dict[str, int], files: dict[int, bytes], root: str, acknowledged: int | None, cut: int, how: str
) -> State:
    inside = {path.removeprefix(f"{root}/"): node for path, node in names.items() if path.startswith(f"{root}/")}
    found = {path: files[node] for path, node in inside.items() if node in files}
    folders = frozenset(path for path, node in inside.items() if node not in files)
    return State(found, folders, acknowledged, cut, how)


# -- the disk ---------------------------------------------------------------------------------------------------------

Names = dict[int, dict[str, int]]  # folder -> name -> node
Outcome = tuple[dict[str, int], dict[int, bytes], str]  # names by path, contents by node, in words


@dataclass
class _File:
    safe: bytes = b""
    pending: list[Mutation] = field(default_factory=list)

    def survives(self, how: str) -> bytes:
        """The content, if of what is pending only `how` was written."""
        writes = [change for change in self.pending if change.operation == "write"]
        kept = {
            "none": [],
            "truncations": [change for change in self.pending if change.operation == "truncate"],
            "first write": self.pending[: self.pending.index(writes[0]) + 1] if writes else self.pending,
            "all but the last write": [change for change in self.pending if not writes or change is not writes[-1]],
        }.get(how, self.pending)
        whole = _changed(self.safe, kept)
        if how == "lengths" or how in _KEEP:
            blank = [Mutation(c.operation, c.path, offset=c.offset, data=bytes(len(c.data))) for c in self.pending]
            zeroed = _changed(self.safe, blank)
            return zeroed if how == "lengths" else _mixed(zeroed, whole, _sectors(writes), how)
        return whole


_KEEP = {
    "first half": lambda sectors: sectors[: (len(sectors) + 1) // 2],
    "last half": lambda sectors: sectors[len(sectors) // 2 :],
    "every other sector": lambda sectors: sectors[::2],
}


def _changed(content: bytes, changes: Sequence[Mutation]) -> bytes:
    result = bytearray(content)
    for change in changes:
        end = change.offset + len(change.data)
        result.extend(bytes(max(0, end - len(result))))
        if change.operation == "truncate":
            del result[end:]
        else:
            result[change.offset : end] = change.data
    return bytes(result)


def _sectors(writes: Sequence[Mutation]) -> list[int]:
    touched: set[int] = set()
    for write in writes:
        touched.update(range(write.offset // SECTOR_BYTES, (write.offset + len(write.data) - 1) // SECTOR_BYTES + 1))
    return sorted(touched)


def _mixed(zeroed: bytes, whole: bytes, sectors: Sequence[int], how: str) -> bytes:
    result = bytearray(zeroed)
    kept = _KEEP[how](sectors)
    for sector in kept:
        part = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
        result[part] = whole[part]
    # The first half of a file that grew is one that stopped growing.
    return bytes(result[: (kept[-1] + 1) * SECTOR_BYTES]) if how == "first half" and kept else bytes(result)


@dataclass(frozen=True)
class _Entry:
    """One entry of a folder: there from a change of names on, or gone."""

    folder: int
    name: str
    node: int
    there: bool

    def apply(self, names: Names) -> None:
        entries = names[self.folder]
        if self.there:
            entries[self.name] = self.node
        elif entries.get(self.name) == self.node:
            del entries[self.name]


@dataclass
class _Renaming:
    """One change of names, in the words of its entries; pending while a folder of these has not been synced."""

    entries: tuple[_Entry, ...]
    unsynced: set[int]


class _Disk:
    """Files and folders as nodes, so that a rename or a link carries the data; what is safe, and what is pending."""

    def __init__(self) -> None:
        self._now: Names = {0: {}}
        self._safe: Names = {0: {}}
        self._files: dict[int, _File] = {}
        self._renamings: list[_Renaming] = []
        self._nodes = itertools.count(1)

    def settle(self) -> None:
        """Make everything safe."""
        for file in self._files.values():
            file.safe, file.pending = file.survives("all"), []
        self._safe = {folder: dict(entries) for folder, entries in self._now.items()}
        self._renamings = []

    def apply(self, change: Mutation) -> None:
        if not change.failed:
            getattr(self, f"_{change.operation}")(change)
        elif change.operation == "fsync":
            self._files[self._find(change.path)].pending = []

    def outcomes(self) -> Iterator[Outcome]:
        """What a cut now may leave."""
        for chosen in _choices(len(self._renamings)):
            names = {folder: dict(entries) for folder, entries in self._safe.items()}
            for number in chosen:
                for entry in self._renamings[number].entries:
                    entry.apply(names)
            paths = dict(self._walk(names, 0, ""))
            for files, how in self._contents(set(paths.values())):
                yield paths, files, f"names {list(chosen)} of {len(self._renamings)}, data {how}"

    def _contents(self, reachable: set[int]) -> Iterator[tuple[dict[int, bytes], str]]:
        files = {node: file for node, file in self._files.items() if node in reachable}
        torn = [node for node, file in files.items() if file.pending]
        for how in SURVIVALS if torn else SURVIVALS[:1]:
            yield {node: file.survives(how) for node, file in files.items()}, how
        if len(torn) > 1:
            for one, (others, how) in itertools.product(torn, itertools.product(("all", "none"), SURVIVALS)):
                mixed = {node: file.survives(how if node == one else others) for node, file in files.items()}
                yield mixed, f"{others}, but {how} of file {one}"

    def _walk(self, names: Names, folder: int, path: str) -> Iterator[tuple[str, int]]:
        for name, node in names[folder].items():
            yield f"{path}/{name}", node
            if node in names:
                yield from self._walk(names, node, f"{path}/{name}")

    def _place(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder), name

    def _find(self, path: str) -> int:
        node = 0
        for name in path.split("/")[1:] if path not in ("", "/") else ():
            node = self._now[node][name]
        return node

    def _rename_entries(self, *entries: _Entry) -> None:
        for entry in entries:
            entry.apply(self._now)
        self._renamings.append(_Renaming(entries, {entry.folder for entry in entries}))

    # -- one method for each operation

    def _create(self, change: Mutation) -> None:
        node = next(self._nodes)
        self._files[node] = _File()
        self._rename_entries(_Entry(*self._place(change.path), node, True))

    def _mkdir(self, change: Mutation) -> None:
        node = next(self._nodes)
        self._now[node], self._safe[node] = {}, {}
        self._rename_entries(_Entry(*self._place(change.path), node, True))

    def _link(self, change: Mutation) -> None:
        self._rename_entries(_Entry(*self._place(change.other), self._find(change.path), True))

    def _rename(self, change: Mutation) -> None:
        node = self._find(change.path)
        old, new = self._place(change.path), self._place(change.other)
        self._rename_entries(_Entry(*old, node, False), _Entry(*new, node, True))

    def _unlink(self, change: Mutation) -> None:
        self._rename_entries(_Entry(*self._place(change.path), self._find(change.path), False))

    _rmdir = _unlink

    def _write(self, change: Mutation) -> None:
        self._files[self._find(change.path)].pending.append(change)

    _truncate = _write

    def _fsync(self, change: Mutation) -> None:
        file = self._files[self._find(change.path)]
        file.safe, file.pending = file.survives("all"), []

    def _fsyncdir(self, change: Mutation) -> None:
        folder = self._find(change.path)
        for renaming in self._renamings:
            renaming.unsynced.discard(folder)
            if not renaming.unsynced:
                for entry in renaming.entries:
                    entry.apply(self._safe)
        self._renamings = [renaming for renaming in self._renamings if renaming.unsynced]


def _choices(count: int) -> Iterator[tuple[int, ...]]:
    """Which of so many pending changes of names survive."""
    everything = range(count)
    if count <= MAX_COMBINED:
        for size in range(count + 1):
            yield from itertools.combinations(everything, size)
        return
    for length in range(count + 1):
        yield tuple(everything[:length])
        yield tuple(everything[length:])
    for one in everything:
        yield (one,)
        yield tuple(number for number in everything if number != one)
