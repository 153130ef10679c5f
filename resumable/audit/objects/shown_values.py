"""Decide whether a variable is only printed, logged or collected for that. A pure function of a syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Collection

from resumable.audit.objects.sources import Scope
from resumable.audit.objects.uses import Path

_SHOWS = {"print", "log", "info", "debug", "warning", "error", "write", "set_postfix", "set_description", "pprint"}
_SHOWS |= {"add_scalar", "add_scalars", "log_metrics", "log_metric", "writerow", "set_postfix_str", "echo"}
_COLLECTS = {"append", "appendleft", "extend", "add"}
_PURE = {"float", "int", "str", "round", "len", "sum", "max", "min", "mean", "sqrt", "format", "repr", "dict", "list"}
_PURE |= {"tuple", "sorted", "item", "exp", "std", "median", "stack", "tensor", "array", "abs"}
_PASSED_ON = (ast.BinOp, ast.UnaryOp, ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.Tuple, ast.List, ast.Dict)


class ShownValues:
    """The variables of one function or module, of which nothing but what is shown depends.

    Functions in `followed` are judged where they are: passing an object itself to them decides nothing. With
    `returns_are_shown`, the same holds for what the function returns.
    """

    def __init__(self, scope: Scope, followed: Collection[str], *, returns_are_shown: bool) -> None:
        self._followed, self._returns_are_shown = followed, returns_are_shown
        self._scope = scope
        self._parents = scope.parents
        self._loads: dict[str, list[ast.Name]] = {}
        for node in ast.walk(scope.whole):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._loads.setdefault(node.id, []).append(node)

    def has(self, path: Path) -> bool:
        """Return whether every use of an object ends in a print or a log, or changes the object itself.

        All attributes of the last name in the file count as uses of an object that is an attribute.
        """
        if len(path) == 1:
            return self._only_shown(path[0], set())
        uses = (each for each in self._parents if isinstance(each, ast.Attribute) and each.attr == path[-1])
        return all(not isinstance(each.ctx, ast.Load) or self._ends_well(each, set()) for each in uses)

    def has_result_of(self, function: str) -> bool:
        """Return whether the results of all calls of a function are only shown."""
        calls = (
            each for each in ast.walk(self._scope.whole) if isinstance(each, ast.Call) and _called(each) == function
        )
        return all(self._ends_well(each, set()) for each in calls)

    def _only_shown(self, name: str, seen: set[str]) -> bool:
        if name in seen:
            return True
        seen.add(name)
        return all(self._ends_well(node, seen) for node in self._loads.get(name, []))

    def _ends_well(self, node: ast.expr, seen: set[str]) -> bool:
        parent = self._parents.get(node)
        if isinstance(parent, ast.keyword):
            parent = self._parents.get(parent)
        if isinstance(parent, ast.Call):
            return self._ends_well_in_call(parent, node, seen)
        if isinstance(parent, ast.Attribute | ast.Subscript):
            is_object = parent.value is node
            return is_object and (not isinstance(parent.ctx, ast.Load) or self._ends_well(parent, seen))
        if isinstance(parent, _PASSED_ON):
            return self._ends_well(parent, seen)
        if isinstance(parent, ast.Assign | ast.AugAssign) and parent.value is node:
            targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
            return all(self._is_only_shown_in(each, seen) for each in targets)
        return isinstance(parent, ast.Expr) or (isinstance(parent, ast.Return) and self._returns_are_shown)

    def _is_only_shown_in(self, target: ast.expr, seen: set[str]) -> bool:
        """Return whether a value is only shown once it is assigned: to a variable, or into an object judged already."""
        if isinstance(target, ast.Name):
            return self._only_shown(target.id, seen)
        while isinstance(target, ast.Attribute | ast.Subscript):
            target = target.value
        return isinstance(target, ast.Name) and target.id in seen

    def _ends_well_in_call(self, call: ast.Call, node: ast.expr, seen: set[str]) -> bool:
        name = _called(call)
        if name == "backward":  # of a value that was computed from it
            return False
        is_judged_there = name in self._followed and isinstance(node, ast.Name | ast.Attribute)
        if call.func is node or name in _PURE or is_judged_there:
            return self._ends_well(call, seen)
        if name in _COLLECTS and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            return self._only_shown(call.func.value.id, seen)
        return name in _SHOWS


def _called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
