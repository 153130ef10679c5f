"""All that the audit learns from the byte code of one frame, once for each boundary in it. Executes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Code, Graph, blocks_of
from resumable.audit.names.byte_code.counting import counters, recounted_by
from resumable.audit.names.byte_code.instructions import handlers_of, instructions_of
from resumable.audit.names.byte_code.liveness import Crossing, crossing_names
from resumable.audit.names.byte_code.usage import names_that_change_training, result_changes_training


class JudgedCode(NamedTuple):
    """The names that cross a boundary, by class; those that change the training; those that only count.

    `recount` is the function around the trainer's loop that begins to count at 0 after a resume.
    """

    carried: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    changing: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()
    recount: str | None = None

    @property
    def compared(self) -> tuple[str, ...]:
        """Return the names that are noted and compared, those of the code behind the loop left out."""
        return self.carried + self.head


def judge(
    code: CodeType,
    offset: int,
    namespace: Mapping[str, object],
    *,
    flat: bool,
    outermost: int | None,
    inside: bool,
    returns: bool,
) -> JudgedCode:
    """Return what crosses the boundary at `offset`; the other arguments are those of `crossing_names`.

    `returns` says that the caller does more than to print or log what the code returns.
    """
    crossing: Crossing = crossing_names(code, offset, namespace, flat=flat, outermost=outermost, inside=inside)
    listed = Code.of(instructions_of(code), handlers_of(code))
    recount = recounted_by(listed, offset)
    carried, after, head = (tuple(dict.fromkeys(name.text for name in names)) for names in crossing[:3])
    if not carried and not head:
        return JudgedCode(after=after, recount=recount)
    graph = Graph(blocks_of(listed, names=code.co_names))
    changing = names_that_change_training(listed, graph, returns=returns) | {
        name.text for name in crossing.read_by_functions
    }
    return JudgedCode(carried, after, head, changing, counters(listed), recount)


def uses_result(code: CodeType, offset: int) -> bool:
    """Return whether code does more than to print or log what the call returns in which its frame stands."""
    listed = Code.of(instructions_of(code), handlers_of(code))
    return result_changes_training(listed, Graph(blocks_of(listed, names=code.co_names)), listed.index_of(offset))
