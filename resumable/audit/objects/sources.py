"""The syntax tree of running code: what of it runs in every turn of the run's outermost loop. Imports no tensors.

Code without a source (a string that was executed, the prompt) has no tree, so nothing is known of how it uses a name.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TypeAlias

Parents: TypeAlias = dict[ast.AST, ast.AST]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


@dataclass(frozen=True)
class Scope:
    """The code of one frame or function: `region` runs in every turn, `whole` is where its names are used.

    `line` is where the region begins. `parents` has the parent of each node in the file.
    """

    line: int
    region: Sequence[ast.AST]
    whole: ast.AST
    parents: Parents


class Sources:
    """The trees of the files that the program runs from, parsed once."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module | None] = {}
        self._parents: dict[str, Parents] = {}

    def of_function(self, code: CodeType) -> Scope | None:
        """Return the scope of a function that a turn calls, all of which runs in that turn."""
        node = self._node(code)
        return Scope(0, node.body, node, self._parents_in(code.co_filename)) if node is not None else None

    def of_loop(self, code: CodeType, line: int, made_at: int | None) -> Scope | None:
        """Return the scope of the outermost loop of the run that encloses `line`; None where there is no loop.

        `made_at` is the line at which this very frame made the trainer, if it did: the loops around that line begin a
        run in each of their turns, such as those over folds.
        """
        node = self._node(code)
        around = list(_enclosing(node.body, line)) if node is not None else []
        loops = [loop for loop in around if made_at is None or not _covers(loop, made_at)]
        if node is None or not loops:
            return None
        region = list(ast.iter_child_nodes(loops[0]))
        return Scope(getattr(loops[0], "lineno", 0), region, node, self._parents_in(code.co_filename))

    def _node(self, code: CodeType) -> ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | None:
        tree = self._tree(code.co_filename)
        if tree is None or code.co_name.startswith(("<module", "<cell")):
            return tree
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS) and node.name == code.co_name and _first_line(node) == code.co_firstlineno:
                return node
        return None

    def _tree(self, filename: str) -> ast.Module | None:
        if filename not in self._trees:
            lines = linecache.getlines(filename)
            try:
                self._trees[filename] = ast.parse("".join(lines)) if lines else None
            except (SyntaxError, ValueError, RecursionError):  # magics of a notebook, or no Python at all
                self._trees[filename] = None
        return self._trees[filename]

    def _parents_in(self, filename: str) -> Parents:
        if filename not in self._parents:
            tree = self._tree(filename)
            self._parents[filename] = parents_of([tree] if tree is not None else [])
        return self._parents[filename]


def parents_of(statements: Sequence[ast.AST]) -> Parents:
    """Return the parent of each node below these statements."""
    return {child: node for each in statements for node in ast.walk(each) for child in ast.iter_child_nodes(node)}


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min(node.lineno, *(each.lineno for each in node.decorator_list), node.lineno)


def _enclosing(body: Sequence[ast.AST], line: int) -> Iterator[ast.AST]:
    """Yield the loops around `line`, the outermost first, without those inside of functions."""
    for node in body:
        if not _covers(node, line) or isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            continue
        if isinstance(node, _LOOPS):
            yield node
        yield from _enclosing(list(ast.iter_child_nodes(node)), line)


def _covers(node: ast.AST, line: int) -> bool:
    first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    if first is None or last is None:  # handlers and cases have none, or are lists of statements
        return any(_covers(child, line) for child in ast.iter_child_nodes(node))
    return bool(first <= line <= last)


def bound_names(region: Sequence[ast.AST]) -> Iterator[str]:
    """Yield the names that these statements bind."""
    for statement in region:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id
            elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                yield node.name
