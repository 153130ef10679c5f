"""The table: every experiment on every writer, counted; knows how to print it and nothing of how faults are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.damage import KINDS
from tests.faults.experiments import FREE_KIB, Victim, calls_of, crowd, cut, record, shorten
from tests.faults.forks import Forks
from tests.faults.subjects import PEERS, RESUMABLE, Subject
from tests.faults.syscalls import FAULTS, KILL, OPEN_AGAIN, OPEN_NEW, SAVE, START, Bench, Phase
from tests.faults.verdicts import Verdict

FLIPS = 64
WORST_FIRST = (Verdict.WRONG, Verdict.NONE, Verdict.LOST, Verdict.RIGHT)
BAD = (Verdict.NONE, Verdict.WRONG, Verdict.LOST)

Verdicts = Iterable[Verdict]


@dataclass(frozen=True)
class Tally:
    """How many faults of one kind one writer suffered, and what they left."""

    counts: Counter[Verdict]

    @property
    def injected(self) -> int:
        return self.counts.total()

    @property
    def bad(self) -> tuple[int, ...]:
        return tuple(self.counts[verdict] for verdict in BAD)

    def __str__(self) -> str:
        return f"{self.injected}: {' / '.join(map(str, self.bad))}" if self.injected else "-"


Rows = dict[str, Tally]


def measure(forks: Forks, subject: Subject, folder: Path) -> Iterator[tuple[str, Tally]]:
    """One column, row by row."""
    for name, verdicts in experiments(forks, subject, folder / subject.name):
        yield name, Tally(Counter(verdicts()))
    yield from _damage(forks, subject, folder / subject.name)


def markdown(columns: dict[str, Rows]) -> str:
    """The table as it stands in the README."""
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    lines = [f"| injected: none / wrong / lost | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = (str(rows.get(name, Tally(Counter()))) for rows in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    totals = (str(Tally(sum((tally.counts for tally in rows.values()), Counter()))) for rows in columns.values())
    return "\n".join([*lines, f"| **all** | {' | '.join(totals)} |"])


def experiments(forks: Forks, subject: Subject, folder: Path) -> Iterator[tuple[str, Callable[[], Verdicts]]]:
    """Yield the name of each row but those of damage, and what carries it out."""
    folder.mkdir(parents=True)
    parts: dict[str, tuple[Phase, ...]] = {"a save": (SAVE,)}
    if subject is RESUMABLE:
        parts["a start"] = (OPEN_NEW, START, OPEN_AGAIN)
    for part, phases in parts.items():
        for fault in FAULTS:
            name = "killed" if fault == KILL else fault
            yield f"{name} at a system call of {part}", partial(_sweep, forks, subject, phases, folder, fault)
    yield "a write of a save falls short", partial(_short_writes, forks, subject, folder)
    yield "power cut during a save", partial(_power_cuts, forks, subject, folder, safe_step=1)
    if subject is RESUMABLE:
        yield "power cut during a start", partial(_power_cuts, forks, subject, folder, safe_step=None)
    yield "power cut after an fsync that failed", partial(_failed_syncs, forks, subject, folder)
    yield "disk filled by others before a save", partial(_full_disks, forks, subject, folder)


def _sweep(forks: Forks, subject: Subject, phases: Iterable[Phase], folder: Path, fault: str) -> Iterator[Verdict]:
    for phase in phases:
        bench = Bench(forks, subject, phase, folder / f"{fault} {phase.name}")
        for injection in bench.sweep([fault]):
            yield min(injection.verdicts, key=WORST_FIRST.index)


def _short_writes(forks: Forks, subject: Subject, folder: Path) -> Iterator[Verdict]:
    numbers = _calls_of_the_last_save(forks, subject, folder, "write")
    for _, verdict in shorten(forks, subject, folder / "recorded", numbers):
        yield verdict


def _power_cuts(forks: Forks, subject: Subject, folder: Path, *, safe_step: int | None) -> Iterator[Verdict]:
    recording = record(forks, subject, folder / "recorded", until=1 if safe_step is None else 2)
    for _, verdict in cut(subject, recording, folder / "state", safe_step=safe_step):
        yield verdict


def _failed_syncs(forks: Forks, subject: Subject, folder: Path) -> Iterator[Verdict]:
    for operation in ("fsync", "fsyncdir"):
        for number in _calls_of_the_last_save(forks, subject, folder, operation):
            recording = record(forks, subject, folder / "recorded", fault=f"EIO:{operation}:{number}")
            [failed] = [at for at, mutation in enumerate(recording.mutations) if mutation.failed]
            for _, verdict in cut(subject, recording, folder / "state", safe_step=1, since=failed):
                yield verdict


def _calls_of_the_last_save(forks: Forks, subject: Subject, folder: Path, operation: str) -> range:
    """Of a run to step 2, by number; what an earlier save suffered is pruned by then."""
    whole, before = (calls_of(record(forks, subject, folder / "recorded", until=until), operation) for until in (2, 1))
    return range(before.stop, whole.stop)


def _full_disks(forks: Forks, subject: Subject, folder: Path) -> Iterator[Verdict]:
    for _, verdict in crowd(forks, subject, folder, FREE_KIB):
        yield verdict


def _damage(forks: Forks, subject: Subject, folder: Path) -> Iterator[tuple[str, Tally]]:
    victim = Victim.make(forks, subject, folder / "victim")
    counts: dict[str, Counter[Verdict]] = {kind: Counter() for kind in KINDS}
    for damage, verdict in victim.suffer(folder / "state", flips=FLIPS):
        counts[damage.kind][verdict] += 1
    yield from ((kind, Tally(counted)) for kind, counted in counts.items())


def all_columns(forks: Forks, folder: Path, show: Callable[[str], None]) -> dict[str, Rows]:
    """Everyone's column; each row is told to `show` as it is measured."""
    columns: dict[str, Rows] = {}
    for subject in PEERS:
        rows = columns.setdefault(subject.name, {})
        for name, tally in measure(forks, subject, folder):
            rows[name] = tally
            show(f"{subject.name}: {name}: {tally}")
    return columns
