"""One fault, done to one writer in every way, and the verdicts: what the tests assert and the table counts.

Knows how each kind of fault is brought about; the faults themselves are in the modules that it puts together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.faults.damage import Damage, Tree, damages, read_tree
from tests.faults.forks import Forks, Place
from tests.faults.powercut import State, safe_from, states
from tests.faults.recording import Mutation, Recorder
from tests.faults.subjects import RESUMABLE, Deaf, Subject
from tests.faults.verdicts import Verdict, judge

FREE_KIB = range(0, 48, 4)
DISK_BYTES = 2**20


def lacking(*programs: str) -> str | None:
    """What of the programs this machine does not have, or does not let us use; None if nothing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        return ", ".join(missing)
    if "fusermount3" in programs and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse"
    if "fusermount3" in programs and find_spec("mfusepy") is None:
        return "mfusepy"
    return "root, to mount a small disk" if "mount" in programs and os.geteuid() != 0 else None


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder


def verdict_on(subject: Subject, run: Path, acknowledged: int | None) -> Verdict:
    return judge(lambda: subject.load(run), acknowledged=acknowledged)


def goes_on(run: Path, subject: Subject = RESUMABLE) -> bool:
    """Whether resumable, launched again on what a fault left, trains one more step and loads that then."""
    found = subject.load(run)
    step = found.step + 1 if found else 1
    subject.train(run, step, Deaf(), **subject.options)
    return verdict_on(subject, run, step) is Verdict.RIGHT


def litter(run: Path) -> list[str]:
    """What no reader counts and no later save has cleared: temporary files, checkpoints without a manifest."""
    temporary = [str(path) for path in run.rglob(".tmp-*")]
    return temporary + [str(path) for path in run.glob("checkpoints/*") if not (path / "manifest.json").exists()]


# -- power cuts and short writes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A whole run of a writer on the recording file system: its changes, its end, and what it left."""

    mutations: Sequence[Mutation]
    exit_code: int
    output: str
    place: Place


def record(
    forks: Forks,
    subject: Subject,
    folder: Path,
    *,
    until: int = 2,
    fault: str | None = None,
    again: int | None = None,
) -> Recording:
    """Let a writer train to step `until`, and then `again`, on a recording file system, with one `fault` of it."""
    with emptied(folder), Recorder(folder, fault) as recorder:
        place = Place.make(recorder.mount / "place")
        for goal in (until, *([again] if again else [])):
            child = forks.launch(subject, place, until=goal)
            exit_code = child.exit_code()
        mutations, output = recorder.mutations(), child.output()
    return Recording(mutations, exit_code, output, Place(recorder.root / "place"))


def cut(
    subject: Subject, recording: Recording, folder: Path, *, safe_step: int | None = None, since: int = 0
) -> Iterator[tuple[State, Verdict]]:
    """Every state that a power cut may leave, opened by the subject's own reader.

    What was saved up to `safe_step` is taken to be safe at first; only cuts after `since` changes are looked at.
    """
    start = 0 if safe_step is None else safe_from(recording.mutations, place="/place", step=safe_step)
    for state in states(recording.mutations, place="/place", safe_until=start):
        if state.cut < since:
            continue
        with emptied(folder) as run:
            state.make(run)
            yield state, verdict_on(subject, run, state.acknowledged)


def calls_of(recording: Recording, operation: str) -> range:
    """The numbers of an operation's calls, as faults of `recording` name them."""
    return range(1, 1 + sum(mutation.operation == operation for mutation in recording.mutations))


def shorten(
    forks: Forks, subject: Subject, folder: Path, numbers: Iterable[int]
) -> Iterator[tuple[Recording, Verdict]]:
    """Let each of the writes named take only half of what it was given, and say so."""
    for number in numbers:
        recording = record(forks, subject, folder, fault=f"short:write:{number}")
        yield recording, verdict_on(subject, recording.place.run, recording.place.acknowledged())


# -- damage -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Victim:
    """A run with three checkpoints, and another one with the same names, to be damaged over and over."""

    subject: Subject
    tree: Tree
    foreign: Tree

    @classmethod
    def make(cls, forks: Forks, subject: Subject, folder: Path) -> Victim:
        trees = []
        for family in (0, 1):
            place = Place.make(folder / f"family-{family}")
            options = {"keep": 3} if subject is RESUMABLE else {}
            forks.finish(subject, place, until=3, family=family, **options)
            trees.append(read_tree(place.run))
        return cls(subject, *trees)

    def suffer(self, folder: Path, *, flips: int) -> Iterator[tuple[Damage, Verdict]]:
        """Every damage, and what the reader makes of it.

        But for a run.json that is gone: a copy that is still arriving looks like that, and is refused on purpose.
        """
        for damage in damages(self.tree, self.foreign, self.subject.step_of, flips=flips):
            if damage.contents == {"run.json": None}:
                continue
            with emptied(folder) as run:
                damage.make(self.tree, run)
                yield damage, verdict_on(self.subject, run, damage.whole)


# -- a full disk ------------------------------------------------------------------------------------------------------


class Disk:
    """A small disk of its own, which others fill and free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "of somebody else"

    def fill(self, *, free_bytes: int = 0) -> None:
        """Take all space but `free_bytes`."""
        found = os.statvfs(self.folder)
        with self._filler.open("ab") as file:
            taken = file.tell() + max(0, found.f_bavail * found.f_bsize - free_bytes)
            os.posix_fallocate(file.fileno(), 0, max(1, taken))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[Disk]:
    """A disk of `size_bytes`, mounted in a new folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def crowd(forks: Forks, subject: Subject, folder: Path, frees_kib: Iterable[int]) -> Iterator[tuple[int, Verdict]]:
    """Fill the disk before the second save, up to so many KiB, and let the writer end as it likes."""
    for free_kib in frees_kib:
        with small_disk(folder / f"free-{free_kib}") as disk:
            place = Place.make(disk.folder / "place")
            child = forks.launch(subject, place, until=3, stops=["save 2"])
            assert child.stopped_at() == "save 2", child.output()
            disk.fill(free_bytes=free_kib * 1024)
            child.go_on()
            child.exit_code()
            disk.free()  # the reader's own writes are another matter
            yield free_kib, verdict_on(subject, place.run, place.acknowledged())
