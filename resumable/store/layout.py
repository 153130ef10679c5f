"""The names of a run's files and folders. Independent of their content; touches none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

RUN_FILE = "run.json"
LOCK = "lock"
ATTEMPTS = "attempts"
CHECKPOINTS = "checkpoints"
JOURNAL = "journal"
PINS = "pins"
MANIFEST = "manifest.json"

ATTEMPTS_KEPT = 100  # files of attempts this far below the newest are deleted, and their place in the lineage ends

MAX_BLOB_NAME_BYTES = 200
MAX_NUMBER = 10**18 - 1  # of steps, epochs and attempts: a name has 18 digits at most
MAX_SLAB_OWNER_BYTES = 142  # of an object whose files of slabs have valid names at any step

_CHECKPOINT = re.compile(r"step-([0-9]{9,18})\.e([0-9]{4,18})\.a([0-9]{4,18})")
_ATTEMPT = re.compile(r"([0-9]{6,18})\.json")
_JOURNAL = re.compile(r"([0-9]{6,18})(?:\.([0-9]{4,18}))?\.jsonl")
_PART = re.compile(r"0|[1-9][0-9]{0,8}")  # of the name of an object inside of a list, between dots
_DOT = "--"  # of an object's name, in the names of its files; no identifier holds it
_TENSORS = re.compile(r"([^.]+)(?:\.frozen)?(?:\.rank[0-9]{5})?\.safetensors")
_SLABS = re.compile(r"([^.]+)(?:\.rank[0-9]{5})?\.slabs-s([0-9]{9,18})-e([0-9]{4,18})\.safetensors")
_RANK = re.compile(r"\.rank([0-9]{5})\.")
_STATE = re.compile(r"state\.rank([0-9]{5})\.json")


@dataclass(frozen=True)
class CheckpointName:
    """The step, epoch and attempt of a checkpoint; unique within a run, because the attempt is."""

    step: int
    epoch: int
    attempt: int

    def __post_init__(self) -> None:
        # A folder with more digits is not of this format, so a checkpoint in it would never be found.
        if not all(0 <= number <= MAX_NUMBER for number in (self.step, self.epoch, self.attempt)):
            raise ValueError(
                f"step {self.step}, epoch {self.epoch}, attempt {self.attempt}: expected 0 to {MAX_NUMBER}"
            )

    def __str__(self) -> str:
        return f"step-{self.step:09d}.e{self.epoch:04d}.a{self.attempt:04d}"

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Return the name whose only spelling is `text`, or None."""
        match = _CHECKPOINT.fullmatch(text)
        name = cls(*map(int, match.groups())) if match else None
        return name if str(name) == text else None

    @property
    def place(self) -> tuple[int, int]:
        """Return its order within one attempt: a larger one is newer."""
        return self.step, self.epoch

    @property
    def order(self) -> tuple[int, int, int]:
        """Return its order within a run: a higher attempt is newer, at any step."""
        return self.attempt, self.step, self.epoch


def checkpoint_path(name: CheckpointName, file: str = "") -> str:
    """Return the path of the folder of a checkpoint, or of a file in it."""
    folder = f"{CHECKPOINTS}/{name}"
    return f"{folder}/{file}" if file else folder


def attempt_path(number: int) -> str:
    if not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"attempt {number}: expected 1 to {MAX_NUMBER}")
    return f"{ATTEMPTS}/{number:06d}.json"


def pin_path(name: CheckpointName) -> str:
    return f"{PINS}/{name}"


def parse_attempt(file_name: str) -> int | None:
    """Return the number of the attempt whose file has this name, or None."""
    match = _ATTEMPT.fullmatch(file_name)
    number = int(match[1]) if match else 0
    return number if number and attempt_path(number) == f"{ATTEMPTS}/{file_name}" else None


def journal_path(attempt: int, part: int) -> str:
    """Return the path of a file of an attempt's journal: `000003.jsonl`, and for later parts `000003.0001.jsonl`."""
    if not (1 <= attempt <= MAX_NUMBER and 0 <= part <= MAX_NUMBER):
        raise ValueError(f"attempt {attempt}, part {part}: expected 1 to {MAX_NUMBER}, and 0 to {MAX_NUMBER}")
    return f"{JOURNAL}/{attempt:06d}.{part:04d}.jsonl" if part else f"{JOURNAL}/{attempt:06d}.jsonl"


def parse_journal(file_name: str) -> tuple[int, int] | None:
    """Return the attempt and the part of the file of a journal that has this name, or None."""
    match = _JOURNAL.fullmatch(file_name)
    attempt, part = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    return (attempt, part) if attempt and journal_path(attempt, part) == f"{JOURNAL}/{file_name}" else None


def state_name(rank: int) -> str:
    """Return the name of the blob for everything of a rank that is not a tensor."""
    return f"state.rank{rank:05d}.json"


def is_state_name(file_name: str) -> bool:
    """Return whether a blob of this name holds what is not a tensor."""
    return _STATE.fullmatch(file_name) is not None


def tensors_name(owner: str) -> str:
    """Return the name of the file for the tensors of an object."""
    return f"{stem(owner)}.safetensors"


def frozen_name(owner: str) -> str:
    """Return the name of the file for those tensors of an object that seldom change."""
    return f"{stem(owner)}.frozen.safetensors"


def slab_name(owner: str, *, step: int, epoch: int) -> str:
    """Return the name of the file for the slabs of an object that are written at this step and epoch."""
    return f"{stem(owner)}.slabs-s{step:09d}-e{epoch:04d}.safetensors"


def is_slab_name(file_name: str) -> bool:
    """Return whether this is a valid name of a blob of slabs: `OBJECT.slabs-s000000100-e0001.safetensors`.

    OBJECT may be followed by `.rank00000`. The step and epoch are those of the checkpoint for which it was written.
    """
    match = _SLABS.fullmatch(file_name)
    return match is not None and all(str(int(match[n])).zfill(width) == match[n] for n, width in ((2, 9), (3, 4)))


def is_blob_name(file_name: str) -> bool:
    """Return whether this is a valid name of a blob: `OBJECT.safetensors` or `state.rank00000.json`, or of slabs.

    The first also with `.frozen`, with `.rank00000`, or with both in this order behind OBJECT.
    """
    if len(file_name.encode("utf-8", "replace")) > MAX_BLOB_NAME_BYTES:
        return False
    match = _TENSORS.fullmatch(file_name) or (_SLABS.fullmatch(file_name) if is_slab_name(file_name) else None)
    return _is_name(match[1].split(_DOT)) if match else is_state_name(file_name)


def object_of(file_name: str) -> str | None:
    """Return the object whose tensors a blob of this name holds; None for a state file."""
    return None if is_state_name(file_name) else file_name.partition(".")[0].replace(_DOT, ".")


def rank_of(file_name: str) -> int:
    """Return the rank that wrote a blob of this name; 0 where it names none."""
    match = _RANK.search(file_name)
    return int(match[1]) if match else 0


def is_object_name(name: str) -> bool:
    """Return whether this is a valid name of an object: `model`, or `layers.0` where it is in a container."""
    return len(name.encode()) <= MAX_BLOB_NAME_BYTES and _is_name(name.split("."))


def _is_name(parts: list[str]) -> bool:
    first, *others = parts
    return first.isidentifier() and all(part.isidentifier() or _PART.fullmatch(part) for part in others)


def stem(owner: str) -> str:
    """Return the name of an object as it stands in the names of its files, whose dots have other meanings."""
    return owner.replace(".", _DOT)


def is_blob_path(path: str) -> bool:
    """Return whether `path` is the path of a blob in a checkpoint of a run."""
    top, _, rest = path.partition("/")
    folder, _, file_name = rest.partition("/")
    return top == CHECKPOINTS and CheckpointName.parse(folder) is not None and is_blob_name(file_name)


def checkpoint_of(path: str) -> CheckpointName:
    """Return the checkpoint whose folder holds the blob at `path`; `ValueError` if that is no path of a blob."""
    name = CheckpointName.parse(path.split("/")[1]) if is_blob_path(path) else None
    if name is None:
        raise ValueError(f"{path!r} is not the path of a blob")
    return name


def is_own_name(file_name: str) -> bool:
    """Return whether a checkpoint's folder may hold such a file, so that deleting the checkpoint removes it."""
    return file_name == MANIFEST or is_blob_name(file_name)
