"""The effect of a basic block on sets of names, and both data flows over a graph of blocks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Block, Graph
from resumable.audit.names.byte_code.effects import Effect


class Summary(NamedTuple):
    """The names outside of a function that it may read before it binds them, and those that it may bind."""

    use: int = 0
    bind: int = 0


class Transfer(NamedTuple):
    """A block as a whole: names read first, no longer holding what they held, and bound (still there at its end).

    Where it `raises`, `kill_before_raise` are names that have lost their value before the first instruction that may
    raise, and `bound_at_raise` those that hold a value of this block at one that may.
    """

    use: int
    kill: int
    bind: int
    raises: bool
    kill_before_raise: int
    bound_at_raise: int


def transfer_of(effects: Sequence[Sequence[Effect]], block: Block, summaries: Mapping[CodeType, Summary]) -> Transfer:
    """Fold the effects of the instructions of a block."""
    use = kill = bind = kill_before_raise = bound_at_raise = 0
    raises = False
    for several in effects[block.first : block.end]:
        for effect in several:
            if effect.raises:
                kill_before_raise = kill_before_raise if raises else kill
                bound_at_raise |= bind
                raises = True
                continue
            called = [summaries.get(code, _UNKNOWN) for code in effect.calls]
            for read in (effect.use, *(summary.use for summary in called)):
                use |= read & ~kill
            kill |= effect.kill
            bind = bind & ~effect.kill | effect.bind
            for summary in called:
                bind |= summary.bind
    return Transfer(use, kill, bind, raises, kill_before_raise, bound_at_raise)


_UNKNOWN = Summary()


def live_names(graph: Graph, transfers: Sequence[Transfer], within: frozenset[int] | None = None) -> list[int]:
    """Return for each block the names that some path from it, inside of `within`, reads before it binds them."""
    live = [0] * len(graph.blocks)
    order = [number for number in reversed(graph.order) if within is None or number in within]
    inside = frozenset(order)
    waiting = set(order)
    for number in _until_stable(order, waiting):
        now = _live_before(graph.blocks[number], transfers[number], live)
        if now != live[number]:
            live[number] = now
            waiting.update(inside.intersection(graph.before[number]))
    return live


def _until_stable(order: Sequence[int], waiting: set[int]) -> Iterator[int]:
    """Yield the blocks that wait, in this order, again and again until the caller adds none to `waiting` any more."""
    while waiting:
        for number in order:
            if number in waiting:
                waiting.discard(number)
                yield number


def _live_before(block: Block, transfer: Transfer, live: Sequence[int]) -> int:
    # Blocks outside of a loop that is looked at alone have nothing live.
    behind = 0
    for following in block.next:
        behind |= live[following]
    now = transfer.use | behind & ~transfer.kill
    if transfer.raises and block.handler is not None:
        now |= live[block.handler] & ~transfer.kill_before_raise
    return now


class Reached(NamedTuple):
    """Names whose value, bound in the loop, reaches a block: in the turn that bound it, and in a later one."""

    this_turn: int
    later_turn: int


def reach_of_bindings(graph: Graph, transfers: Sequence[Transfer], header: int, body: frozenset[int]) -> list[Reached]:
    """Return what is bound in a loop and reaches each block of its `body`. A turn ends at `header`."""
    this_turn, later_turn = [0] * len(graph.blocks), [0] * len(graph.blocks)
    order = [number for number in graph.order if number in body]
    waiting = set(order)
    for number in _until_stable(order, waiting):
        into = this_turn[number], later_turn[number]
        for following, bound, older in _leaving(graph.blocks[number], transfers[number], *into):
            if following not in body:
                continue
            if following == header:
                bound, older = 0, bound | older
            if bound & ~this_turn[following] or older & ~later_turn[following]:
                this_turn[following] |= bound
                later_turn[following] |= older
                waiting.add(following)
    return list(map(Reached, this_turn, later_turn))


def _leaving(block: Block, transfer: Transfer, this_turn: int, later_turn: int) -> list[tuple[int, int, int]]:
    """Return each block that may follow, with what reaches it."""
    bound, older = this_turn & ~transfer.kill | transfer.bind, later_turn & ~transfer.kill
    found = [(following, bound, older) for following in block.next]
    if transfer.raises and block.handler is not None:
        kept = ~transfer.kill_before_raise
        found.append((block.handler, this_turn & kept | transfer.bound_at_raise, later_turn & kept))
    return found
