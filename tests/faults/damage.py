"""Every damage to the files of a run, as new contents for some of them; pure, and ignorant of formats.

A damage is done to one file of the newest checkpoint, or of the run itself, or to several checkpoints at once. What a
reader then owes is the newest checkpoint that was left whole, and never the damaged values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

BLOCK_BYTES = 512
PAGE_BYTES = 4096

FLIPPED, CUT, ZEROED, APPENDED, REMOVED, SWAPPED, FOREIGN = KINDS = (
    *("bit flipped", "file cut short", "page zeroed", "bytes appended", "file removed"),
    *("files swapped between checkpoints", "files of another run"),
)

Tree = Mapping[str, bytes]
StepOf = Callable[[Path], int | None]


@dataclass(frozen=True)
class Damage:
    """`contents` are the new ones by path, None where a file is gone; `whole` is the newest step left whole, or 0."""

    kind: str
    what: str
    contents: Mapping[str, bytes | None]
    whole: int

    def make(self, tree: Tree, folder: Path) -> None:
        """Write the damaged tree into an empty folder."""
        for name, data in {**tree, **self.contents}.items():
            if data is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)


def read_tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def damages(tree: Tree, foreign: Tree, step_of: StepOf, *, flips: int) -> Iterator[Damage]:
    """All damages to `tree`. `flips`: how many bits to flip in each file, spread over it; its ends are always hit.

    `foreign` is another run, with other values and files of the same names.
    """
    steps = {name: step_of(Path(name)) for name in tree}
    known = sorted({step for step in steps.values() if step is not None})
    newest = known[-1]

    def damage(kind: str, what: str, contents: Mapping[str, bytes | None]) -> Damage:
        hurt = {steps[name] for name in contents}
        return Damage(kind, what, contents, max((step for step in known if step not in hurt), default=0))

    for name in (name for name, step in steps.items() if step in (None, newest)):
        for kind, what, data in _of_one_file(tree[name], flips):
            yield damage(kind, f"{name}: {what}", {name: data})
    for what, contents in _swaps(tree, steps, newest):
        yield damage(SWAPPED, what, contents)
    theirs = {name: data for name, data in foreign.items() if name in tree and steps[name] == newest}
    for name, data in theirs.items():
        yield damage(FOREIGN, name, {name: data})
    if len(theirs) > 1:
        yield damage(FOREIGN, "all of a checkpoint", theirs)


def _of_one_file(data: bytes, flips: int) -> Iterator[tuple[str, str, bytes | None]]:
    for place in _spread(len(data), flips):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        yield FLIPPED, f"bit {place % 8} of byte {place}", bytes(changed)
    for length in sorted({*range(0, len(data), BLOCK_BYTES), *([len(data) - 1] if data else [])}):
        yield CUT, f"to {length} bytes", data[:length]
    for start in range(0, len(data), PAGE_BYTES):
        page = data[start : start + PAGE_BYTES]
        if any(page):
            yield ZEROED, f"from byte {start}", data[:start] + bytes(len(page)) + data[start + PAGE_BYTES :]
    for what, more in (("a zero", b"\0"), ("a page of zeros", bytes(PAGE_BYTES)), ("itself", data)):
        if more:
            yield APPENDED, what, data + more
    yield REMOVED, "removed", None


def _spread(size_bytes: int, count: int) -> list[int]:
    ends = {*range(min(16, size_bytes)), *range(max(0, size_bytes - 16), size_bytes)}
    return sorted(ends | {number * size_bytes // count for number in range(count) if size_bytes})


def _swaps(tree: Tree, steps: Mapping[str, int | None], newest: int) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Each file of the newest checkpoint with its namesake in each older one, one way and both ways; and whole ones."""
    for older in sorted({step for step in steps.values() if step is not None and step < newest}):
        pairs = [
            (name, other)
            for name, other in ((name, _namesake(name, steps, older)) for name in tree if steps[name] == newest)
            if other is not None
        ]
        for name, other in pairs:
            yield f"{other} over {name}", {name: tree[other]}
            yield f"{other} with {name}", {name: tree[other], other: tree[name]}
        both = {name: tree[other] for name, other in pairs} | {other: tree[name] for name, other in pairs}
        yield f"all of {older} with all of {newest}", both


def _namesake(name: str, steps: Mapping[str, int | None], step: int) -> str | None:
    file_name = PurePosixPath(name).name
    found = (other for other, its in steps.items() if its == step and PurePosixPath(other).name == file_name)
    return next(found, None)
