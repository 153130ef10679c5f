"""The read side: a run and its checkpoints, on any storage, without the user's code; never writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resumable.errors import CorruptCheckpointError, NoCheckpointError
from resumable.policy import suspicion
from resumable.policy.retention import Rule, best
from resumable.run.checkpoint import Checkpoint
from resumable.run.target import parse_target, selector_slip
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import Manifest
from resumable.store.storage.open import open_storage
from resumable.utils.location import location


class Run:
    """The checkpoints of one run as one linear history, whatever crashed and whoever wrote late.

    `url` is a folder or any fsspec URL; `storage_options` are handed to fsspec. Opening reads nothing; every method
    looks at the storage anew. Raises `NoCheckpointError` where there is nothing of the kind asked for.
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = str(url)
        self.location = location(self.url)
        """Where it is, for messages: without the secrets that `url` may hold."""
        self._storage = open_storage(self.url, storage_options)
        self.catalog = Catalog(self._storage)

    def __repr__(self) -> str:
        return f"Run({self.location!r})"

    def checkpoints(self, reject: Callable[[str, str], None] | None = None) -> list[Checkpoint]:
        """Every readable checkpoint of the run's history, oldest first, by the cheap checks: manifest and sizes.

        Whatever is skipped and newer than the newest good one is told to `reject(name, reason)`.
        """
        self._storage.renew()
        history = self.catalog.history(reject) if reject else self.catalog.history()
        return [Checkpoint(self.catalog, name, manifest) for name, manifest in reversed(history)]

    def latest(self) -> Checkpoint:
        """The newest checkpoint of the history."""
        return self._existing()[-1]

    def best(self) -> Checkpoint:
        """The checkpoint with the best finite value of the metric named in the run's own `keep.best`."""
        checkpoints = self._existing()
        wanted = best_rule(checkpoints[-1].manifest)
        metric = wanted.best_metric
        if metric is None:
            raise NoCheckpointError(
                f"{self.location}: none is best, for the run's config names no keep.best.metric",
                "choose @latest or @STEP; for later runs, name a metric and log it with trainer.log(...)",
            )
        winner = best([checkpoint.candidate(metric) for checkpoint in reversed(checkpoints)], wanted)
        if not winner:
            raise NoCheckpointError(
                f"{self.location}: no checkpoint carries a value of the metric {metric!r}",
                "call trainer.log(...) with the metric that keep.best.metric names, or choose @latest or @STEP",
            )
        return next(checkpoint for checkpoint in checkpoints if checkpoint.name == winner[0])

    def finite(self) -> Checkpoint:
        """Return the newest checkpoint that is not suspect.

        A checkpoint is suspect while a metric that was finite before is NaN or infinite.

        Returns:
            The checkpoint that `RUN@finite` names.

        Raises:
            NoCheckpointError: Every checkpoint is suspect, or there is none.
        """
        checkpoints = self._existing()
        marked = suspects(checkpoints)
        for checkpoint in reversed(checkpoints):
            if checkpoint.name not in marked:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: every checkpoint is suspect: {checkpoints[0].name} is so already",
            "begin the run again from the start in another folder, with what made it diverge changed",
        )

    def at(self, step: int) -> Checkpoint:
        """The newest checkpoint that was taken at exactly `step`."""
        checkpoints = self._existing()
        found = [checkpoint for checkpoint in checkpoints if checkpoint.step == step]
        if not found:
            steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints[-8:])
            raise NoCheckpointError(
                f"{self.location}: no checkpoint at step {step}", f"the newest are at steps {steps}"
            )
        return found[-1]

    def select(self, selector: str | None) -> Checkpoint:
        """`latest` (or None), `best`, `finite`, a step number, or a checkpoint's full name."""
        if selector in (None, "latest"):
            return self.latest()
        if selector == "best":
            return self.best()
        if selector == "finite":
            return self.finite()
        if selector is not None and selector.isdigit():
            return self.at(int(selector))
        for checkpoint in self._existing():
            if checkpoint.name == selector:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: no checkpoint {selector!r}", f"`resumable ls {self.location}` lists them"
        )

    def folder(self, name: CheckpointName) -> Checkpoint:
        """The checkpoint in the folder of this name, on the line of the history or off it."""
        manifest = self.catalog.manifest(name)
        self.catalog.check(manifest, name)
        return Checkpoint(self.catalog, name, manifest)

    def _existing(self) -> list[Checkpoint]:
        rejected: list[str] = []
        checkpoints = self.checkpoints(lambda name, reason: rejected.append(f"{name}: {reason}"))
        if checkpoints:
            return checkpoints
        if rejected:
            raise CorruptCheckpointError(
                f"{self.location}: none of the checkpoints can be read: " + "; ".join(rejected),
                "restore the run from a copy, or start a new run in another folder",
            )
        raise NoCheckpointError(f"{self.location}: no checkpoints here", self._elsewhere())

    def _elsewhere(self) -> str:
        """What may have been meant by a place without checkpoints."""
        url, selector = parse_target(self.url)
        if selector is not None:
            return f"a run is opened without its selector: Run({location(url)!r}).select({selector!r})"
        slip = selector_slip(self.url)
        if slip and not self._storage.list(""):
            return slip
        return (
            "is this the folder or URL that `run:` names? An exported model is proved by `resumable verify DIR` only "
            "where its proof.json is"
        )


def suspects(checkpoints: Iterable[Checkpoint]) -> set[str]:
    """Return the names of those that are suspect, given the whole history, oldest first."""
    checkpoints = list(checkpoints)
    marks = suspicion.suspects(checkpoint.manifest for checkpoint in checkpoints)
    return {checkpoint.name for checkpoint, suspect in zip(checkpoints, marks, strict=True) if suspect}


def best_rule(manifest: Manifest) -> Rule:
    """What "best" means to a run, by the config in a checkpoint of it; without a metric where that does not say."""
    keep = manifest.config.get("keep")
    wanted = keep.get("best") if isinstance(keep, dict) else None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("metric"), str):
        return Rule()
    return Rule(best_metric=wanted["metric"], best_mode="max" if wanted.get("mode") == "max" else "min")
