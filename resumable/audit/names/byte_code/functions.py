"""The effects on names of the functions that a piece of code calls by name. Executes nothing."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Code, Graph, blocks_of
from resumable.audit.names.byte_code.effects import Effect, Name, Scope, effects_of
from resumable.audit.names.byte_code.instructions import handlers_of, instructions_of
from resumable.audit.names.byte_code.transfer import Summary, live_names, transfer_of

MOST_INSTRUCTIONS = 100_000
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_NEWLOCALS = 0x2


class _Function(NamedTuple):
    scope: Scope
    effects: Sequence[Sequence[Effect]]
    graph: Graph


def summaries(scope: Scope, effects: Iterable[Sequence[Effect]]) -> dict[CodeType, Summary]:
    """Return what each function reads and binds that these effects call, and those that these call in turn."""
    functions = _called(scope, effects)
    found: dict[CodeType, Summary] = dict.fromkeys(functions, Summary())
    changed = True
    while changed:  # functions may call each other
        changed = False
        for code in reversed(functions):
            summary = _summary(functions[code], found)
            changed |= summary != found[code]
            found[code] = summary
    return found


def _called(scope: Scope, effects: Iterable[Sequence[Effect]]) -> dict[CodeType, _Function]:
    found: dict[CodeType, _Function] = {}
    pending = [code for several in effects for effect in several for code in effect.calls]
    instructions = 0
    while pending:
        code = pending.pop()
        if code in found or instructions > MOST_INSTRUCTIONS:
            continue
        inner = scope._replace(code=code, flat=False)
        listed = Code.of(instructions_of(code), handlers_of(code))
        instructions += len(listed.instructions)
        found[code] = _Function(inner, effects_of(inner, listed), Graph(blocks_of(listed, names=code.co_names)))
        pending += [each for several in found[code].effects for effect in several for each in effect.calls]
    return found


def _summary(function: _Function, known: Mapping[CodeType, Summary]) -> Summary:
    scope, effects, graph = function
    transfers = [transfer_of(effects, block, known) for block in graph.blocks]
    bound = 0
    for several in effects:
        for effect in several:
            bound |= effect.bind
            for code in effect.calls:
                bound |= known.get(code, Summary()).bind
    use = live_names(graph, transfers)[0]
    return Summary(_outside(scope, use, reads=True), _outside(scope, bound, reads=False))


def _outside(scope: Scope, mask: int, *, reads: bool) -> int:
    """Return the names of the mask that are not the function's own. A class body reads the names of its module."""
    code, bits, kept = scope.code, scope.bits, 0
    for name in bits.names(mask):
        if name.is_global or name.text in code.co_freevars:
            kept |= bits.bit(name)
        elif reads and not code.co_flags & _NEWLOCALS:
            kept |= bits.bit(Name(name.text, is_global=True))
    return kept


def binds_globals(code: CodeType, namespace: Mapping[str, object]) -> bool:
    """Return whether the code, or a function of its module that it may call, binds a global name."""
    seen: set[CodeType] = set()
    pending = [code]
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        seen.add(at)
        if _STORE_GLOBAL in at.co_code[::2]:
            return True
        pending += [constant for constant in at.co_consts if isinstance(constant, CodeType)]
        named = (namespace.get(name) for name in at.co_names)
        pending += [each.__code__ for each in named if isinstance(each, FunctionType) and each.__globals__ is namespace]
    return False
