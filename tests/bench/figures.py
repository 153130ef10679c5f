"""What a figure is and what measuring it gives; knows none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.contestants import CONTESTANTS, Contestant
from tests.bench.ours import NotThereYet
from tests.bench.states import Training


@dataclass(frozen=True)
class Setting:
    """With what a figure is measured."""

    size: str
    pairs: int
    folder: Path  # empty, and of this figure alone


@dataclass
class Measured:
    """Samples by who and what, in the order in which they were taken; who could not be measured, and why."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    state_bytes: int = 0

    def add(self, who: str, **values: float) -> None:
        """One sample of each; the unit is the end of the name: seconds, bytes, states (times the state), count."""
        for what, value in values.items():
            self.samples.setdefault(who, {}).setdefault(what, []).append(float(value))

    def drop(self, who: str, reason: str) -> None:
        """From now on `who` is not there, and its samples are not either."""
        self.samples.pop(who, None)
        self.absent[who] = reason

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Figure:
    """One thing to measure, in a process of its own."""

    name: str
    says: str
    measure: Callable[[Setting], Measured]
    sizes: tuple[str, ...] | None = None  # None: any
    once: bool = False  # the size changes nothing, so the last that was chosen stands for all

    def fits(self, size: str, chosen: Sequence[str]) -> bool:
        """Whether this is measured with a size, of those that were chosen."""
        return (self.sizes is None or size in self.sizes) and (not self.once or size == chosen[-1])


def taken(measure: Callable[[Setting], Measured], setting: Setting) -> dict[str, Any]:
    """What is measured, as plain values: they go from process to process, and into JSON."""
    try:
        return measure(setting).tree()
    except NotThereYet as error:
        return Measured().tree() | {"failed": reason_of(error)}


def reason_of(error: BaseException) -> str:
    """In one line; what does not exist yet says so."""
    text = " ".join(str(error).split())[:200]
    return f"not there yet: {text}" if isinstance(error, NotThereYet) else f"{type(error).__name__}: {text}"


@contextmanager
def entered(
    names: Iterable[str], training: Training, setting: Setting, measured: Measured
) -> Iterator[dict[str, Contestant]]:
    """Those of the contestants that can be had; the others are noted as absent."""
    present: dict[str, Contestant] = {}
    try:
        for name in names:
            try:
                present[name] = CONTESTANTS[name](training, setting.folder / name.replace(" ", "-").replace(".", "-"))
            except Exception as error:
                measured.drop(name, reason_of(error))
        yield present
    finally:
        for contestant in present.values():
            contestant.close()


def leave(name: str, present: dict[str, Contestant], measured: Measured, error: BaseException) -> None:
    """A contestant failed in the middle: it is reported and the others go on."""
    measured.drop(name, reason_of(error))
    present.pop(name, None)
