"""The control flow of one code object, as a graph of basic blocks. Independent of names.

A `with` is taken to let exceptions pass, unless the code names `suppress`. Otherwise whatever a `with autocast():`
binds might be missing behind it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from resumable.audit.names.byte_code.instructions import Handler, Instruction

_NO_NEXT = {
    "RETURN_VALUE",
    "RETURN_CONST",
    "RAISE_VARARGS",
    "RERAISE",
    "INTERPRETER_EXIT",
    "JUMP_FORWARD",
    "JUMP_BACKWARD",
    "JUMP_BACKWARD_NO_INTERRUPT",
}
_FARTHEST_JUMP = 6  # instructions, from the call of `__exit__` to the jump that depends on its result


@dataclass
class Block:
    """Instructions from `first` up to `end`, entered only at the first. An exception in it goes to the block `handler`.

    Behind a FOR_ITER, which is a block of its own, the first of `next` is the body.
    """

    first: int
    end: int
    next: list[int] = field(default_factory=list)
    handler: int | None = None


@dataclass(frozen=True)
class Code:
    """The instructions of one code object, their handlers, and where each offset is among them."""

    instructions: Sequence[Instruction]
    handlers: Sequence[Handler]
    index_at: Mapping[int, int]

    @classmethod
    def of(cls, instructions: Sequence[Instruction], handlers: Sequence[Handler]) -> Code:
        """Return the code with its index."""
        return cls(instructions, handlers, {each.offset: index for index, each in enumerate(instructions)})

    def index_of(self, offset: int) -> int:
        """Return the instruction in which a frame with this `f_lasti` stands, which may be in an inline cache."""
        return bisect_right(self.instructions, offset, key=lambda each: each.offset) - 1


def blocks_of(code: Code, *, split: Collection[int] = (), names: Collection[str] = ()) -> list[Block]:
    """Return the blocks in their order. Those in `split` are blocks of their own; `names` are those of the code."""
    leaders = sorted(_leaders(code, split))
    block_of = {first: number for number, first in enumerate(leaders)}
    blocks = [Block(first, end) for first, end in zip(leaders, [*leaders[1:], len(code.instructions)], strict=True)]
    swallowing = set() if "suppress" in names else _swallowing_jumps(code.instructions)
    for number, block in enumerate(blocks):
        last = code.instructions[block.end - 1]
        if last.op not in _NO_NEXT and number + 1 < len(blocks):
            block.next.append(number + 1)
        if last.target is not None and block.end - 1 not in swallowing:
            block.next.append(block_of[code.index_at[last.target]])
    for handler in code.handlers:
        first = block_of[code.index_at[handler.start]]
        end = block_of[code.index_at[handler.end]] if handler.end in code.index_at else len(blocks)
        for block in blocks[first:end]:
            block.handler = block_of[code.index_at[handler.target]]
    return blocks


def _leaders(code: Code, split: Collection[int]) -> set[int]:
    """Return the indices of instructions at which a block begins."""
    leaders = {0, *split, *(index + 1 for index in split)}
    for index, instruction in enumerate(code.instructions):
        if instruction.target is not None:
            leaders.update((index + 1, code.index_at[instruction.target]))
            if instruction.op == "FOR_ITER":
                leaders.add(index)
        elif instruction.op in _NO_NEXT:
            leaders.add(index + 1)
    for handler in code.handlers:
        leaders.update(code.index_at.get(at, 0) for at in (handler.start, handler.end, handler.target))
    return {leader for leader in leaders if leader < len(code.instructions)}


def _swallowing_jumps(instructions: Sequence[Instruction]) -> set[int]:
    """Return the jumps that are taken where a `with` swallows its exception."""
    found = set()
    for index, instruction in enumerate(instructions):
        if instruction.op == "WITH_EXCEPT_START":
            near = range(index, min(index + _FARTHEST_JUMP, len(instructions)))
            found.update([at for at in near if instructions[at].target is not None][:1])
    return found


class Graph:
    """The blocks of one code object, the first one where it begins. What is derived from them is computed once."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks

    @cached_property
    def after(self) -> list[list[int]]:
        """Return the blocks that may follow each block, a handler included."""
        return [block.next if block.handler is None else [*block.next, block.handler] for block in self.blocks]

    @cached_property
    def before(self) -> list[list[int]]:
        """Return the blocks that each block may follow."""
        before: list[list[int]] = [[] for _ in self.blocks]
        for number, following in enumerate(self.after):
            for each in following:
                before[each].append(number)
        return before

    @cached_property
    def order(self) -> list[int]:
        """Return the blocks that can be reached, each before those that follow it, but for loops: reverse postorder."""
        order: list[int] = []
        seen = [True] + [False] * (len(self.blocks) - 1)
        stack = [(0, iter(self.after[0]))]
        while stack:
            block, following = stack[-1]
            for each in following:
                if not seen[each]:
                    seen[each] = True
                    stack.append((each, iter(self.after[each])))
                    break
            else:
                order.append(block)
                stack.pop()
        return order[::-1]
