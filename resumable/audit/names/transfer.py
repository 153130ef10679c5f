"""What a basic block does with sets of names, and both data flows over a graph of blocks. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import CodeType
from typing import NamedTuple

from resumable.audit.names.control_flow import Block, predecessors
from resumable.audit.names.effects import Effect


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


def live_names(
    blocks: Sequence[Block], transfers: Sequence[Transfer], within: Collection[int] | None = None
) -> list[int]:
    """Return for each block the names that some path from it, inside of `within`, reads before it binds them."""
    live = [0] * len(blocks)
    before = predecessors(blocks)
    inside = range(len(blocks)) if within is None else within
    pending = sorted(inside)
    waiting = set(pending)
    while pending:
        number = pending.pop()
        waiting.discard(number)
        block, transfer, behind = blocks[number], transfers[number], 0
        for following in block.next:
            if following in inside:
                behind |= live[following]
        now = transfer.use | behind & ~transfer.kill
        if transfer.raises and block.handler is not None and block.handler in inside:
            now |= live[block.handler] & ~transfer.kill_before_raise
        if now != live[number]:
            live[number] = now
            fresh = [each for each in before[number] if each not in waiting and each in inside]
            waiting.update(fresh)
            pending += fresh
    return live


class Reached(NamedTuple):
    """Names whose value, bound in the loop, reaches a block: in the turn that bound it, and in a later one."""

    this_turn: int = 0
    later_turn: int = 0


def reach_of_bindings(
    blocks: Sequence[Block], transfers: Sequence[Transfer], header: int, body: Collection[int]
) -> list[Reached]:
    """Return what is bound in a loop and reaches each block of its `body`. A turn ends at `header`."""
    reached = [Reached()] * len(blocks)
    pending = sorted(body, reverse=True)
    waiting = set(pending)
    while pending:
        number = pending.pop()
        waiting.discard(number)
        for following, this_turn, later_turn in _leaving(blocks[number], transfers[number], reached[number]):
            if following not in body:
                continue
            if following == header:
                this_turn, later_turn = 0, this_turn | later_turn
            before = reached[following]
            now = Reached(before.this_turn | this_turn, before.later_turn | later_turn)
            if now != before:
                reached[following] = now
                if following not in waiting:
                    waiting.add(following)
                    pending.append(following)
    return reached


def _leaving(block: Block, transfer: Transfer, into: Reached) -> Iterable[tuple[int, int, int]]:
    """Yield each block that may follow, with what reaches it."""
    this_turn, later_turn = into
    for following in block.next:
        yield following, this_turn & ~transfer.kill | transfer.bind, later_turn & ~transfer.kill
    if transfer.raises and block.handler is not None:
        kept = ~transfer.kill_before_raise
        yield block.handler, this_turn & kept | transfer.bound_at_raise, later_turn & kept
