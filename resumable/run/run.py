"""A run and its checkpoints, on any storage. Read only, and independent of the user's code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice

from resumable.errors import CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.policy import suspicion
from resumable.policy.retention import Rule, best
from resumable.run.checkpoint import Checkpoint
from resumable.run.target import parse_target, unknown_selector
from resumable.store.catalog import Catalog, anything
from resumable.store.documents.manifest import Manifest
from resumable.store.journal.read_journal import read_metrics
from resumable.store.journal.records import MetricsRecord
from resumable.store.layout import RUN_FILE, CheckpointName
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Entry
from resumable.utils.location import location
from resumable.utils.messages import listed, quoted

# How many folders are looked at for runs, where there is no run; each is a request. And how many of the runs are named.
_LOOKED_AT, _SHOWN = 50, 4
_NEWEST = 8  # steps that are named where one is not found


class Run:
    """The checkpoints of one run as one linear history, despite crashes and displaced attempts.

    Opening reads nothing. Every method lists the storage again. `latest` and `at` read two manifests at most, however
    many checkpoints there are.

    Args:
        url: A folder or any fsspec URL.
        storage_options: Options for fsspec.

    Raises:
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, object] | None = None) -> None:
        self.url = str(url)
        self.location = location(self.url)
        """The URL without its secrets, for messages."""
        self._storage = open_storage(self.url, storage_options)
        self.catalog = Catalog(self._storage)

    def __repr__(self) -> str:
        return f"Run({self.location!r})"

    def checkpoints(self, reject: Callable[[str, str], None] | None = None) -> list[Checkpoint]:
        """Return the readable checkpoints of the run's history, oldest first.

        Only manifests and file sizes are checked; `Checkpoint.verify` checks every byte.

        Args:
            reject: Called with the name and the reason for each checkpoint that is skipped and newer than the newest
                readable one.

        Raises:
            StorageError: The storage failed.
        """
        self._storage.renew()
        history = self.catalog.history(reject) if reject else self.catalog.history()
        return [Checkpoint(self.catalog, name, manifest) for name, manifest in reversed(history)]

    def latest(self) -> Checkpoint:
        """Return the newest checkpoint of the history.

        Raises:
            NoCheckpointError: The run has no checkpoint.
            CorruptCheckpointError: It has some, and none is readable.
        """
        return next(self._line())

    def best(self) -> Checkpoint:
        """Return the checkpoint with the best finite value of the metric in the run's own `keep.best`.

        Reads every manifest of the history.

        Raises:
            NoCheckpointError: The run's config names no metric, or no checkpoint has a finite value of it.
        """
        rule = best_rule(self.latest().manifest)
        metric = rule.best_metric
        if metric is None:
            raise NoCheckpointError(
                f"{self.location}: no best checkpoint, because the run's config sets no keep.best.metric",
                "select @latest or @STEP; for later runs, set a metric and log it with trainer.log(...)",
            )
        checkpoints = self.checkpoints()
        winner = best([checkpoint.candidate(metric) for checkpoint in reversed(checkpoints)], rule)
        if not winner:
            raise NoCheckpointError(
                f"{self.location}: no checkpoint has a value of the metric {metric!r}",
                "log the metric of keep.best.metric with trainer.log(...), or select @latest or @STEP",
            )
        return next(checkpoint for checkpoint in checkpoints if checkpoint.name == winner[0])

    def finite(self) -> Checkpoint:
        """Return the newest checkpoint that is not suspect.

        A checkpoint is suspect while a metric that was finite before is NaN or infinite. Reads the manifests from the
        newest to this one; in a run with checkpoints of earlier versions, which are not marked, every manifest.

        Returns:
            The checkpoint that `RUN@finite` names.

        Raises:
            NoCheckpointError: Every checkpoint is suspect, or there is none.
        """
        for checkpoint in self._line():
            if not suspicion.is_marked(checkpoint.manifest):
                break
            if suspicion.mark(checkpoint.manifest) is None:
                return checkpoint
        checkpoints = self.checkpoints()
        marked = suspects(checkpoints)
        for checkpoint in reversed(checkpoints):
            if checkpoint.name not in marked:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: every checkpoint is suspect, from {checkpoints[0].name} on",
            "correct what made the run diverge, and begin it from the start in another folder",
        )

    def at(self, step: int) -> Checkpoint:
        """Return the newest checkpoint of exactly this step.

        Args:
            step: The number of completed steps.

        Raises:
            NoCheckpointError: There is none.
        """
        for checkpoint in self._line(lambda name: name.step == step):
            if checkpoint.step == step:
                return checkpoint
        newest = reversed([*islice(self._line(), _NEWEST)])
        steps = ", ".join(str(checkpoint.step) for checkpoint in newest)
        raise NoCheckpointError(f"{self.location}: no checkpoint at step {step}", f"the newest are at steps {steps}")

    def metrics_history(self) -> list[MetricsRecord]:
        """Return what `trainer.log` recorded, as one curve: each step of the history once, whatever crashed between.

        A step that ran again after a crash counts as it ran last. Steps after the newest checkpoint are in it, too: a
        resume runs them again. Of long runs, older steps are summed up, to at most 50,000 rows in all.

        Returns:
            A row for each step, and one for each epoch, at which something was logged; oldest first.

        Raises:
            NoCheckpointError: The run has no checkpoint.
            CorruptCheckpointError: It has some, and none is readable.
            StorageError: The storage failed.
        """
        return read_metrics(self._storage, self.latest().manifest.lineage)

    def select(self, selector: str | None) -> Checkpoint:
        """Return the checkpoint that a selector names.

        Args:
            selector: `latest` (or None), `best`, `finite`, a step number, or a checkpoint's full name.

        Raises:
            NoCheckpointError: There is none.
        """
        if selector in (None, "latest"):
            return self.latest()
        if selector == "best":
            return self.best()
        if selector == "finite":
            return self.finite()
        if selector is not None and selector.isdigit():
            return self.at(int(selector))
        for checkpoint in self._line(lambda name: str(name) == selector):
            if checkpoint.name == selector:
                return checkpoint
        raise NoCheckpointError(
            f"{self.location}: no checkpoint {selector!r}", f"`resumable ls {self.location}` lists them"
        )

    def folder(self, name: CheckpointName) -> Checkpoint:
        """Return the checkpoint in the folder of this name, whether or not the history includes it.

        Args:
            name: The parsed name of the folder.
        """
        manifest = self.catalog.manifest(name)
        self.catalog.check(manifest, name)
        return Checkpoint(self.catalog, name, manifest)

    def _line(self, wanted: Callable[[CheckpointName], bool] = anything) -> Iterator[Checkpoint]:
        """Return the history, newest first; behind the newest only those `wanted`, each read when it is reached.

        Raises where there is no newest.
        """
        self._storage.renew()
        rejected: list[str] = []
        line = self.catalog.line(lambda name, reason: rejected.append(f"{name}: {reason}"), wanted=wanted)
        for name, manifest in line:
            return chain(
                [Checkpoint(self.catalog, name, manifest)],
                (Checkpoint(self.catalog, older, its) for older, its in line),
            )
        if rejected:
            raise CorruptCheckpointError(
                f"{self.location}: no checkpoint is readable: " + "; ".join(rejected),
                "restore the run from a copy, or start a new run in another folder",
            )
        raise self._empty()

    def _empty(self) -> NoCheckpointError:
        """Return the error for a location without checkpoints."""
        headline = f"{self.location}: no checkpoints here"
        url, selector = parse_target(self.url)
        if selector is not None:
            hint = f"open the run without its selector: Run({location(url)!r}).select({selector!r})"
            return NoCheckpointError(headline, hint)
        entries = self._storage.list("")
        if not entries and (unknown := unknown_selector(self.url)):
            return unknown
        if runs := self._runs_below(entries):
            shown = listed((f"{self.location.rstrip('/')}/{quoted(name)}" for name in runs), most=_SHOWN)
            return NoCheckpointError(f"{headline}, but runs below it", f"name one of them: {shown}")
        return NoCheckpointError(headline, "is this the folder or URL in `run:` of the config?")

    def _runs_below(self, entries: Iterable[Entry]) -> list[str]:
        """Return the names of the folders here that are runs, as far as they are looked at."""
        folders = sorted(entry.name for entry in entries if entry.is_dir)
        return list(filter(self._is_run, folders[:_LOOKED_AT]))

    def _is_run(self, folder: str) -> bool:
        try:
            return any(entry.name == RUN_FILE for entry in self._storage.list(folder))
        except (StorageError, ValueError):  # it may not be listed, or its name is none inside a run
            return False


def suspects(checkpoints: Iterable[Checkpoint]) -> set[str]:
    """Return the names of the suspect checkpoints of a whole history, oldest first."""
    checkpoints = list(checkpoints)
    marks = suspicion.are_suspect(checkpoint.manifest for checkpoint in checkpoints)
    return {checkpoint.name for checkpoint, suspect in zip(checkpoints, marks, strict=True) if suspect}


def best_rule(manifest: Manifest) -> Rule:
    """Return what "best" means to a run, by the config in one of its checkpoints; no metric where none is set."""
    keep = manifest.config.get("keep")
    setting = keep.get("best") if isinstance(keep, dict) else None
    if not isinstance(setting, dict) or not isinstance(setting.get("metric"), str):
        return Rule()
    return Rule(best_metric=setting["metric"], best_mode="max" if setting.get("mode") == "max" else "min")
