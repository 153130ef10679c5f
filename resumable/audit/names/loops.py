"""The loops around a point of a control flow graph, and the rule that inner `for` loops turn. Independent of names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from resumable.audit.names.control_flow import Block, Code, predecessors


class Loop(NamedTuple):
    """A natural loop: its header, the blocks that jump back to it, and all blocks in it."""

    header: int
    latches: tuple[int, ...]
    body: frozenset[int]


def loops_around(blocks: Sequence[Block], point: int) -> list[Loop]:
    """Return the loops that the block `point` is in, the innermost first."""
    tree = DominatorTree(blocks)
    before = predecessors(blocks)
    found = []
    for header in tree.dominators(point):
        latches = tuple(latch for latch in before[header] if tree.dominates(header, latch))
        body = natural_loop(header, latches, before)
        if latches and point in body:
            found.append(Loop(header, latches, body))
    return sorted(found, key=lambda loop: len(loop.body))


def natural_loop(header: int, latches: Collection[int], before: Sequence[Sequence[int]]) -> frozenset[int]:
    """Return the blocks from which a latch is reached without passing the header."""
    body, pending = {header}, list(latches)
    while pending:
        block = pending.pop()
        if block not in body:
            body.add(block)
            pending += before[block]
    return frozenset(body)


class DominatorTree:
    """For each block its nearest dominator: a block that is on every path to it (Cooper, Harvey and Kennedy 2001)."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._order = _reverse_postorder(blocks)
        self._place = {block: place for place, block in enumerate(self._order)}
        before = predecessors(blocks)
        self._nearest: dict[int, int] = {0: 0}
        changed = True
        while changed:
            changed = False
            for block in self._order[1:]:
                known = [each for each in before[block] if each in self._nearest]
                nearest = known[0]
                for other in known[1:]:
                    nearest = self._common(nearest, other)
                if self._nearest.get(block) != nearest:
                    self._nearest[block] = nearest
                    changed = True

    def _common(self, one: int, other: int) -> int:
        place = self._place
        while one != other:
            while place[one] > place[other]:
                one = self._nearest[one]
            while place[other] > place[one]:
                other = self._nearest[other]
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


def _reverse_postorder(blocks: Sequence[Block]) -> list[int]:
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(blocks[0].successors))]
    while stack:
        block, following = stack[-1]
        fresh = next((each for each in following if each not in seen), None)
        if fresh is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(fresh)
            stack.append((fresh, iter(blocks[fresh].successors)))
    return order[::-1]


def make_other_loops_turn(code: Code, blocks: list[Block], point: int, around: Sequence[Loop]) -> list[Loop]:
    """Let each `for` that is not around `point` make at least one turn. Returns `around` in the changed graph.

    Whoever comes from before such a loop finds a copy of its FOR_ITER that cannot end.
    """
    tree, before = DominatorTree(blocks), predecessors(blocks)
    kept = {point, *(loop.header for loop in around)}
    for number in range(len(blocks)):
        block = blocks[number]
        if code.instructions[block.first].op != "FOR_ITER" or number in kept or len(block.next) < 2:
            continue
        copy = len(blocks)
        blocks.append(Block(block.first, block.end, block.next[:1], block.handler))
        for each in before[number]:
            if not tree.dominates(number, each):
                blocks[each].next = [copy if following == number else following for following in blocks[each].next]
    after = predecessors(blocks)
    return [Loop(each.header, each.latches, natural_loop(each.header, each.latches, after)) for each in around]
