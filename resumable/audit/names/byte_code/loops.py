"""The loops around a point of a control flow graph, and the rule that inner `for` loops turn. Independent of names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Block, Code, Graph


class Loop(NamedTuple):
    """A natural loop: its header, the blocks that jump back to it, and all blocks in it."""

    header: int
    latches: tuple[int, ...]
    body: frozenset[int]


def loops_around(graph: Graph, tree: DominatorTree, point: int) -> list[Loop]:
    """Return the loops that the block `point` is in, the innermost first."""
    found = []
    for header in tree.dominators(point):
        latches = tuple(latch for latch in graph.before[header] if tree.dominates(header, latch))
        body = _natural_loop(header, latches, graph) if latches else frozenset[int]()
        if point in body:
            found.append(Loop(header, latches, body))
    return sorted(found, key=lambda loop: len(loop.body))


def _natural_loop(header: int, latches: Collection[int], graph: Graph) -> frozenset[int]:
    """Return the blocks from which a latch is reached without passing the header."""
    body, pending = {header}, list(latches)
    while pending:
        block = pending.pop()
        if block not in body:
            body.add(block)
            pending += graph.before[block]
    return frozenset(body.intersection(graph.order))


class DominatorTree:
    """For each block its nearest dominator: a block that is on every path to it (Cooper, Harvey and Kennedy 2001)."""

    def __init__(self, graph: Graph) -> None:
        self._place = {block: place for place, block in enumerate(graph.order)}
        self._nearest: dict[int, int] = {0: 0}
        changed = True
        while changed:
            changed = False
            for block in graph.order[1:]:
                nearest = self._common([each for each in graph.before[block] if each in self._nearest])
                if self._nearest.get(block) != nearest:
                    self._nearest[block] = nearest
                    changed = True

    def _common(self, blocks: Sequence[int]) -> int:
        """Return the nearest block that dominates all of them."""
        place, nearest = self._place, self._nearest
        one = blocks[0]
        for other in blocks[1:]:
            while one != other:
                if place[one] > place[other]:
                    one = nearest[one]
                else:
                    other = nearest[other]
        return one

    def dominators(self, block: int) -> list[int]:
        """Return the block, if it can be reached, and all that dominate it."""
        if block not in self._nearest:
            return []
        found = [block]
        while block:
            block = self._nearest[block]
            found.append(block)
        return found

    def dominates(self, block: int, other: int) -> bool:
        """Return whether every path to `other` passes `block`."""
        if other not in self._nearest:
            return False
        while self._place[other] > self._place[block]:
            other = self._nearest[other]
        return other == block


def with_other_loops_turning(
    code: Code, graph: Graph, tree: DominatorTree, *, point: int, around: Sequence[Loop]
) -> tuple[Graph, list[Loop]]:
    """Let each `for` that is not around `point` make at least one turn. Returns the graph, and `around` in it.

    Whoever comes from before such a loop finds a copy of its FOR_ITER that cannot end. Copies come last.
    """
    kept = {point, *(loop.header for loop in around)}
    blocks = [Block(each.first, each.end, list(each.next), each.handler) for each in graph.blocks]
    for number in range(len(graph.blocks)):
        block = blocks[number]
        if code.instructions[block.first].op != "FOR_ITER" or number in kept or len(block.next) < 2:
            continue
        copy = len(blocks)
        blocks.append(Block(block.first, block.end, block.next[:1], block.handler))
        for each in graph.before[number]:
            if not tree.dominates(number, each):
                blocks[each].next = [copy if following == number else following for following in blocks[each].next]
    turning = Graph(blocks)
    return turning, [
        Loop(each.header, each.latches, _natural_loop(each.header, each.latches, turning)) for each in around
    ]
