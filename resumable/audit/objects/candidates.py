"""Find the objects that the code of a loop names: variables of the user's frames, attributes, and what calls pass on.

A frame is an argument here and is stored nowhere. What was learned from code is kept, and the values are read anew.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch.nn import Module

from resumable.audit.names.frame_variables import read, slots
from resumable.audit.objects.plain_reads import CODE, MISSING, PLAIN, attribute, is_a
from resumable.audit.objects.shown_values import ShownValues
from resumable.audit.objects.sources import Scope, Sources
from resumable.audit.objects.user_code import is_users
from resumable.audit.objects.uses import Call, Evidence, Path, Use, Uses, uses_of

Variables: TypeAlias = Callable[[Iterable[str]], Mapping[str, object]]

MAX_CANDIDATES = 500
MAX_CALLS = 64
MAX_CALL_DEPTH = 2


@dataclass
class Candidate:
    """One object that code names. It is held for the time of one look."""

    path: str
    value: object
    evidence: Evidence
    changed: set[str]  # attributes whose new value may depend on the one before
    renewed: set[str]  # attributes that every turn sets
    read: set[str]  # attributes that some part reads, and does not set before
    only_shown: bool  # whether nothing but prints and logs depends on it
    is_overwritten: bool  # whether the code also gives it a whole value that does not depend on its own
    is_rebound: bool  # whether the loop binds the name itself

    @property
    def attributes(self) -> frozenset[str]:
        """Return the attributes that cross from one turn to the next."""
        return frozenset(self.changed | (self.renewed & self.read))


@dataclass(frozen=True)
class _Called:
    """A function of the user's, and the parameters whose values are known, with their paths in the caller."""

    function: types.FunctionType
    passed: Mapping[str, object]
    paths: Mapping[str, str]
    called: Path | None  # the object of the user's that is called like a function


class _Part(NamedTuple):
    """A part of the program that runs in each turn: a frame, or a function that it calls."""

    uses: Uses
    code: types.CodeType
    variables: Variables
    paths: Mapping[str, str]  # of its parameters, in the caller
    returns_are_shown: bool  # whether what it returns is only shown, or judged by its caller
    depth: int


class Candidates:
    """The objects that the loop of an attempt names."""

    def __init__(self, made_at: Mapping[tuple[int, types.CodeType], int]) -> None:
        """Prepare for an attempt; `made_at` has the lines at which frames stood when the trainer was made."""
        self._made_at = made_at
        self._sources = Sources()
        self._uses: dict[tuple[types.CodeType, int], Uses] = {}
        self._shown: dict[tuple[types.CodeType, frozenset[str], bool], ShownValues] = {}
        self.changed: set[str] = set()  # the attributes that the loop changes, of whatever object
        self._set: set[str] = set()

    def of(self, frames: Sequence[types.FrameType]) -> list[Candidate]:
        """Return what these frames name, the nearest first, up to the one that drives the outermost loop."""
        found: dict[int, Candidate] = {}
        loops = [self._loop(frame) for frame in frames]
        last = max((number for number, loop in enumerate(loops) if loop is not None), default=0)
        shown = False  # whether what the frame returns is only shown by its caller
        for frame in reversed(frames[: last + 1]):
            region = loops[last] if frame is frames[last] else None
            part = _Part(self._uses_of(frame.f_code, region), frame.f_code, partial(read, frame), {}, shown, depth=0)
            judged = self._collect(found, part)
            inner = frames[frames.index(frame) - 1].f_code.co_name
            shown = judged is not None and judged.has_result_of(inner)
        return list(found.values())[:MAX_CANDIDATES]

    @property
    def set_only(self) -> set[str]:
        """Return the attributes that the loop only ever sets to what does not depend on them."""
        return self._set - self.changed

    def _loop(self, frame: types.FrameType) -> Scope | None:
        made_at = self._made_at.get((id(frame), frame.f_code))
        return self._sources.of_loop(frame.f_code, frame.f_lineno, made_at)

    def _collect(self, found: dict[int, Candidate], part: _Part) -> ShownValues | None:
        """Add what a part of the code names, and the functions that it calls. Returns what it only shows."""
        uses = part.uses
        self._set |= uses.set_only
        self.changed |= uses.changed
        bound = part.variables({path[0] for path in uses.paths})
        calls = _followed(uses.calls[:MAX_CALLS], bound, part.paths) if part.depth < MAX_CALL_DEPTH else []
        shown = self._shown_in(part, frozenset(each.function.__name__ for each in calls))
        for path, use in _with_owners(uses, {each.called for each in calls if each.called is not None}):
            value = _resolved(bound, path)
            if value is not MISSING and not is_a(value, (*PLAIN, *CODE)):
                only_shown = shown is not None and shown.has(path)
                _add(found, _candidate(_shown(path, part.paths), value, use, only_shown, path in uses.bound))
        for each in calls:
            code = each.function.__code__
            below = _Part(self._uses_of(code, None), code, _variables_in(each), each.paths, True, depth=part.depth + 1)
            self._collect(found, below)
        return shown

    # -- what is learned from code ------------------------------------------------------------------------------------

    def _uses_of(self, code: types.CodeType, loop: Scope | None) -> Uses:
        """Return how this code uses objects: all of it, or what is inside of a loop of it."""
        key = code, loop.line if loop is not None else 0
        if key not in self._uses:
            scope = loop or self._sources.of_function(code)
            self._uses[key] = uses_of(scope) if scope is not None else _named_by(code)
        return self._uses[key]

    def _shown_in(self, part: _Part, followed: frozenset[str]) -> ShownValues | None:
        key = part.code, followed, part.returns_are_shown
        if key not in self._shown:
            scope = self._sources.of_function(part.code)
            if scope is None:
                return None
            self._shown[key] = ShownValues(scope, followed, returns_are_shown=part.returns_are_shown)
        return self._shown[key]


def _named_by(code: types.CodeType) -> Uses:
    """Return what code without a source names: nothing is known of what it does."""
    return Uses({(name,): Use() for name in (*code.co_names, *slots(code))}, (), frozenset(), frozenset())


def _with_owners(uses: Uses, called: Collection[Path]) -> Iterator[tuple[Path, Use]]:
    """Yield the paths that are used, those of what they belong to, and those of objects that are called."""
    owners = {path[:length] for path in uses.paths for length in range(1, len(path))}
    yield from ((path, Use(Evidence.CHANGED)) for path in sorted(called))
    yield from uses.paths.items()
    yield from ((path, Use()) for path in sorted(owners - uses.paths.keys()))


def _candidate(path: str, value: object, use: Use, only_shown: bool, is_rebound: bool) -> Candidate:
    attributes = set(use.changed), set(use.renewed), set(use.read)
    return Candidate(path, value, use.evidence, *attributes, only_shown, use.is_overwritten, is_rebound)


def _shown(path: Path, renamed: Mapping[str, str]) -> str:
    """Return a path as the caller's code would write it."""
    return ".".join((renamed.get(path[0], path[0]), *path[1:]))


def _add(found: dict[int, Candidate], each: Candidate) -> None:
    """Add a candidate, or what else is known of the same object."""
    before = found.setdefault(id(each.value), each)
    if before is not each:
        before.evidence = max(before.evidence, each.evidence)
        before.changed |= each.changed
        before.renewed |= each.renewed
        before.read |= each.read
        before.only_shown &= each.only_shown
        before.is_overwritten |= each.is_overwritten


def _resolved(bound: Mapping[str, object], path: Path) -> object:
    value = bound.get(path[0], MISSING)
    for name in path[1:]:
        if value is MISSING:
            break
        value = attribute(value, name)
    return value


def _followed(calls: Iterable[Call], bound: Mapping[str, object], renamed: Mapping[str, str]) -> list[_Called]:
    """Return the calls of functions and methods that the user wrote, with the arguments whose values are known."""
    found = []
    for call in calls:
        function, own = _function(call.function, bound)
        function = _undecorated(function)
        if type(function) is types.FunctionType and is_users(function.__code__):
            passed = zip(function.__code__.co_varnames, (*own, *call.positions), strict=False)
            paths = {name: path for name, path in (*passed, *call.keywords) if path is not None}
            values = {name: _resolved(bound, path) for name, path in paths.items()}
            known = {name: value for name, value in values.items() if value is not MISSING}
            called = call.function if own == (call.function,) else None
            found.append(
                _Called(function, known, {name: _shown(path, renamed) for name, path in paths.items()}, called)
            )
    return found


def _function(path: Path, bound: Mapping[str, object]) -> tuple[object, tuple[Path, ...]]:
    """Return the function that a call runs, and the paths of the arguments that the call adds."""
    target = _resolved(bound, path)
    if target is not MISSING and not is_a(target, (*CODE, type)):
        return _method(target, "forward" if is_a(target, Module) else "__call__"), (path,)
    owner = _resolved(bound, path[:-1]) if len(path) > 1 else MISSING
    if owner is MISSING or is_a(owner, (types.ModuleType, type)):
        return target, ()
    return _method(owner, path[-1]), (path[:-1],)


def _undecorated(function: object) -> object:
    """Return the user's function inside of what `torch.no_grad()` and other decorators made of it."""
    while type(function) is types.FunctionType and not is_users(function.__code__):
        if "__wrapped__" not in vars(function):
            break
        function = vars(function)["__wrapped__"]
    return function


def _method(owner: object, name: str) -> object:
    """Return the function in the class of an object, or None."""
    return next((vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)), None)


def _variables_in(called: _Called) -> Variables:
    """Return what reads the variables of a function that is not running: parameters, closure and globals."""
    function = called.function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    own = slots(function.__code__)

    def variables(names: Iterable[str]) -> dict[str, object]:
        found: dict[str, Any] = {}
        for name in names:
            if name in called.passed:
                found[name] = called.passed[name]
            elif name in cells:
                found |= _content(name, cells[name])
            elif name not in own and name in function.__globals__:
                found[name] = function.__globals__[name]
        return found

    return variables


def _content(name: str, cell: types.CellType) -> dict[str, object]:
    try:
        return {name: cell.cell_contents}
    except ValueError:  # not assigned yet
        return {}
