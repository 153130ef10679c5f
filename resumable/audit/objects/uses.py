"""How code uses the objects that it names: what it changes in them, and whether it reads more than for a print.

Pure functions of a syntax tree. An object is named by a path: a variable, then attributes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from resumable.audit.objects.sources import Parents, Scope, bound_names, parents_of

Path: TypeAlias = tuple[str, ...]

MAX_ATTRIBUTES = 3

# Methods that give a value which does not depend on the one before, and methods that change nothing.
_SETTERS = {"reset", "seed", "manual_seed", "load_state_dict", "copy_", "fill_", "zero_", "fill", "zero_grad", "clear"}
_READERS = {"eval", "train", "state_dict", "to", "cpu", "cuda", "item", "size", "numel", "tolist", "keys", "get"}
_READERS |= {"detach", "numpy", "clone", "copy", "mean", "sum", "requires_grad_", "values", "items", "compute"}
_WRITERS = {"copy_", "fill_", "fill", "load_state_dict"}  # setters of values that later code reads
_COUNTERS = {"range", "reversed", "enumerate", "trange", "arange"}
_TURNS = {"epochs", "steps", "batches", "enumerate"}
_CHANGES_ARGUMENT = {"next", "anext", "heappush", "heappop", "heappushpop", "insort", "shuffle", "setattr"}


class Evidence(IntEnum):
    """What the code does to an object, in the order of how much it says."""

    NAMED = 0
    SET = 1  # it gets a value that does not depend on the one before
    FILLED = 2  # it is overwritten by index or slice as a whole, such as scratch memory
    INDEXED = 3  # items are assigned
    CHANGED = 4  # attributes are changed, or a method is called


@dataclass
class Use:
    """The strongest evidence for one path, and what is done to its attributes."""

    evidence: Evidence = Evidence.NAMED
    is_overwritten: bool = False  # whether it is, among others, given a whole value that does not depend on its own
    changed: set[str] = field(default_factory=set)  # attributes whose new value may depend on the one before
    renewed: set[str] = field(default_factory=set)  # attributes that every turn gives a value which does not
    read: set[str] = field(default_factory=set)  # attributes that are read, and not set further up in the same scope


class Call(NamedTuple):
    """One call: what is called, and the paths that are passed, by position and by keyword."""

    function: Path
    positions: tuple[Path | None, ...]
    keywords: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Uses:
    """The paths that a scope uses, those that it calls, and those that it binds."""

    paths: dict[Path, Use]
    calls: tuple[Call, ...]
    bound: frozenset[Path]
    set_only: frozenset[str]  # attributes that only ever get a value which does not depend on the one before
    changed: frozenset[str] = frozenset()  # the other attributes that are assigned


def uses_of(scope: Scope) -> Uses:
    """Return how the region of a scope uses what it names."""
    parents = parents_of(scope.region)
    paths: dict[Path, Use] = {}
    calls: list[Call] = []
    bound: set[Path] = {(name,) for name in bound_names(scope.region)}
    positions = _Positions()
    for node in _names(scope.region):
        top, path = _chain(node, parents)
        if isinstance(parent := parents.get(top), ast.Call) and parent.func is top:
            calls.append(_call(parent, path))
        owner, attribute, evidence = _judged(top, path, parents)
        use = paths.setdefault(owner[: MAX_ATTRIBUTES + 1], Use())
        use.evidence = max(use.evidence, evidence)
        use.is_overwritten |= attribute is None and evidence in (Evidence.SET, Evidence.FILLED)
        positions.note(top, path)
        positions.note_object(owner, top, is_written=path[-1] in _WRITERS and evidence is Evidence.SET)
        if attribute is not None:
            (use.renewed if evidence is Evidence.SET else use.changed).add(attribute)
            bound.add((*owner, attribute))
    for path in _filled_through_loops(scope.region, parents):
        use = paths.setdefault(path[: MAX_ATTRIBUTES + 1], Use())
        use.evidence = Evidence.CHANGED
    for path in positions.written_last():
        use = paths.setdefault(path, Use())
        use.evidence, use.is_overwritten = Evidence.CHANGED, False
    for owner, attribute in positions.read_first():
        paths.setdefault(owner, Use()).read.add(attribute)
    changed = frozenset(name for use in paths.values() for name in use.changed | (use.renewed & use.read))
    set_only = frozenset(name for use in paths.values() for name in use.renewed) - changed
    return Uses(paths, tuple(calls), frozenset(bound), set_only, changed)


class _Positions:
    """Where attributes are read and assigned first in a scope, and objects read and written as a whole."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, int]] = {}
        self._set: dict[Path, tuple[int, int]] = {}
        self._objects_read: dict[Path, tuple[int, int]] = {}
        self._objects_written: dict[Path, tuple[int, int]] = {}

    def note(self, top: ast.expr, path: Path) -> None:
        """Note one chain of attributes: all of them are read, or the last one is assigned."""
        is_read = isinstance(top.ctx, ast.Load) if isinstance(top, ast.Attribute) else True
        for length in range(2, len(path) + 1):
            first = self._read if is_read or length < len(path) else self._set
            position = top.lineno, top.col_offset
            first[path[:length]] = min(first.get(path[:length], position), position)

    def note_object(self, path: Path, top: ast.expr, *, is_written: bool) -> None:
        """Note that an object is read, or that a method writes all of it."""
        first, position = self._objects_written if is_written else self._objects_read, (top.lineno, top.col_offset)
        first[path] = min(first.get(path, position), position)

    def written_last(self) -> Iterator[Path]:
        """Yield the objects that are read before all of them is written: the next turn reads what this one wrote."""
        for path, position in self._objects_written.items():
            if len(path) <= MAX_ATTRIBUTES and self._objects_read.get(path, position) < position:
                yield path

    def read_first(self) -> Iterator[tuple[Path, str]]:
        """Yield the attributes that are read before they are assigned, with the path of their object."""
        for path, position in self._read.items():
            if len(path) <= MAX_ATTRIBUTES and position < self._set.get(path, (position[0] + 1, 0)):
                yield path[:-1], path[-1]


def _filled_through_loops(region: Sequence[ast.AST], parents: Parents) -> Iterator[Path]:
    """Yield what inner loops iterate over to change its tensors in place: `for a, b in zip(x, y): a.mul_(b)`."""
    loops = [node for statement in region for node in ast.walk(statement) if isinstance(node, ast.For)]
    for loop in loops:
        filled = {name.id for name in _names(loop.body) if _is_filled(name, parents)}
        iterated = loop.iter.args if isinstance(loop.iter, ast.Call) and _called(loop.iter) == "zip" else [loop.iter]
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        for target, iterable in zip(targets, iterated, strict=False):
            path = _path(iterable)
            if isinstance(target, ast.Name) and target.id in filled and path is not None:
                yield path


def _is_filled(name: ast.Name, parents: Parents) -> bool:
    """Return whether an in-place method of torch's is called on a name, also behind `.data` or `.detach()`."""
    node: ast.AST = name
    while isinstance(parent := parents.get(node), ast.Attribute | ast.Call):
        if isinstance(parent, ast.Call) and parent.func is not node:
            return False
        if isinstance(parent, ast.Attribute) and parent.attr.endswith("_") and parent.attr not in _SETTERS:
            return True
        node = parent
    return False


def _call(node: ast.Call, function: Path) -> Call:
    by_name = [(each.arg, _path(each.value)) for each in node.keywords]
    keywords = tuple((name, path) for name, path in by_name if name is not None and path is not None)
    return Call(function, tuple(map(_path, node.args)), keywords)


def _path(node: ast.expr) -> Path | None:
    """Return the path that an expression is, or None for any other expression."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _names(region: Sequence[ast.AST]) -> Iterator[ast.Name]:
    for statement in region:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node


def _chain(node: ast.Name, parents: Parents) -> tuple[ast.expr, Path]:
    """Return the whole `name.attribute.attribute` that a name begins, and its path."""
    top: ast.expr = node
    path = [node.id]
    while isinstance(parent := parents.get(top), ast.Attribute):
        top = parent
        path.append(parent.attr)
    return top, tuple(path)


def _judged(top: ast.expr, path: Path, parents: Parents) -> tuple[Path, str | None, Evidence]:
    """Return the path that is used, the attribute of it that is assigned if any, and the evidence."""
    parent = parents.get(top)
    if isinstance(top, ast.Attribute) and not isinstance(top.ctx, ast.Load):
        return path[:-1], path[-1], Evidence.SET if _is_plain_set(top, parents) else Evidence.CHANGED
    if isinstance(parent, ast.Subscript) and parent.value is top:
        return path, *_through_items(parent, parents)
    if isinstance(parent, ast.Call) and parent.func is top and len(path) > 1:
        return path[:-1], None, _of_method(path[-1], top, parents)
    if isinstance(parent, ast.Call) and top in parent.args[:1] and _called(parent) in _CHANGES_ARGUMENT:
        return path, None, Evidence.CHANGED
    return path, None, Evidence.NAMED


def _of_method(method: str, top: ast.AST, parents: Parents) -> Evidence:
    if method in _READERS:
        return Evidence.NAMED
    if (method in _SETTERS or method.startswith("set_")) and not _is_conditional(top, parents):
        return Evidence.SET
    return Evidence.CHANGED


def _through_items(item: ast.Subscript, parents: Parents) -> tuple[str | None, Evidence]:
    """Return the attribute that is assigned in an item of an object, if any, and what is done to the object."""
    top: ast.Subscript | ast.Attribute = item
    while isinstance(parent := parents.get(top), ast.Subscript | ast.Attribute) and parent.value is top:
        top = parent
    if isinstance(top, ast.Attribute) and isinstance(parent, ast.Call) and parent.func is top:
        return None, _of_method(top.attr, top, parents)
    if isinstance(top.ctx, ast.Load):
        return None, Evidence.NAMED
    is_set = _is_plain_set(top, parents)
    if isinstance(top, ast.Attribute):
        return top.attr, Evidence.SET if is_set else Evidence.CHANGED
    if isinstance(top.slice, ast.Constant) and isinstance(top.slice.value, str):
        return None, Evidence.SET if is_set else Evidence.INDEXED
    is_scratch = not isinstance(parents.get(top), ast.AugAssign) and _is_whole(top.slice, top, parents)
    return None, Evidence.FILLED if is_scratch else Evidence.INDEXED


def _is_whole(index: ast.expr, top: ast.AST, parents: Parents) -> bool:
    """Return whether an inner loop over all indices, or a slice without bounds, overwrites everything."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    if any(isinstance(part, ast.Slice) and part.lower is part.upper is None for part in parts[:1]):
        return True
    if isinstance(index, ast.Constant) and index.value is Ellipsis:
        return True
    names = {node.id for node in ast.walk(index) if isinstance(node, ast.Name)}
    inner = [each for each in _ancestors(top, parents) if isinstance(each, ast.For) and _counts(each.iter)]
    counted = {node.id for loop in inner for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    return bool(names & counted)


def _counts(iterable: ast.expr) -> bool:
    """Return whether a loop counts, and makes no turns of the run."""
    turns = any(isinstance(node, ast.Attribute) and node.attr in _TURNS for node in ast.walk(iterable))
    return isinstance(iterable, ast.Call) and _called(iterable) in _COUNTERS and not turns


def _is_plain_set(target: ast.AST, parents: Parents) -> bool:
    """Return whether this target gets, in every turn, a value that does not depend on the one before."""
    statement = parents.get(target)
    while isinstance(statement, ast.Tuple | ast.List | ast.Starred):
        statement = parents.get(statement)
    if isinstance(statement, ast.AugAssign | ast.Delete) or _is_conditional(target, parents):
        return False
    value = getattr(statement, "value", None)
    same = ast.unparse(target)
    return value is None or all(ast.unparse(node) != same for node in ast.walk(value) if isinstance(node, ast.expr))


def _is_conditional(node: ast.AST, parents: Parents) -> bool:
    tests = (ast.If, ast.While, ast.IfExp, ast.ExceptHandler, ast.match_case)
    return any(isinstance(each, tests) for each in _ancestors(node, parents))


def _ancestors(node: ast.AST, parents: Parents) -> Iterator[ast.AST]:
    while (node := parents.get(node)) is not None:  # type: ignore[assignment]
        yield node


def _called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
