"""Passes over iterable-style datasets: by their own `state_dict`, else replayed in the same number of workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from resumable.data.libraries import huggingface_datasets
from resumable.data.pass_base import Opening, Pass, PassPosition, StoredPosition, length_of
from resumable.data.passes.handed_out import HandedOut, OtherBatchesError, marks_in
from resumable.data.passes.keyed_loader import build_loader, iterate
from resumable.data.passes.keyed_stream import KeyedStream, Ticket
from resumable.data.passes.loader_stream import named
from resumable.data.passes.replay import check_workers, replay, type_of, workers_of
from resumable.data.passes.state_trial import Verdict, is_known, tried
from resumable.data.passes.stream_state import StreamState
from resumable.data.workers import end_iterator, end_workers
from resumable.errors import LoopError
from resumable.stateful import Stateful, has_state_dict


class StreamSource:
    """One of our loaders over a stream, kept as long as the user's loader lives."""

    def __init__(self) -> None:
        self._loader: DataLoader[Any] | None = None
        self._ticket = Ticket()
        self._active: StreamPass | None = None
        self.stream: KeyedStream | None = None

    def start(
        self, loader: DataLoader[Any], opening: Opening, owner: StreamPass, *, first: int, late: bool
    ) -> Iterator[Any]:
        """Return the batches from `first` on; close a pass that still holds the persistent workers."""
        if self._loader is None or not loader.persistent_workers:
            self._ticket = Ticket()
            self.stream = KeyedStream(loader, self._ticket, opening.generator_rule)
            self._loader = build_loader(loader, opening, self.stream, None)
        elif self._active is not None:
            self._active.close()
        assert self.stream is not None
        self._active = owner
        self._ticket.write(opening.key, opening.epoch)
        self.stream.start, self.stream.late = first, late
        return iterate(self._loader, opening.signals)

    def close(self) -> None:
        """Shut down the workers."""
        end_workers(self._loader)
        self._loader = None


class StreamPass(Pass[Any]):
    """One pass over an iterable dataset."""

    def __init__(
        self, loader: DataLoader[Any], opening: Opening, source: StreamSource, verdicts: dict[int, Verdict]
    ) -> None:
        """`verdicts` are those on states that were tried in this program, by the id of the user's object."""
        super().__init__(opening.address)
        self._opening, self._verdicts = opening, verdicts
        self.length = length_of(loader)
        self._loader: DataLoader[Any] | None = loader  # kept alive: its workers end with it
        self._persistent = bool(loader.persistent_workers)
        self._workers = workers_of(loader)
        self._dataset = loader.dataset
        owner = named(self._dataset)
        self._what = type_of(owner)
        self._source = source
        self._shuffles = huggingface_datasets.shuffles_by_buffer(self._dataset)
        stateful = None if self._shuffles else stateful_dataset(loader)
        self._kind = "replay" if stateful is None else "state"
        stateful = None if verdicts.get(id(owner)) is Verdict.DIFFERS else stateful
        self._state = None if stateful is None else StreamState(stateful, owner, self._what, opening.address)
        check_workers(opening, self._workers)
        self._check_kind(opening)
        marks = marks_in(opening.resume)
        self._handed = HandedOut(
            opening.address, self._dataset, self._what, marks, tolerate=opening.tolerate, note=self._note(opening)
        )
        self._is_checked = True  # whether the digests are of the whole pass
        self._batches: Iterator[Any] | None = None
        self._open(opening)

    def _open(self, opening: Opening) -> None:
        stored, state = opening.resume, self._state
        if state is None or stored is None:
            self._begin(opening)
            replay(self, opening, self._what, self._faster_hint())
        elif stored["kind"] == "state" and (marks_in(stored) is None or not opening.batches_done):
            self._is_checked = not opening.batches_done  # an earlier version did not store what would prove the state
            self._load(state, stored, opening, opening.batches_done)
        elif not self._prove(state, stored, opening):
            self._begin(opening)
            replay(self, opening, self._what, _why_replayed(stored, opening.batches_done))

    def _begin(
        self, opening: Opening, count: int = 0, digest: str = "", *, late: bool = False, is_proof: bool = False
    ) -> None:
        assert self._loader is not None
        self._handed.restart(count, digest, is_proof=is_proof)
        self._batches = self._source.start(self._loader, opening, self, first=count, late=late)
        self._live = self._source.stream.live if self._source.stream else None

    def _load(
        self, state: StreamState, stored: StoredPosition, opening: Opening, count: int, *, late: bool = False
    ) -> None:
        self.replayed = True
        state.load(stored)
        self._begin(opening, count, stored.get("digest", ""), late=late, is_proof=count < opening.batches_done)
        state.load_iterator(stored, self._iterator)

    def _prove(self, state: StreamState, stored: StoredPosition, opening: Opening) -> bool:
        """Load the earlier state, read on to the position, and return whether the batches are those before."""
        proof = stored.get("proof")
        if proof is None:
            return False
        for late in (False, True):
            self._load(state, proof, opening, proof["batches"], late=late)
            state.begin_at(proof)
            with contextlib.suppress(OtherBatchesError, StopIteration):
                while self._handed.count < opening.batches_done:
                    self._fetch()
                return True
            end_iterator(self._batches)
        state.unload()
        return False

    def _note(self, opening: Opening) -> str:
        """Return what else may be the cause where a resume makes other batches."""
        before = opening.resume["kind"] if opening.resume else self._kind
        if before != self._kind:
            return f". The checkpoint holds a position by {before}, and the data now goes by {self._kind}"
        if self._state is None:
            return ""
        return (
            ". Or its state_dict is incomplete, and load_state_dict changed what a replay begins from: without the two "
            "methods a dataset is replayed"
        )

    def _faster_hint(self) -> str:
        if self._shuffles:
            return huggingface_datasets.LEFT_OUT
        if has_state_dict(self._dataset):
            return "fast instead: num_workers=0, with which the state_dict of the dataset is used"
        return (
            "fast instead: state_dict and load_state_dict on the dataset, which go on at the very next sample (what "
            "waits in buffers is part of the state), and num_workers=0"
        )

    def _check_kind(self, opening: Opening) -> None:
        if opening.resume is None or (opening.resume["kind"], self._shuffles) == ("state", True):
            return  # that state is of an earlier version, and incomplete; the count of batches is not
        if opening.resume["kind"] != self._kind and marks_in(opening.resume) is None:
            raise LoopError(
                f"{opening.address}: the checkpoint holds the dataset's position by {opening.resume['kind']}, now it "
                f"would go by {self._kind}",
                "state_dict and load_state_dict of the dataset must be there, or missing, as when the run began",
            )

    @property
    def _iterator(self) -> object:
        return self._live.items if self._live else None

    def _fetch(self) -> Any:
        assert self._batches is not None
        if self._state is not None and self._is_checked and self._state.is_due(self._handed.count):
            self._state.keep(self._handed.count, self._handed.digest(), self._iterator)
        batch = next(self._batches)
        if self._state is not None:
            self._state.drop_used()
        self._handed.add(batch)
        return batch

    def _try_state(self) -> None:
        """Try the state once, at the first save that has an earlier one; replay from then on where it misleads."""
        proof = self._state.proof if self._state is not None else None
        owner = id(named(self._dataset))
        if proof is None or not self._is_checked or self._loader is None or owner in self._verdicts:
            return
        if is_known(self._dataset):
            self._verdicts[owner] = Verdict.UNPROVED
            return
        digest, warn = self._handed.digest(), self._opening.warn
        verdict = tried(self._loader, self._opening, proof, count=self._handed.count, digest=digest)
        self._verdicts[owner] = verdict
        if verdict is Verdict.DIFFERS:
            self._state = None
            warn(f"{self._what}: {_MISLEADS}; so a resume replays it from its start; {_WHOLE_STATE}")
        elif verdict is Verdict.UNPROVED:
            warn(
                f"{self._what}: its state_dict is unproved, for no copy of it could be tried within 5 s: it is used, "
                "and a resume compares the batches before the checkpoint"
            )

    def _position(self) -> PassPosition:
        self._try_state()
        position = {"kind": self._kind, "batches": self._handed.count, "workers": self._workers}
        if self._is_checked:
            position |= self._handed.position()
        if self._state is None or self._finished:
            return position | {"dataset": None, "iterator": None}
        return position | self._state.now(self._iterator) | ({"proof": self._state.proof} if self._is_checked else {})

    def _release(self) -> None:
        if not self._persistent:
            end_iterator(self._batches)
        self._batches = self._loader = None


_MISLEADS = "its state_dict does not lead to the batches that followed it"
_WHOLE_STATE = "fast instead: a state_dict that holds all that waits in buffers"


def _why_replayed(stored: StoredPosition, batches: int) -> str | None:
    """Return why a state is not used; None where there is so little to read again that nobody has to know."""
    if stored.get("proof") is not None:
        return f"{_MISLEADS}, so samples would be lost or read twice; {_WHOLE_STATE}"
    if batches <= 1:
        return None
    return f"the checkpoint holds no state of it, for {_MISLEADS}, or was not of plain values; {_WHOLE_STATE}"


def stateful_dataset(loader: DataLoader[object]) -> Stateful | None:
    """Return the loader's dataset if its position is in its own state: in workers it would be in theirs."""
    return loader.dataset if not workers_of(loader) and has_state_dict(loader.dataset) else None
