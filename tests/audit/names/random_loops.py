"""Random training loops, killed at every boundary and resumed with nothing but what the analysis names written back.

The truth comes from no analysis: each program is run whole, and again from each of its boundaries. What it emits from
there on must be the same. `python -m tests.audit.names.random_loops SEED LOOPS` runs that many, and prints the first
program that differs.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from resumable.audit.names.byte_code.liveness import Crossing, crossing_names
from resumable.audit.names.frame_variables import read, write
from resumable.audit.names.user_frames import is_flat

NAMES = "abcdefg"


class Key(NamedTuple):
    """A boundary: the epoch, and the batch of it that is requested, or None for the epoch itself."""

    epoch: int
    batch: int | None


class Kept(NamedTuple):
    """What is kept at a boundary: the names, the values of those that are bound, and how much was emitted before."""

    names: frozenset[str]
    values: dict[str, object]
    emitted: int


class Program:
    """The source of one program. A third has closures; of these some bind, by `nonlocal` or `global`. Some are flat."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.flat = self.r.random() < 0.3
        self.lines: list[str] = []
        self.cells = self.r.random() < 0.4
        self.binds = self.cells and self.r.random() < 0.5
        self.line(0, "def main(W, emit, risky, ctx):")
        for name in NAMES:
            if self.r.random() < 0.98:
                self.line(1, f"{name} = {self.r.randrange(50)}")
        if self.cells:
            self.line(1, f"def clo(): return {self.r.choice(NAMES)} + 1")
        if self.binds:
            self._binding_function()
        self._loops()
        for name in NAMES:
            if self.r.random() < 0.4:
                self.line(1, f"emit({name})")
        lines = [each[4:] for each in self.lines[1:]] if self.flat else self.lines
        self.source = "\n".join(lines)

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _binding_function(self) -> None:
        bound, other = self.r.sample(NAMES, 2)
        if not self.flat and not any(each.strip().startswith(f"{bound} =") for each in self.lines):
            self.lines.insert(1, f"    {bound} = 1")
        self.line(1, "def mut():")
        self.line(2, ("global " if self.flat else "nonlocal ") + bound)
        self.line(2, f"{bound} = ({bound} + {other} * 3) % 97")

    def _loops(self) -> None:
        if self.r.random() < 0.5:
            self._batches(1)
            return
        self.line(1, "for ep in W.epochs(3):")
        self.block(2, self.r.randrange(3), 0)
        self._batches(2)
        self.block(2, self.r.randrange(3), 0)
        self.line(2, "ep")

    def _batches(self, depth: int) -> None:
        loops = (
            "for i in W.batches(4):",
            "for k, i in zip(range(100), W.batches(4)):",
            "for i in map(int, W.batches(4)):",
        )
        self.line(depth, self.r.choice((loops[0], *loops)))
        self.block(depth + 1, self.r.randrange(2, 7), 0, in_loop=True)

    def expression(self) -> str:
        r, v = self.r, self.r.choice
        return v(
            (
                f"({v(NAMES)} * 3 + {r.randrange(9)}) % 97",
                f"({v(NAMES)} + {r.randrange(9)} * {v(NAMES)}) % 83",
                "W.pos * 7 % 11",
                f"sum([{v('qab')} + {v(NAMES)} for {v('qab')} in range(3) if True]) % 97",
                f"({v(NAMES)} if W.pos % 2 else {r.randrange(9)})",
                "clo()" if self.cells else f"abs({v(NAMES)} - 20)",
                f"(lambda z: z + {v(NAMES)})(1)",
                f"({v(NAMES)} + {v(NAMES)}) % 89",
            )
        )

    def comprehension(self) -> str:
        own = self.r.choice("qabc")
        inner = f"{own} + {self.r.choice(NAMES)}"
        if self.r.random() < 0.2:
            inner = f"sum([{self.r.choice('qd')} for {self.r.choice('qd')} in range({own} + 1)] + [{inner}])"
        return f"sum([{inner} for {own} in range({self.r.randrange(1, 4)})]) % 97"

    def block(self, depth: int, statements: int, deep: int, *, in_loop: bool = False) -> None:
        for _ in range(max(1, statements)):
            if self.binds and self.r.random() < 0.15:
                self.line(depth, "mut()")
            kind = self.r.randrange(16)
            if kind < 11:
                self._simple(depth, kind, in_loop)
            elif deep < 2:
                self._nested(depth, kind, deep, in_loop)

    def _simple(self, depth: int, kind: int, in_loop: bool) -> None:
        r, name = self.r, self.r.choice(NAMES)
        if kind < 4:
            self.line(depth, f"{name} = {self.expression() if r.random() < 0.8 else self.comprehension()}")
        elif kind == 4:
            self.line(depth, f"{name} += {self.expression()}")
        elif kind == 5:
            self.line(depth, f"emit({name})")
        elif kind == 6:
            self.line(depth, f"emit({self.comprehension()})")
        elif kind == 7:
            self.line(depth, f"{name}, {r.choice(NAMES)} = {self.expression()}, {self.expression()}")
        elif kind == 8:
            self.line(depth, f"if ({name} := {self.expression()}) % 2: emit({r.choice(NAMES)})")
        elif kind == 9 and r.random() < 0.06:
            self.line(depth, f"del {name}")
        elif kind == 10 and in_loop and r.random() < 0.4:
            self.line(depth, f"if {self.expression()} % 5 == 0: {r.choice(('continue', 'continue', 'break'))}")

    def _nested(self, depth: int, kind: int, deep: int, in_loop: bool) -> None:
        r, name = self.r, self.r.choice(NAMES)
        if kind == 11:
            self.line(depth, f"if {self.expression()} % 2:")
            self.block(depth + 1, r.randrange(3), deep + 1, in_loop=in_loop)
            if r.random() < 0.6:
                self.line(depth, "else:")
                self.block(depth + 1, r.randrange(3), deep + 1, in_loop=in_loop)
        elif kind == 12:
            self.line(depth, "try:")
            self.block(depth + 1, r.randrange(2), deep + 1, in_loop=in_loop)
            self.line(depth + 1, f"{name} = risky({self.expression()})")
            self.line(depth, "except ValueError" + (f" as {name}" if r.random() < 0.2 else "") + ":")
            self.block(depth + 1, r.randrange(2), deep + 1, in_loop=in_loop)
            if r.random() < 0.3:
                self.line(depth, "finally:")
                self.block(depth + 1, 1, 2)
        elif kind == 13:
            self.line(depth, "with ctx():")
            self.block(depth + 1, r.randrange(3), deep + 1, in_loop=in_loop)
        elif kind == 14:
            self.line(depth, f"for {r.choice(NAMES + 'jj')} in range({r.randrange(1, 4)}):")
            self.block(depth + 1, r.randrange(3), deep + 1, in_loop=True)
        else:
            self.line(depth, f"match {self.expression()} % 3:")
            self.line(depth + 1, "case 0:")
            self.block(depth + 2, r.randrange(2), deep + 1, in_loop=in_loop)
            self.line(depth + 1, f"case {name}:")
            self.block(depth + 2, r.randrange(2), deep + 1, in_loop=in_loop)


class World:
    """A trainer: it keeps what is named at each boundary, or begins at one and writes back what was kept there."""

    def __init__(self, found: dict[object, Crossing], start: Key | None = None, kept: Kept | None = None) -> None:
        self.start, self.kept, self.found = start, kept, found
        self.log: list[str] = []
        self.boundaries: dict[Key, Kept] = {}
        self.mark: int | None = None  # how much was emitted before the boundary that it begins at
        self.exact = True  # whether nothing had to become unbound
        self.pos = self.epoch = 0
        self._outermost: int | None = None

    def epochs(self, n: int) -> Iterator[int]:
        for epoch in range(self.start.epoch if self.start else 0, n):
            frame = sys._getframe(1)
            self._outermost, self.epoch, self.pos = frame.f_lasti, epoch, 100 * epoch
            if self.start and epoch == self.start.epoch:
                self._write_back(frame)
                if self.start.batch is None:
                    self.mark = len(self.log)
            self._keep(frame, Key(epoch, None))
            del frame
            yield epoch

    def batches(self, n: int) -> Iterator[int]:
        begins_here = self.start is not None and self.start.epoch == self.epoch
        for batch in range((self.start.batch or 0) if self.start and begins_here else 0, n):
            frame = sys._getframe(1)
            self.pos = 100 * self.epoch + batch + 1
            if self.start == (self.epoch, batch) and self.mark is None:
                self._write_back(frame)
                self.mark = len(self.log)
            self._keep(frame, Key(self.epoch, batch))
            del frame
            yield batch * 5 + self.epoch

    def _keep(self, frame: FrameType, key: Key) -> None:
        if self.start is None:
            place = frame.f_code, frame.f_lasti, self._outermost
            if place not in self.found:
                self.found[place] = crossing_names(
                    frame.f_code, frame.f_lasti, frame.f_globals, flat=is_flat(frame), outermost=self._outermost
                )
            crossing = self.found[place]
            names = frozenset(name.text for group in crossing[:3] for name in group)
            self.boundaries[key] = Kept(names, read(frame, names), len(self.log))

    def _write_back(self, frame: FrameType) -> None:
        assert self.kept is not None
        for name, value in self.kept.values.items():
            write(frame, name, value)
        absent = self.kept.names - self.kept.values.keys()
        self.exact &= not read(frame, absent)


def _risky(x: int) -> int:
    if x % 3 == 0:
        raise ValueError
    return x


@contextlib.contextmanager
def _ctx() -> Iterator[None]:
    yield


def _run(code: CodeType, world: World, *, flat: bool) -> World:
    space: dict[str, Any] = {}
    given: dict[str, Any] = {"W": world, "risky": _risky, "ctx": _ctx}
    given["emit"] = lambda value: world.log.append(repr(value))
    main: Callable[..., object] | None = None
    if not flat:
        exec(code, space)
        main = space["main"]
    try:
        exec(code, given) if main is None else main(**given)
    except (NameError, TypeError, ValueError, AttributeError) as error:
        world.log.append("NameError" if isinstance(error, NameError) else type(error).__name__)
    return world


class Tally(NamedTuple):
    """What came of many programs: `loops` that had several boundaries, and resumes that were equal or not decidable."""

    loops: int
    equal: int
    undecidable: int


def check(seed: int) -> tuple[int, int] | None:
    """Return the resumes of a program that were equal, and that were not decidable; None for one that stops early.

    Raises `AssertionError` with the program where a resume differs.
    """
    program = Program(seed)
    try:
        code = compile(program.source, f"random {seed}", "exec")
    except SyntaxError:
        return None
    found: dict[object, Crossing] = {}
    whole = _run(code, World(found), flat=program.flat)
    if len(whole.boundaries) < 2:
        return None
    equal = undecidable = 0
    for key, kept in whole.boundaries.items():
        resumed = _run(code, World(found, key, kept), flat=program.flat)
        if not resumed.exact:
            undecidable += 1
        elif resumed.mark is not None:
            expected, got = whole.log[kept.emitted :], resumed.log[resumed.mark :]
            assert got == expected, (
                f"seed {seed}, resumed at {key} with {sorted(kept.names)}:\n{program.source}\n{expected=}\n{got=}"
            )
            equal += 1
    return equal, undecidable


def run(seed: int, loops: int) -> Tally:
    """Check programs, from this seed on, until so many loops were resumed."""
    done = equal = undecidable = 0
    while done < loops:
        result = check(seed)
        seed += 1
        if result is not None:
            done, equal, undecidable = done + 1, equal + result[0], undecidable + result[1]
    return Tally(done, equal, undecidable)


if __name__ == "__main__":
    print(sys.version.split()[0], run(int(sys.argv[1]), int(sys.argv[2])))
