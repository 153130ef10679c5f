"""Look at the first boundaries of an attempt, and seldom later, for objects that change and are in no checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import FrameType

import torch

from resumable.audit.harmless import harmless
from resumable.audit.objects.candidates import Candidate, Candidates
from resumable.audit.objects.changes import Change, Changes
from resumable.audit.objects.findings import Finding, Weight, is_ignored, line_of, line_of_scratch
from resumable.audit.objects.fingerprint import generator_state
from resumable.audit.objects.given_objects import given_ids
from resumable.audit.objects.kinds import (
    drives_the_loop,
    holds_handles,
    how_to_save,
    is_array,
    is_data,
    is_iterator,
    is_prepared,
    is_saved_with_data,
    is_training_state,
    may_be_only_shown,
)
from resumable.audit.objects.module_attributes import ModuleAttributes
from resumable.audit.objects.optimizer_findings import forgotten_optimizers, forgotten_parameters
from resumable.audit.objects.optimizer_steps import OptimizerSteps
from resumable.audit.objects.plain_reads import is_a, is_handle
from resumable.audit.objects.user_code import places, user_frames
from resumable.audit.objects.uses import Evidence
from resumable.config.sections import Audit
from resumable.errors import AuditError
from resumable.state.objects.adapter import unwrapped
from resumable.utils.events import warn

LOOKS = 3  # at boundaries, at saves and at ends of epochs, each
MAX_LOOKS = 64  # before the first ones are over, where the clock ends them early
MIN_SECONDS = 60.0  # between two looks at the saves of later epochs


class ObjectWatch:
    """The looks of one attempt. It holds no object of the user's, and no frame.

    `given` returns the objects of the launch by name. `resumes` returns whether the run had checkpoints before.
    """

    def __init__(self, audit: Audit, given: Callable[[], Mapping[str, object]], *, resumes: Callable[[], bool]) -> None:
        self._audit, self._given, self._resumes = audit, given, resumes
        self._candidates, self._changes = Candidates(places(user_frames())), Changes()
        self._attributes, self._steps = ModuleAttributes(), OptimizerSteps()
        self._named: set[str] = set()
        self._looks, self._saves, self._epochs = 0, 0, 0
        self._watches = audit.mode != "off"
        self.looks_at_all = self._watches  # boundaries, until the looks at the first ones are over
        self.saves_seen = 0  # of this attempt, at the last call of `is_due`
        self._awaits_save, self._looked_at = False, 0.0
        self._thread = threading.get_ident()
        if self._watches:
            self._steps.watch()

    def is_due(self, *, saves: int, epoch_ended: bool) -> bool:
        """Return whether to look at this boundary; `saves` is how many there were in this attempt."""
        saved, self.saves_seen = saves != self.saves_seen, saves
        return self._watches and self._is_due(saved=saved, epoch_ended=epoch_ended)

    def look(self, *, has_frames: bool, carried: Collection[str] = ()) -> None:
        """Look at the boundary of now, and log what changed. Raises `AuditError` in the mode `strict`.

        `has_frames` says that the code of the loop is the user's, `carried` are variables that checkpoints have.
        """
        found: list[Finding] = []
        with harmless("the look at objects"):
            found = self._look(user_frames() if has_frames and threading.get_ident() == self._thread else [])
        self._count()
        self._report(each for each in found if not is_ignored(each.name, carried))

    def close(self) -> None:
        """Look no more."""
        self._watches = self.looks_at_all = False
        self._steps.rest()

    # -- when ---------------------------------------------------------------------------------------------------------

    def _is_due(self, *, saved: bool, epoch_ended: bool) -> bool:
        """Return whether to look at this boundary, and prepare the looks that follow."""
        is_early = (saved and self._saves < LOOKS) or (epoch_ended and self._epochs < LOOKS)
        self._saves += saved
        self._epochs += epoch_ended
        self._awaits_save |= epoch_ended
        is_late = time.monotonic() - self._looked_at >= MIN_SECONDS
        if epoch_ended and is_late:
            self._steps.watch()  # until the look of the save that follows
        return self.looks_at_all or is_early or (is_late and saved and self._awaits_save)

    def _count(self) -> None:
        self._looks += 1
        # A look that its clock ended goes on at the next boundary, so that the lines do not depend on the load.
        self.looks_at_all = self._changes.sweeps < LOOKS and self._looks < MAX_LOOKS
        if not self.looks_at_all:
            self._steps.rest()
        self._awaits_save = False
        self._looked_at = time.monotonic()

    # -- one look -----------------------------------------------------------------------------------------------------

    def _look(self, frames: Sequence[FrameType]) -> list[Finding]:
        given = self._given()
        ids = given_ids(given)
        with torch._C.DisableTorchFunction():
            candidates = self._candidates.of(frames)
            changed = self._changes.look(list(_own(candidates, ids)), ids)
        names = {id(each.value): each.path for each in candidates}
        parts = {each.path: each.value for each in candidates if is_a(each.value, (torch.nn.Module, torch.Tensor))}
        steps = self._steps.look()
        found = dict(forgotten_parameters(given, steps, parts))
        found |= dict(forgotten_optimizers(given, ids, steps, names))
        for each in _uncovered(changed, found):
            found.setdefault(id(each.candidate.value), _finding(each))
        with torch._C.DisableTorchFunction():
            names_of = self._candidates
            attributes = self._attributes.look(given, names_of.set_only, names_of.changed, ids)
        return [*found.values(), *attributes]

    def _report(self, found: Iterable[Finding]) -> None:
        """Log each finding once, and raise for what is certain in the mode `strict`."""
        likely = [each for each in found if each.weight is not Weight.WEAK and each.name not in self._named]
        new = [each for each in likely if not is_ignored(each.name, self._audit.ignore)]
        self._named |= {each.name for each in new}
        lines = [line_of(each, resumed=self._resumes()) for each in new if each.weight is Weight.STRONG]
        if lines and self._audit.mode == "strict":
            raise AuditError("; ".join(lines), "save it, or name it in audit.ignore of the config")
        for line in lines:
            warn(line)
        scratch = [each for each in new if each.weight is Weight.SCRATCH]
        if scratch:
            warn(line_of_scratch(scratch))


def _own(candidates: Sequence[Candidate], ids: Collection[int]) -> Iterator[Candidate]:
    """Yield the candidates that are not given, and whose change could say something."""
    in_data = given_ids({each.path: each.value for each in candidates if is_saved_with_data(each.value)})
    left_out = {*ids, *in_data, *_generators_in_data(candidates)}
    for each in candidates:
        with suppress(Exception):  # of one object that cannot be read: the others are looked at
            if _says_something(each, left_out):
                yield each


def _says_something(candidate: Candidate, left_out: Collection[int]) -> bool:
    value = candidate.value
    if not {id(value), id(_inner(value))}.isdisjoint(left_out) or is_handle(value) or is_prepared(value):
        return False
    if (is_iterator(value) and drives_the_loop(value)) or holds_handles(value):
        return False
    return is_training_state(value) or candidate.evidence is not Evidence.NAMED


def _inner(value: object) -> object:
    """Return the object inside of wrappers of torch and Accelerate."""
    return unwrapped(value) if is_a(value, (torch.nn.Module, torch.optim.Optimizer)) else value


def _generators_in_data(candidates: Iterable[Candidate]) -> set[int]:
    """Return the ids of generators that loaders and datasets refer to: they are keyed by address."""
    if not any(generator_state(each.value) for each in candidates):
        return set()
    return given_ids({each.path: each.value for each in candidates if is_data(each.value)})


def _uncovered(changed: Iterable[Change], found: Collection[int]) -> Iterator[Change]:
    """Yield the changes of objects that are no part of another one that changed, the first ones first."""
    left = [each for each in changed if id(each.candidate.value) not in found]
    inside = {id(each): given_ids({"": each.candidate.value}) for each in left if not each.holds_parts}
    for each in list(left):
        if any(id(each.candidate.value) in inside.get(id(other), ()) for other in left if other is not each):
            left.remove(each)
    yield from left


def _finding(change: Change) -> Finding:
    candidate = change.candidate
    advice, adopts = how_to_save(candidate.path, candidate.value, holds_parts=change.holds_parts)
    what = f"changes in the loop and is in no checkpoint ({change.text})"
    return Finding(candidate.path, what, advice, _weight(candidate), adopts)


def _weight(candidate: Candidate) -> Weight:
    evidence = candidate.evidence
    if is_training_state(candidate.value):
        return Weight.WEAK if evidence is Evidence.SET else Weight.STRONG
    if (candidate.only_shown and may_be_only_shown(candidate.value)) or evidence < Evidence.INDEXED:
        return Weight.WEAK
    if is_array(candidate.value) and (evidence is Evidence.INDEXED or candidate.is_overwritten):
        return Weight.SCRATCH
    return Weight.STRONG
