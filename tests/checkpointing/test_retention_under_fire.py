"""Whatever order of saves, crashes, restarts, failures, copies and manual deletions: what should stay stays."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.prune import prune
from resumable.config.config import Config
from resumable.errors import CheckpointError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.policy import retention
from resumable.store.catalog import Catalog
from resumable.store.layout import MANIFEST, CheckpointName, checkpoint_of
from resumable.store.pins import pin, pinned, unpin
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Entry
from tests.store.building import verify_bytes
from tests.store.opening import open_run
from tests.store.training import STEPS_PER_EPOCH, Sharing, save

BLOB = "model.safetensors"
NEVER = 10**9


class Killed(BaseException):
    """Ends a program where a SIGKILL would: no call to the storage that comes after it does anything."""


class Fragile(LocalStorage):
    """A folder whose user dies at a chosen call, and that fails where it is told to; hard links it may have or not."""

    def __init__(self, root: Path, *, links: bool) -> None:
        super().__init__(root)
        self.links = links
        self.calls_to_live = NEVER
        self.failing_removals = 0
        self.failing_writes = 0

    def _live(self) -> None:
        if not self.calls_to_live:
            raise Killed
        self.calls_to_live -= 1

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        self._live()
        return super().read(path, max_bytes=max_bytes)

    def list(self, path: str) -> list[Entry]:
        self._live()
        return super().list(path)

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        self._live()
        if self.failing_writes:
            self.failing_writes -= 1
            raise StorageError("no space left")
        super().write(path, chunks)

    def link(self, source: str, target: str) -> bool:
        self._live()
        return self.links and super().link(source, target)

    def create(self, path: str, data: bytes) -> None:
        self._live()
        super().create(path, data)

    def remove(self, path: str) -> None:
        self._live()
        if self.failing_removals:
            self.failing_removals -= 1
            raise StorageError("may not remove")
        super().remove(path)

    def remove_dir(self, path: str) -> None:
        self._live()
        super().remove_dir(path)


def standing(root: Path) -> set[CheckpointName]:
    """Every checkpoint that is whole, by its digests, on the line or not."""
    catalog = Catalog(LocalStorage(root))
    found = set()
    for name in catalog.names():
        with suppress(CheckpointError):
            verify_bytes(catalog, catalog.manifest(name))
            found.add(name)
    return found


class Training:
    """One launch: opens the run; each save takes the next step and prunes."""

    def __init__(self, root: Path, rule: retention.Rule, *, calls_to_live: int = NEVER, links: bool = True) -> None:
        self.rule = rule
        self.sharing = Sharing()
        self.storage = Fragile(root, links=links)
        self.storage.calls_to_live = calls_to_live
        self.catalog = Catalog(self.storage)
        self.opened: OpenedRun = open_run(Config(run=str(root), data_seed=7), self.storage, self.catalog, {})
        self.resumed = CheckpointName.parse(self.opened.resumed.name) if self.opened.resumed else None
        self.storage.calls_to_live = NEVER
        self.step = self.resumed.step if self.resumed else -10
        self.saved: list[CheckpointName] = []
        self.touched: set[CheckpointName] = set()
        """What somebody damaged meanwhile: what this program has looked at before it does not look at again."""

    def save(self, loss: float) -> None:
        self.step += 10
        self.saved.append(save(self.storage, self.opened, self.step, loss=loss, sharing=self.sharing))

    def prune(self) -> None:
        prune(self.storage, self.catalog, self.opened.attempt, self.rule)

    def end(self) -> None:
        self.opened.unlock()


RULES = st.builds(
    retention.Rule,
    last=st.integers(1, 3),
    every_steps=st.none() | st.just(30),
    best_metric=st.none() | st.just("loss"),
    best_count=st.integers(1, 2),
)
LOSSES = st.integers(0, 50).map(float)


class UnderFire(RuleBasedStateMachine):
    """Hypothesis chooses what happens to a run; what must still be there is known from what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="under-fire-"))
        self.copies = itertools.count()
        self.root = self.folder / "run"
        self.training: Training | None = None
        self.losses: dict[CheckpointName, float] = {}
        self.parents: dict[int, CheckpointName | None] = {}
        self.foreign: dict[Path, bytes] = {}
        self.links = True
        self.shares: dict[CheckpointName, set[CheckpointName]] = {}
        """Of each checkpoint that ever stood, those whose blobs it names."""

    # -- what a program does ------------------------------------------------------------------------------------------

    @initialize(keep=RULES, links=st.booleans())
    def a_run_with_something_foreign_beside_a_checkpoint(self, keep: retention.Rule, links: bool) -> None:
        self.links = links
        self._start(keep, NEVER)
        self._save(3.0)
        self.put_something_foreign(0, 0, True)
        self._save(4.0)

    @precondition(lambda self: self.training is None)
    @rule(keep=RULES)
    def start(self, keep: retention.Rule) -> None:
        self._start(keep, NEVER)

    @precondition(lambda self: self.training is None)
    @rule(keep=RULES, calls=st.integers(0, 12))
    def crash_in_a_start(self, keep: retention.Rule, calls: int) -> None:
        with self._nothing_good_is_lost():
            self._start(keep, calls)
        self.crash()

    @precondition(lambda self: self.training)
    @rule(losses=st.lists(LOSSES, min_size=1, max_size=5))
    def save(self, losses: list[float]) -> None:
        for loss in losses:
            self._save(loss)

    @precondition(lambda self: self.training)
    @rule(loss=LOSSES, calls=st.integers(0, 30))
    def crash_in_a_save(self, loss: float, calls: int) -> None:
        assert self.training
        self.training.storage.calls_to_live = calls
        self._save(loss)
        self.crash()

    @precondition(lambda self: self.training)
    @rule(loss=LOSSES, removals=st.integers(0, 4), writes=st.integers(0, 2))
    def save_while_the_storage_fails(self, loss: float, removals: int, writes: int) -> None:
        assert self.training
        self.training.storage.failing_removals, self.training.storage.failing_writes = removals, writes
        self._save(loss)
        if self.training:
            self.training.storage.failing_removals = self.training.storage.failing_writes = 0

    @rule()
    def crash(self) -> None:
        if self.training:
            self.training.end()
        self.training = None

    # -- what people do -----------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), file=st.sampled_from([MANIFEST, BLOB, Sharing.FILE_NAME, None]))
    def delete_by_hand(self, which: int, file: str | None) -> None:
        name = self._one(which)
        if name is None:
            return
        folder = self.root / "checkpoints" / str(name)
        if file is None:
            shutil.rmtree(folder)
            self.foreign = {path: data for path, data in self.foreign.items() if folder not in path.parents}
        else:
            (folder / file).unlink(missing_ok=True)
            if self.training:
                self.training.touched.add(name)
        if self.training and file in (None, Sharing.FILE_NAME):
            self.training.touched |= {other for other, named in self.shares.items() if name in named}

    @rule(which=st.integers(0, 9))
    def pin(self, which: int) -> None:
        name = self._one(which)
        if name is not None:
            pin(LocalStorage(self.root), name)

    @rule(which=st.integers(0, 9))
    def unpin(self, which: int) -> None:
        found = sorted(pinned(LocalStorage(self.root)), key=lambda name: name.order)
        if found:
            unpin(LocalStorage(self.root), found[which % len(found)])

    @rule(which=st.integers(0, 9), number=st.integers(0, 3), beside=st.booleans())
    def put_something_foreign(self, which: int, number: int, beside: bool) -> None:
        name = self._one(which)
        inside = [self.root, self.root / "attempts", self.root / "checkpoints", self.root / "pins"]
        folder = inside[2] / str(name) if name and beside else inside[number]
        folder.mkdir(parents=True, exist_ok=True)
        called = ["notes.txt", "best", "step-12.safetensors.bak", "model.safetensors.tmp", "000001.JSON", ".tmp-x"]
        path = folder / called[which % 6]
        path.write_bytes(str(number).encode())
        self.foreign[path] = str(number).encode()

    @precondition(lambda self: self.training is None)
    @rule(seed=st.integers(0, 99), keep=RULES, opened_after=st.integers(0, 30))
    def go_on_with_a_copy(self, seed: int, keep: retention.Rule, opened_after: int) -> None:
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        random.Random(seed).shuffle(files)
        copy = self.folder / f"copy{next(self.copies)}"
        for count, file in enumerate(files):
            target = copy / file.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            self._look_at(copy)
            if count == opened_after:
                self._launch_on_a_duplicate(copy, keep)
        if files:
            assert standing(copy) == standing(self.root)
            assert self._line(copy) == self._line(self.root)
            self.foreign = {copy / path.relative_to(self.root): data for path, data in self.foreign.items()}
            self.root = copy

    # -- what must hold -----------------------------------------------------------------------------------------------

    def _start(self, keep: retention.Rule, calls: int) -> None:
        good = standing(self.root)
        try:
            training = Training(self.root, keep, calls_to_live=calls, links=self.links)
        except Killed:
            return
        except (CorruptCheckpointError, NoCheckpointError):
            assert not good, f"refused to start, and there are {good}"
            shutil.rmtree(self.root)  # as one would who has no copy
            self.foreign.clear()
            return
        self.training = training
        self.parents[training.opened.attempt.number] = training.resumed
        if good:
            newest = max(good, key=lambda name: name.order)
            assert training.resumed == newest, f"started from {training.resumed}, and there are {good}"

    def _save(self, loss: float) -> None:
        training = self.training
        assert training
        number = training.opened.attempt.number
        self.losses[CheckpointName(training.step + 10, (training.step + 10) // STEPS_PER_EPOCH, number)] = loss
        with self._nothing_good_is_lost():
            try:
                training.save(loss)
            except StorageError:
                return
            except Killed:
                return
            finally:
                self._note_what_is_shared()
            before, folders, unfinished = standing(self.root), self._folders(), self._unfinished()
            assert training.saved[-1] in before
            with suppress(StorageError, Killed):
                training.prune()
                self._exactly_the_rest_went(training, before, folders, unfinished)

    def _exactly_the_rest_went(
        self,
        training: Training,
        before: set[CheckpointName],
        folders: set[CheckpointName],
        unfinished: set[CheckpointName],
    ) -> None:
        """After a prune that went well: of the line what the rule keeps, what is pinned, and what these and all that
        stands beside the line share; no other of the line.

        Off the line nothing of this attempt, and nothing with a manifest before there is enough of this attempt.
        """
        number, after, pins = training.opened.attempt.number, standing(self.root), pinned(LocalStorage(self.root))
        line = self._lineage(training.saved[-1])
        known = [name for name in line if name in before or name in training.touched]
        kept = [self._kept(view, training.rule) | pins for view in self._views(known, before)]
        whole = before & set(line)
        beside = self._folders() - whole  # also what is damaged: on the line, and yet it goes only later
        assert any(
            # What somebody took the manifest of is remembered by a program that has read it, and names nothing for
            # one that has not.
            whole & self._needed(each | beside, certain=True)
            <= after & set(line)
            <= whole & self._needed(each | beside, certain=False)
            for each in kept
        )
        gone = {name for name in folders - self._folders() if name not in known}
        assert not gone & pins
        assert all(name.attempt < number for name in gone)
        enough = sum(name.attempt == number for name in known) >= training.rule.last
        assert enough or gone <= unfinished, f"{gone} went before there were {training.rule.last} newer ones"

    def _views(self, known: list[CheckpointName], whole: set[CheckpointName]) -> Iterator[list[CheckpointName]]:
        """What a program may take to be there: of what was damaged by hand all that it had looked at before."""
        damaged = [name for name in known if name not in whole]
        for count in range(len(damaged) + 1):
            for unseen in itertools.combinations(damaged, count):
                yield [name for name in known if name not in unseen]

    def _note_what_is_shared(self) -> None:
        catalog = Catalog(LocalStorage(self.root))
        for name in catalog.names():
            with suppress(CheckpointError):
                self.shares[name] = {checkpoint_of(blob.path) for blob in catalog.manifest(name).blobs.values()}

    def _needed(self, names: set[CheckpointName], *, certain: bool) -> set[CheckpointName]:
        """These, and whatever holds a blob that one of these names; if `certain`, only one that has its manifest."""
        found = set(names)
        for name in names:
            if not certain or (self.root / "checkpoints" / str(name) / MANIFEST).exists():
                found |= self.shares.get(name, set())
        return found

    def _folders(self) -> set[CheckpointName]:
        return set(Catalog(LocalStorage(self.root)).names())

    def _unfinished(self) -> set[CheckpointName]:
        return {name for name in self._folders() if not (self.root / "checkpoints" / str(name) / MANIFEST).exists()}

    @contextmanager
    def _nothing_good_is_lost(self) -> Iterator[None]:
        good, pins = standing(self.root), pinned(LocalStorage(self.root))
        yield
        left = standing(self.root)
        assert left or not good, f"there were {good}, and none of them nor any other is left"
        assert good & pins <= left, f"pinned and gone: {good & pins - left}"
        self._foreign_is_untouched()

    def _foreign_is_untouched(self) -> None:
        for path, data in self.foreign.items():
            assert path.read_bytes() == data, f"{path} is not ours"

    def _kept(self, line: list[CheckpointName], rule: retention.Rule) -> set[CheckpointName]:
        """The rule in its plainest words, for a line that is newest first."""
        kept = set(line[: rule.last])
        if rule.every_steps:
            for multiple in range(rule.every_steps, line[0].step + 1, rule.every_steps):
                later = [name for name in line if multiple <= name.step < multiple + rule.every_steps]
                kept.update(later[-1:])
        if rule.best_metric:
            oldest_first = sorted(line, key=lambda name: (self.losses[name], name.order))
            kept.update(oldest_first[: rule.best_count])
        return kept

    def _lineage(self, name: CheckpointName) -> list[CheckpointName]:
        """Everything that was ever saved on the way to a checkpoint, newest first."""
        own = [each for each in self.losses if each.attempt == name.attempt and each.place <= name.place]
        parent = self.parents[name.attempt]
        own.sort(key=lambda each: each.order, reverse=True)
        return own + (self._lineage(parent) if parent else [])

    def _one(self, which: int) -> CheckpointName | None:
        names = Catalog(LocalStorage(self.root)).names()
        return names[which % len(names)] if names else None

    def _line(self, root: Path) -> list[CheckpointName]:
        return [name for name, _ in Catalog(LocalStorage(root)).history()]

    def _look_at(self, copy: Path) -> None:
        catalog = Catalog(LocalStorage(copy))
        for _, manifest in catalog.history():
            verify_bytes(catalog, manifest)

    def _launch_on_a_duplicate(self, copy: Path, keep: retention.Rule) -> None:
        """Of what has arrived so far: it is refused, or goes on from the newest, and leaves something good."""
        duplicate = self.folder / f"{copy.name}-opened"
        shutil.copytree(copy, duplicate)
        good = standing(duplicate)
        try:
            training = Training(duplicate, keep)
        except CheckpointError:
            assert not good or not (copy / "run.json").exists()
            assert standing(duplicate) == good
            return
        assert training.resumed == max(good, key=lambda name: name.order, default=None)
        training.save(0.0)
        training.prune()
        training.end()
        assert training.saved[-1] in standing(duplicate)

    def teardown(self) -> None:
        try:
            self.crash()
            self._in_peace_nothing_stays_that_nobody_wants()
        finally:
            self.crash()
            shutil.rmtree(self.folder)

    def _in_peace_nothing_stays_that_nobody_wants(self) -> None:
        self._start(retention.Rule(last=2), NEVER)
        if self.training is None:
            return
        for _ in range(4):
            self._save(1.0)
        pins = pinned(LocalStorage(self.root))
        kept = self._needed(set(self.training.saved[-2:]) | pins, certain=True)
        assert standing(self.root) - pins == standing(self.root) & kept - pins
        assert set(self.training.saved[-2:]) <= standing(self.root)
        assert not self.links or kept == set(self.training.saved[-2:]) | pins
        for name in Catalog(LocalStorage(self.root)).names():
            folder = self.root / "checkpoints" / str(name)
            ours = {path for path in folder.iterdir() if path not in self.foreign}
            assert not ours or name in kept, f"{ours} stays for ever"


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs die here, machines do not: what is written is there."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(logging.getLogger("resumable"), "disabled", True)


@pytest.mark.timeout(420)  # to shrink what was found takes up to five minutes
class TestUnderFire(UnderFire.TestCase):
    """A short search on every run."""

    settings = settings(max_examples=30, stateful_step_count=25, suppress_health_check=list(HealthCheck))


@pytest.mark.matrix
@pytest.mark.timeout(420)
class TestLongUnderFire(UnderFire.TestCase):
    """A long one, which tells what it found as it found it: to make that shorter takes minutes."""

    settings = settings(
        max_examples=100,
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
