"""The parts of a launch that write into its run; they begin with the attempt. Independent of objects and loops."""

from __future__ import annotations

from dataclasses import dataclass

from resumable.checkpointing.capture.outlines import StructureWatch
from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.commit import Commits
from resumable.checkpointing.position import Position
from resumable.checkpointing.save_pipeline import SavePipeline
from resumable.config.config import Config
from resumable.run.checkpoint import Checkpoint
from resumable.state.staging.stager import Stager
from resumable.store.catalog import Catalog
from resumable.store.journal.writer import JournalWriter
from resumable.store.storage.retry import PatientStorage
from resumable.utils.events import warn


@dataclass(frozen=True)
class BegunAttempt:
    """A claimed attempt, and what adds checkpoints and a journal to its run."""

    opened: OpenedRun
    commits: Commits
    pipeline: SavePipeline
    structure: StructureWatch
    journal: JournalWriter | None

    @classmethod
    def of(
        cls,
        config: Config,
        storage: PatientStorage,
        catalog: Catalog,
        opened: OpenedRun,
        position: Position,
        *,
        stager: Stager,
        started: float,
    ) -> BegunAttempt:
        """Return the parts of this attempt, which begins at `position`. `started` is its monotonic time in seconds."""
        journal = _journal(config, storage, opened)
        commits = Commits(config, storage, catalog, opened, journal)
        resumed_at = counters_of(opened.resumed)
        pipeline = SavePipeline(config, commits, resumed_at=resumed_at, stager=stager, started=started)
        return cls(opened, commits, pipeline, StructureWatch(opened.resumed, position, warn=warn), journal)


def counters_of(resumed: Checkpoint | None) -> tuple[int, int] | None:
    """Return (step, epoch) of the checkpoint that a launch resumed from; None for a new run."""
    return (resumed.step, resumed.epoch) if resumed else None


def _journal(config: Config, storage: PatientStorage, opened: OpenedRun) -> JournalWriter | None:
    """Return the journal of this attempt, of which nothing is written before its first record; None if it is off."""
    if config.journal.mode == "off":
        return None
    return JournalWriter(
        storage.impatient,
        attempt=opened.attempt.number,
        resumed_from=opened.resumed.name if opened.resumed else None,
        flush_seconds=config.journal.flush_seconds,
        max_bytes=config.journal.max_bytes,
    )
