"""Opens a run as one program does that claims it at once."""

from __future__ import annotations

from collections.abc import Mapping

from resumable.checkpointing.claim_attempt import OpenedRun, claim_attempt
from resumable.checkpointing.find_run import find_run
from resumable.checkpointing.mismatch.object_mismatch import ObjectKind
from resumable.config.config import Config
from resumable.store.catalog import Catalog
from resumable.store.storage.protocol import Storage


def open_run(config: Config, storage: Storage, catalog: Catalog, objects: Mapping[str, ObjectKind]) -> OpenedRun:
    """Find the run and claim the next attempt; what fails leaves no lock."""
    found = find_run(config, storage, catalog, objects)
    try:
        return claim_attempt(config, storage, catalog, found)
    except BaseException:
        found.unlock()
        raise
