"""Which names a turn of a loop carries into the next one: backward liveness and forward reach, one bit a name. Pure.

A value crosses a boundary if some turn binds it, it reaches the boundary over a back edge, and it may be read before it
is bound again. Inner `for` loops are taken to make at least one turn, and so is the loop itself after a resume. What is
changed in place, attributes, and names in `exec` are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Code, Graph, blocks_of
from resumable.audit.names.byte_code.effects import Bits, Name, Scope, effects_of
from resumable.audit.names.byte_code.functions import MOST_INSTRUCTIONS, binds_globals, summaries
from resumable.audit.names.byte_code.instructions import handlers_of, instructions_of
from resumable.audit.names.byte_code.loops import DominatorTree, Loop, loops_around, with_other_loops_turning
from resumable.audit.names.byte_code.transfer import Transfer, live_names, reach_of_bindings, transfer_of

_REQUESTS = ("next", "__next__", "anext", "send")
_NO_BLOCK = -1
_NEAR = 10  # instructions between the name of such a function and its call


class TooLongError(Exception):
    """The code has too many instructions to be judged in time."""


class Crossing(NamedTuple):
    """The names that cross a boundary.

    `carried`: a later turn may read what an earlier one bound. `after`: only code behind the loop reads it, and not
    every turn binds it; or it is carried only where an inner `for` makes no turn. `head`: it was bound in this very
    turn before the boundary, as at the head of an epoch. `read_by_functions`: functions that the code calls read them.
    """

    carried: tuple[Name, ...] = ()
    after: tuple[Name, ...] = ()
    head: tuple[Name, ...] = ()
    read_by_functions: tuple[Name, ...] = ()


def crossing_names(
    code: CodeType,
    offset: int,
    namespace: Mapping[str, object],
    *,
    flat: bool,
    outermost: int | None = None,
    inside: bool = False,
) -> Crossing:
    """Return what crosses the boundary at which a frame of this code waits for its next item.

    Args:
        code: The code of the frame.
        offset: Its `f_lasti`.
        namespace: Its globals; functions of the same module are followed by their names.
        flat: Whether its names are globals, as those of a module.
        outermost: The `f_lasti` at the run's outermost loop, if that is in the same frame. Loops around that one begin
            again with the program, and carry nothing.
        inside: Whether the outermost loop is in another frame, which called this one: then all that this function
            bound on its way to the boundary, its arguments included, is the head of a turn.

    Raises:
        TooLongError: The code has more than 100,000 instructions.
    """
    listed = Code.of(instructions_of(code), handlers_of(code))
    if len(listed.instructions) > MOST_INSTRUCTIONS:
        raise TooLongError(f"{code.co_name} has more than {MOST_INSTRUCTIONS} instructions")
    followed = namespace if flat or binds_globals(code, namespace) else {}
    return crossing_in(listed, Scope(code, followed, flat, Bits()), offset, outermost, inside=inside)


def crossing_in(code: Code, scope: Scope, offset: int, outermost: int | None, *, inside: bool) -> Crossing:
    """Return what crosses the boundary at `offset`, for code that is listed already."""
    point = code.index_of(offset)
    around = point if outermost is None else code.index_of(outermost)
    graph = Graph(blocks_of(code, split={point, around}, names=scope.code.co_names))
    number = {block.first: number for number, block in enumerate(graph.blocks)}
    tree = DominatorTree(graph)
    all_loops = loops_around(graph, tree, number[point])
    if around != point:
        limit = next((loop.body for loop in loops_around(graph, tree, number[around])), frozenset[int]())
        loops = [loop for loop in all_loops if loop.body <= limit]
    else:
        # `list(...)` and a function of the user's that has the loop: the loops around it are not those of the run
        loops = all_loops[:1] if _requests(code, point) else []
    if not loops and not inside:
        return Crossing()
    effects = effects_of(scope, code)
    known = summaries(scope, effects)
    boundary = _Boundary(graph, number[point], is_for=code.instructions[point].op == "FOR_ITER")
    transfers = [transfer_of(effects, block, known) for block in graph.blocks]
    possible, after, head = _crossing(boundary, transfers, loops)
    if inside:
        head |= _bound_before(boundary, transfers, scope) & ~possible & ~after
    if possible | after:
        turning, same = with_other_loops_turning(code, graph, tree, point=boundary.block, around=all_loops)
        transfers += [transfer_of(effects, block, known) for block in turning.blocks[len(transfers) :]]
        headers = {loop.header for loop in loops}
        same = [loop for loop in same if loop.header in headers]
        likely, _, _ = _crossing(boundary._replace(graph=turning), transfers, same)
        possible, after = possible & likely, after | possible & ~likely
    read = _joined(summary.use for summary in known.values())
    return Crossing(*map(scope.bits.names, (possible, after, head & ~possible & ~after, read)))


class _Boundary(NamedTuple):
    graph: Graph
    block: int
    is_for: bool


def _requests(code: Code, point: int) -> bool:
    """Return whether every turn of the loop around requests one item here: by a `for`, a `yield from`, or `next`."""
    if code.instructions[point].op in ("FOR_ITER", "SEND"):
        return True
    return any(each.value in _REQUESTS for each in code.instructions[max(0, point - _NEAR) : point])


def _crossing(boundary: _Boundary, transfers: Sequence[Transfer], loops: Sequence[Loop]) -> tuple[int, int, int]:
    """Return the carried names, those that only code behind a loop reads, and those bound in this turn, as bits."""
    graph = boundary.graph
    live = _at(boundary, live_names(graph, transfers)) if loops else 0
    carried = after = head = 0
    for loop in loops:
        inside = _at(boundary, live_names(graph, transfers, loop.body))
        reached = reach_of_bindings(graph, transfers, loop.header, loop.body)[boundary.block]
        crosses = live & reached.later_turn
        carried |= crosses & inside
        after |= crosses & ~inside
        head |= live & reached.this_turn & ~reached.later_turn
    return carried, after & ~carried, head & ~carried & ~after


def _bound_before(boundary: _Boundary, transfers: Sequence[Transfer], scope: Scope) -> int:
    """Return the names that are read behind the boundary, and bound by the function before, as arguments are."""
    graph = boundary.graph
    reached = reach_of_bindings(graph, transfers, _NO_BLOCK, frozenset(graph.order))[boundary.block]
    arguments = scope.code.co_varnames[: scope.code.co_argcount + scope.code.co_kwonlyargcount]
    bound = reached.this_turn | _joined(scope.bits.bit(Name(name)) for name in arguments)
    return bound & _at(boundary, live_names(graph, transfers))


def _at(boundary: _Boundary, live: Sequence[int]) -> int:
    """Return what is live at the boundary. A resume makes at least one turn, so a FOR_ITER goes on into its body."""
    following = boundary.graph.blocks[boundary.block].next
    return _joined(live[each] for each in (following[:1] if boundary.is_for else following))


def _joined(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
