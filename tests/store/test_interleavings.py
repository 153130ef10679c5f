"""Launches, saves, prunes, kills, sleeps and readers in any order of storage calls, against a perfect model.

The product's own code runs, each program as an actor that takes one storage call at a time (`interleaving`). Beside it
stands a model that sees every change to the files at the instant it happens, and knows what must never be.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.find_run import discover
from resumable.checkpointing.prune import prune
from resumable.config.config import Config
from resumable.errors import CorruptCheckpointError, FencedError, NoCheckpointError, StorageError
from resumable.policy import retention
from resumable.store.catalog import Catalog
from resumable.store.documents.parse_documents import parse_manifest
from resumable.store.layout import MANIFEST, CheckpointName, checkpoint_of, checkpoint_path, parse_attempt
from resumable.store.storage import fsspec_storage
from resumable.store.storage.protocol import Storage
from tests.store.interleaving import Actor, Change, Contents, Kind, seen_by
from tests.store.opening import open_run
from tests.store.training import STEPS_PER_EPOCH, Sharing, save

CONFIG = Config(run="runs/x", data_seed=7)
MANY_CALLS = 400
LAST = retention.Rule(last=1)
ALL = retention.Rule(last=100)
BLOB = "model.safetensors"


@pytest.fixture(autouse=True)
def _each_actor_is_a_machine_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fsspec_storage, "_creating", nullcontext()
    )  # keeps the threads of one program apart, and these are not
    monkeypatch.setattr(logging.getLogger("resumable"), "disabled", True)  # thousands of rejected checkpoints


@dataclass
class Launch:
    """One launch of the training: opens the run, and then saves and prunes after every so many steps for ever."""

    rule: retention.Rule
    every: int = 10
    sharing: Sharing | None = None
    actor: Actor = field(init=False)
    opened: OpenedRun | None = None
    acknowledged: list[CheckpointName] = field(default_factory=list)
    prunes: int = 0
    saving_since: int = 0
    """How many calls it had made when its last save began."""

    @property
    def number(self) -> int:
        return self.opened.attempt.number if self.opened else 0

    @property
    def resumed_from(self) -> CheckpointName | None:
        return CheckpointName.parse(self.opened.resumed.name) if self.opened and self.opened.resumed else None

    @property
    def fenced(self) -> bool:
        return isinstance(self.actor.error, FencedError)

    def train(self, storage: Storage) -> None:
        catalog = Catalog(storage)
        self.opened = open_run(CONFIG, storage, catalog, {})
        first = 0
        if self.opened.resumed is not None:
            self.opened.resumed.verify()  # as restoring does: it reads every byte again
            first = self.opened.resumed.step + self.every
        for step in itertools.count(first, self.every):
            self.saving_since = self.actor.calls
            try:
                name = save(storage, self.opened, step, loss=float(step * 7 % 50), sharing=self.sharing)
                self.acknowledged.append(name)
                prune(storage, catalog, self.opened.attempt, self.rule)
                self.prunes += 1
            except StorageError:
                pass  # told; and then the next save comes


@dataclass
class Reader:
    """Looks for the newest checkpoint once, by discovery or by listing the history."""

    how: Literal["discover", "history"]
    floor: CheckpointName | None
    begun_at: int
    actor: Actor = field(init=False)
    found: list[CheckpointName] | None = None

    def look(self, storage: Storage) -> None:
        catalog = Catalog(storage)
        if self.how == "history":
            self.found = [name for name, _ in catalog.history()]
        else:
            newest = discover(CONFIG, catalog)
            parsed = CheckpointName.parse(newest.name) if newest else None
            self.found = [parsed] if parsed else []


class World:
    """All actors, and the model of what they did to the run."""

    def __init__(self, kind: Kind = "folder", *, sharing: bool = False) -> None:
        self.kind = kind
        self.sharing = sharing
        self.contents = Contents()
        self.launches: list[Launch] = []
        self.readers: list[Reader] = []
        self.now = 0
        self.present: set[CheckpointName] = set()
        self.named: dict[CheckpointName, set[str]] = {}  # by checkpoint: the paths of the blobs that its manifest names
        self.published_at: dict[CheckpointName, int] = {}
        self.removed_at: dict[CheckpointName, int] = {}
        self.claimed: dict[int, Launch] = {}
        self.late: dict[int, list[Change]] = {}  # by attempt: what it did to manifests after it was displaced
        self.displaced_at: dict[int, int] = {}  # by attempt: how many calls it had made when it was displaced
        self.at_one_instant = False  # whether two launches are, on a storage where only what is stated holds then
        self._floors: dict[int, CheckpointName | None] = {}  # by attempt: what had been acknowledged when it began

    # -- actors -------------------------------------------------------------------------------------------------------

    def launch(self, rule: retention.Rule = LAST, *, every: int = 10) -> Launch:
        launch = Launch(rule, every, Sharing() if self.sharing else None)
        launch.actor = Actor(f"launch {len(self.launches)}", lambda me: launch.train(self._seen_by(me)))
        self.launches.append(launch)
        return launch

    def read(self, how: Literal["discover", "history"] = "discover") -> Reader:
        reader = Reader(how, self.acknowledged_head(), self.now)
        reader.actor = Actor(f"reader {len(self.readers)}", lambda me: reader.look(self._seen_by(me)))
        self.readers.append(reader)
        return reader

    def _seen_by(self, actor: Actor) -> Storage:
        return seen_by(actor, self.kind, self.contents)

    def step(self, each: Launch | Reader) -> None:
        """One call of one actor, and everything that must hold after it."""
        before = len(self.contents.changes)
        opened = isinstance(each, Launch) and each.opened is not None
        acknowledged = len(each.acknowledged) if isinstance(each, Launch) else 0
        each.actor.step()
        self.now += 1
        for change in self.contents.changes[before:]:
            self._happened(change)
        if self.at_one_instant:
            return
        if isinstance(each, Launch):
            if not opened and each.opened is not None:
                self._check_takeover(each)
            if len(each.acknowledged) > acknowledged:
                assert each.acknowledged[-1] in self.present, f"{each.acknowledged[-1]} is acknowledged and not there"
            if each.actor.ended:
                self._check_end(each)
        elif each.actor.ended:
            self._check_read(each)
        self._check_ruler()
        self._check_blobs()

    def run(self, each: Launch | Reader, until: Callable[[], bool] = lambda: False) -> bool:
        """Let one actor go on alone until something is so (True) or until it ends."""
        for _ in range(MANY_CALLS):
            if until():
                return True
            if each.actor.ended:
                return False
            self.step(each)
        raise AssertionError(f"{each.actor} did not get there in {MANY_CALLS} calls")

    def save(self, launch: Launch, times: int = 1) -> None:
        """Let a launch go on until it has saved and pruned once more."""
        target = launch.prunes + times
        assert self.run(launch, lambda: launch.prunes >= target), f"{launch.actor}: {launch.actor.error}"

    def sleep_before(self, launch: Launch, kind: str, ending: str) -> bool:
        """Let a launch go on until its next call would be this one; from then on it sleeps there."""
        return self.run(launch, lambda: _is(launch.actor, kind, ending))

    def close(self) -> None:
        for each in [*self.launches, *self.readers]:
            each.actor.kill()

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def ruler(self) -> Launch | None:
        """The launch with the highest attempt, dead or alive."""
        return self.claimed[max(self.claimed)] if self.claimed else None

    def head(self) -> CheckpointName | None:
        return max(self.present, key=lambda name: name.order, default=None)

    def acknowledged_head(self) -> CheckpointName | None:
        """The newest that some program was told to be safe, of those that are there."""
        told = {name for launch in self.launches for name in launch.acknowledged}
        return max(told & self.present, key=lambda name: name.order, default=None)

    def line(self, name: CheckpointName) -> list[CheckpointName]:
        """What was ever published on the way to a checkpoint, newest first."""
        launch = self.claimed[name.attempt]
        own = [each for each in self.published_at if each.attempt == name.attempt and each.place <= name.place]
        own.sort(key=lambda each: each.order, reverse=True)
        return own + (self.line(launch.resumed_from) if launch.resumed_from else [])

    def _happened(self, change: Change) -> None:
        folder, _, file = change.path.rpartition("/")
        launch = next(each for each in self.launches if each.actor is change.actor)  # readers never write
        if folder == "attempts" and parse_attempt(file) and change.kind == "put":
            self._claims(launch, parse_attempt(file) or 0)
        name = CheckpointName.parse(folder.rpartition("/")[2])
        if name is None:
            return
        if not self.at_one_instant:
            self._check_displaced(launch, change)
        if file == MANIFEST and change.kind == "put":
            assert name not in self.published_at, f"{name} is published twice"
            self.present.add(name)
            self.named[name] = {blob.path for blob in parse_manifest(self.contents.files[change.path]).blobs.values()}
            self.published_at[name] = self.now
        elif file == MANIFEST:
            self.present.discard(name)
            self.removed_at[name] = self.now
            self._check_removal(launch, name)
        else:
            late = change.kind == "removed" and self._is_late(name)  # begun when there was no manifest
            assert late or self.at_one_instant or name not in self.present, (
                f"{change.path} of a published checkpoint was {change.kind}"
            )

    def _check_blobs(self) -> None:
        """No manifest names a blob that is gone; but for one that a displaced writer published in its one call."""
        for name in self.present:
            gone = self.named[name] - self.contents.files.keys()
            assert self._is_late(name) or not gone, f"{name} stands, and {gone} is gone"

    def _is_late(self, name: CheckpointName) -> bool:
        """Whether a writer that was displaced published it in its one call."""
        return any(each.path == checkpoint_path(name, MANIFEST) for each in self.late.get(name.attempt, ()))

    def _needed(self, names: Iterable[CheckpointName]) -> set[CheckpointName]:
        """These, and those whose blobs they name."""
        return {checkpoint_of(path) for name in names for path in self.named[name]}.union(names)

    def _claims(self, launch: Launch, number: int) -> None:
        assert self.at_one_instant or number not in self.claimed, f"two launches took number {number}"
        for before, each in self.claimed.items():
            self.displaced_at.setdefault(before, each.actor.calls)
        self.claimed[number] = launch
        self._floors[number] = self.acknowledged_head()

    def _claimed_by(self, launch: Launch) -> int:
        return next((number for number, each in self.claimed.items() if each is launch), 0)

    def _check_displaced(self, launch: Launch, change: Change) -> None:
        """Once displaced it makes one more call at most, its very next; and it begins no save."""
        number = self._claimed_by(launch)
        if number not in self.displaced_at:
            return
        began = launch.saving_since - self.displaced_at[number]
        assert change.kind == "removed" or began < 0, f"attempt {number} began a save after it was displaced: {change}"
        if not change.path.endswith(MANIFEST):
            return
        calls = launch.actor.calls - self.displaced_at[number]
        assert calls == 1, f"attempt {number} was displaced, and {calls} calls later {change.path} was {change.kind}"
        did = self.late.setdefault(number, [])
        did.append(change)  # one request of an object store removes several
        several = {each.kind for each in did} == {"removed"} and self.kind == "bucket"
        assert len(did) == 1 or several, f"attempt {number} was displaced, and did {did}"

    def _check_removal(self, launch: Launch, name: CheckpointName) -> None:
        if name.attempt != launch.number and name not in self.line(launch.acknowledged[-1]):
            # What one that was displaced does in its one call it had decided by what there was while it ruled.
            ruled = launch.number not in self.displaced_at
            own = len(self.present.intersection(launch.acknowledged) if ruled else launch.acknowledged)
            enough = name.attempt < launch.number and own >= launch.rule.last
            assert enough, f"{launch.actor} removed {name}, which is off its line, and has only {own} newer ones"
        told = any(name in each.acknowledged for each in self.launches)
        if not told:
            return
        for each in self.launches:
            needs = each.opened is not None and each is self.ruler and not each.acknowledged and not each.actor.ended
            assert not needs or each.resumed_from != name, (
                f"{launch.actor} removed {name}, from which {each.actor} resumed"
            )
        newer = [other for other in self.present if other.order > name.order]
        assert newer, f"{launch.actor} removed {name}, the newest there is"

    def _check_takeover(self, launch: Launch) -> None:
        floor, got = self._floors[launch.number], launch.resumed_from
        assert floor is None or (got is not None and got.order >= floor.order), (
            f"{launch.actor} resumed from {got}; {floor} was acknowledged before it took the run"
        )

    def _check_end(self, launch: Launch) -> None:
        error, displaced = launch.actor.error, self._claimed_by(launch) < max(self.claimed, default=0)
        if isinstance(error, FencedError):
            assert displaced, f"{launch.actor} rules, and was told that it does not"
        elif isinstance(error, NoCheckpointError):  # what it resumed from was pruned before it could restore it
            assert displaced or self._unsaid(launch.resumed_from), f"{launch.actor} rules, and ended with {error!r}"
        elif error is not None:
            raise AssertionError(f"{launch.actor} ended with {error!r}") from error

    def _unsaid(self, name: CheckpointName | None) -> bool:
        """Whether a checkpoint was there once, because of a save that was told to have failed and was undone."""
        return name in self.removed_at and not any(name in each.acknowledged for each in self.launches)

    def _check_ruler(self) -> None:
        ruler = self.ruler
        if ruler is not None and ruler.acknowledged:
            newest = ruler.acknowledged[-1]
            assert newest in self.present, f"{newest} was acknowledged by the attempt that rules, and is gone"

    def _check_read(self, reader: Reader) -> None:
        if isinstance(reader.actor.error, NoCheckpointError) and reader.floor is None:
            return
        if reader.actor.error is not None:
            raise AssertionError(f"{reader.actor} ended with {reader.actor.error!r}") from reader.actor.error
        assert reader.found is not None
        if not reader.found:
            assert reader.floor is None, f"{reader.actor} found nothing; {reader.floor} was there when it began"
            return
        newest = reader.found[0]
        assert reader.floor is None or newest.order >= reader.floor.order, (
            f"{reader.actor} found {newest}; {reader.floor} was acknowledged when it began"
        )
        for name in reader.found:
            assert self.removed_at.get(name, self.now) >= reader.begun_at, f"{name} was gone when {reader.actor} began"
        line = self.line(newest)
        order = [line.index(name) for name in reader.found if name in line]
        assert order == sorted(set(order)), f"{reader.found} is not in the order of the line {line}"
        assert set(reader.found) <= set(line), f"{reader.found} is not on the line {line}"
        if reader.how == "history":
            stood = {n for n in line if self.published_at[n] < reader.begun_at and n in self.present}
            assert stood <= set(reader.found), f"{reader.actor} did not see {stood - set(reader.found)}"

    def settle(self) -> None:
        """End everybody, launch once more in peace, and see that exactly what should is there."""
        self.close()
        floor = self.acknowledged_head()
        last = self.launch(retention.Rule(last=2))
        self.save(last, 1)
        assert floor is None or (last.resumed_from is not None and last.resumed_from.order >= floor.order)
        self.save(last, 3)
        reader = self.read("history")
        self.run(reader)
        kept = self._needed(last.acknowledged[-2:])
        assert reader.found == sorted(kept, key=lambda name: name.order, reverse=True)
        assert self.kind != "folder" or len(kept) == 2
        assert self.present == set(reader.found)
        folders = {path.split("/")[1] for path in self.contents.files if path.startswith("checkpoints/")}
        assert folders == {str(name) for name in reader.found}, "something that nobody wants stays for ever"
        last.actor.kill()


def _is(actor: Actor, kind: str, ending: str) -> bool:
    return actor.pending is not None and actor.pending.kind == kind and actor.pending.path.endswith(ending)


def _claims(actor: Actor) -> bool:
    """Whether its next call writes an attempt's file."""
    pending = actor.pending
    return pending is not None and pending.kind in ("create", "write") and pending.path.startswith("attempts/")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def careless() -> Iterator[World]:
    """A storage on which create is: look, write, read back."""
    made = World("careless bucket")
    yield made
    made.close()


def name(step: int, attempt: int) -> CheckpointName:
    return CheckpointName(step, step // STEPS_PER_EPOCH, attempt)


def path(step: int, attempt: int, file: str = MANIFEST) -> str:
    return checkpoint_path(name(step, attempt), file)


def opened(world: World, launch: Launch) -> Launch:
    """A launch that has just got its attempt."""
    assert world.run(launch, lambda: launch.opened is not None), launch.actor.error
    return launch


def seen(world: World) -> list[CheckpointName]:
    """The history as a reader sees it who looks now and is not disturbed."""
    reader = world.read("history")
    world.run(reader)
    assert reader.found is not None
    return reader.found


# -- readers beside a writer that commits and prunes ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["discover", "history"])
def test_one_that_was_unfinished_when_a_reader_passed_it_is_found_when_the_one_behind_it_is_gone(
    world: World, how: Literal["discover", "history"]
) -> None:
    writer = world.launch(LAST)
    world.save(writer, 2)
    world.sleep_before(writer, "write", path(20, 1))
    reader = world.read(how)
    world.sleep_before(reader, "read", path(10, 1))
    world.sleep_before(writer, "remove", path(10, 1, BLOB))  # 20 is there; 10 is not, but its folder is
    world.run(reader)
    assert reader.found == [name(20, 1)]


def test_a_reader_never_steps_back_to_an_old_one_that_is_kept_because_the_newest_moved_on(world: World) -> None:
    writer = world.launch(retention.Rule(last=1, best_metric="loss"))
    world.save(writer, 3)
    assert world.present == {name(0, 1), name(20, 1)}
    world.sleep_before(writer, "write", path(30, 1))
    reader = world.read("history")
    world.sleep_before(reader, "read", path(20, 1))
    world.sleep_before(writer, "remove", path(20, 1, BLOB))
    world.run(reader)
    assert reader.found == [name(30, 1), name(0, 1)]


def test_a_run_that_moves_on_while_a_launch_looks_is_never_begun_from_zero(world: World) -> None:
    writer = world.launch(LAST)
    world.save(writer, 2)
    world.sleep_before(writer, "write", path(20, 1))
    launch = world.launch(LAST)
    world.sleep_before(launch, "read", path(10, 1))
    world.sleep_before(writer, "remove", path(10, 1, BLOB))
    world.sleep_before(launch, "read", path(20, 1))
    world.sleep_before(writer, "remove", path(20, 1, BLOB))
    opened(world, launch)
    assert launch.resumed_from == name(30, 1)


def test_a_run_that_always_moves_on_is_told_as_that_and_never_as_damage_or_as_empty(world: World) -> None:
    writer = world.launch(LAST)
    world.save(writer, 2)
    reader = world.read("discover")
    while not reader.actor.ended:  # every manifest that it is about to read is pruned right before
        pending = reader.actor.pending
        if pending is not None and pending.kind == "read" and pending.path.endswith(MANIFEST):
            world.run(writer, lambda path=pending.path: path not in world.contents.files)
        reader.actor.step()
    assert isinstance(reader.actor.error, StorageError)


# -- blobs that several checkpoints share ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_at_no_call_of_saves_and_prunings_does_a_manifest_lack_a_blob_that_it_shares(kind: Kind) -> None:
    world = World(kind, sharing=True)
    try:
        writer = world.launch(LAST)
        for count in range(1, 9):
            world.save(writer)
            newest = writer.acknowledged[-1]
            assert world.present == world._needed([newest])
            assert len(world.present) == (1 if kind == "folder" or count % 3 == 1 else 2)
        world.settle()
    finally:
        world.close()


def test_a_writer_that_dies_between_two_deletions_leaves_what_is_shared_and_the_next_launch_clears_it() -> None:
    world = World("bucket", sharing=True)
    try:
        writer = world.launch(LAST)
        world.save(writer, 3)
        assert world.present == {name(0, 1), name(20, 1)}
        world.sleep_before(writer, "remove", path(20, 1))  # the fourth is there, and shares nothing
        world.step(writer)
        writer.actor.kill()
        assert world.present == {name(0, 1), name(30, 1)}
        world.settle()
    finally:
        world.close()


# -- taking a run over ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [LAST, ALL])
def test_what_is_saved_between_the_look_of_a_launch_and_its_claim_is_where_it_resumes(
    world: World, keep: retention.Rule
) -> None:
    old = world.launch(keep)
    world.save(old, 2)
    new = world.launch(keep)
    world.sleep_before(new, "create", "attempts/000002.json")
    world.save(old, 2)
    world.save(new)
    assert new.resumed_from == name(30, 1)
    assert new.opened is not None
    assert new.opened.attempt.lineage == ((1, None), (2, str(name(30, 1))))
    world.run(old)
    assert old.fenced


def test_a_launch_that_saw_no_run_continues_the_one_that_was_begun_meanwhile(world: World) -> None:
    first, second = world.launch(), world.launch()
    for _ in range(2):
        world.sleep_before(second, "read", "run.json")
        world.step(second)  # there is none
    world.save(first, 2)
    opened(world, second)
    assert second.resumed_from == name(10, 1)


def test_of_launches_that_claim_at_one_instant_each_has_a_number_and_only_the_highest_goes_on(world: World) -> None:
    launches = [world.launch() for _ in range(4)]
    for launch in launches:
        world.sleep_before(launch, "create", "attempts/000001.json")
    for launch in launches:
        opened(world, launch)
    assert [launch.number for launch in launches] == [1, 2, 3, 4]
    world.save(launches[3], 2)
    for launch in launches[:3]:
        world.run(launch)
        assert launch.fenced
    world.settle()


# -- the one call between a look and what it allowed ------------------------------------------------------------------


def test_what_a_zombie_publishes_in_its_one_call_is_newest_until_its_successor_publishes_and_then_off_the_line(
    world: World,
) -> None:
    zombie = world.launch(ALL)
    world.save(zombie, 2)
    world.sleep_before(zombie, "write", path(20, 1))
    new = opened(world, world.launch(LAST))
    world.step(zombie)
    assert new.resumed_from == name(10, 1)
    assert seen(world) == [name(20, 1), name(10, 1), name(0, 1)]
    world.run(zombie)
    assert zombie.fenced
    world.sleep_before(new, "list", "pins")  # it has published, and begins to prune
    assert seen(world) == [name(20, 2), name(10, 1), name(0, 1)]
    world.save(new)
    assert world.present == {name(20, 2)}


def test_what_a_zombie_deletes_in_its_one_call_is_one_that_it_had_given_up_while_it_ruled(world: World) -> None:
    zombie = world.launch(retention.Rule(last=2))
    world.save(zombie, 2)
    world.sleep_before(zombie, "remove", path(0, 1))
    zombie.actor.fail("before")  # so that at the next save two are to go
    world.sleep_before(zombie, "write", path(30, 1))
    world.sleep_before(zombie, "remove", path(10, 1))
    assert world.present == {name(step, 1) for step in (0, 10, 20, 30)}
    new = opened(world, world.launch(ALL))
    assert new.resumed_from == name(30, 1)
    world.run(zombie)
    assert zombie.fenced
    assert seen(world) == [name(30, 1), name(20, 1), name(0, 1)]
    world.save(new, 2)
    assert seen(world) == [name(50, 2), name(40, 2), name(30, 1), name(20, 1), name(0, 1)]


def test_a_zombie_that_wakes_inside_a_deletion_removes_only_what_has_no_manifest_any_more(world: World) -> None:
    zombie = world.launch(LAST)
    world.save(zombie, 2)
    world.sleep_before(zombie, "remove", path(10, 1, BLOB))
    new = world.launch(LAST)
    world.sleep_before(new, "remove_dir", checkpoint_path(name(10, 1)))  # it clears the same folder
    world.run(zombie)
    assert zombie.fenced
    world.save(new)
    world.settle()


@pytest.mark.parametrize("removed", ["before", "after"])
def test_a_save_that_a_zombie_finishes_in_its_one_call_while_its_files_go_is_off_the_line_and_goes_later(
    world: World, removed: Literal["before", "after"]
) -> None:
    zombie = world.launch(ALL)
    world.save(zombie, 2)
    world.sleep_before(zombie, "write", path(20, 1))
    new = opened(world, world.launch(retention.Rule(last=3)))
    world.sleep_before(new, "remove", path(20, 1, BLOB))  # it has published, and its look was the last one
    if removed == "after":
        world.step(new)
    world.step(zombie)
    world.save(new)
    assert path(20, 1, BLOB) not in world.contents.files
    assert seen(world) == [name(20, 2), name(10, 1), name(0, 1)]
    world.run(zombie)
    assert zombie.fenced
    world.save(new, 2)
    assert name(20, 1) not in world.present
    world.settle()


def test_what_a_displaced_writer_still_writes_is_no_leftover_until_it_stands_still(world: World) -> None:
    zombie = world.launch(ALL)
    world.save(zombie, 2)
    world.sleep_before(zombie, "write", path(20, 1, BLOB))
    new = opened(world, world.launch(ALL))
    world.step(zombie)  # the blob comes after the launch has looked
    world.save(new)
    assert path(20, 1, BLOB) in world.contents.files
    world.save(new)
    assert path(20, 1, BLOB) not in world.contents.files
    world.run(zombie)
    assert zombie.fenced


def test_a_zombie_whose_save_seemed_to_fail_takes_nothing_back_that_its_successor_resumed_from(world: World) -> None:
    zombie = world.launch(ALL)
    world.save(zombie, 2)
    world.sleep_before(zombie, "write", path(20, 1))
    zombie.actor.fail("after")  # the answer is lost: the manifest is there
    world.step(zombie)
    new = opened(world, world.launch(ALL))
    assert new.resumed_from == name(20, 1)
    world.run(zombie)
    assert zombie.fenced
    world.save(new)
    assert seen(world) == [name(30, 2), name(20, 1), name(10, 1), name(0, 1)]


def test_what_a_failed_save_takes_back_in_its_one_call_was_never_acknowledged_and_is_missed_at_once(
    world: World,
) -> None:
    zombie = world.launch(ALL)
    world.save(zombie, 2)
    world.sleep_before(zombie, "write", path(20, 1))
    zombie.actor.fail("after")
    world.sleep_before(zombie, "remove", path(20, 1))
    new = opened(world, world.launch(ALL))
    assert new.resumed_from == name(20, 1)
    world.run(zombie)
    assert zombie.fenced
    world.run(new)
    assert isinstance(new.actor.error, NoCheckpointError)  # and the next launch goes on from what was acknowledged
    after = world.launch(ALL)
    world.save(after)
    assert after.resumed_from == name(10, 1)


# -- without exclusive create -----------------------------------------------------------------------------------------


def test_the_loser_of_a_number_is_fenced_at_its_next_look(careless: World) -> None:
    careless.save(careless.launch())
    careless.at_one_instant = True
    loser, winner = careless.launch(), careless.launch()
    careless.sleep_before(winner, "write", "attempts/000002.json")  # it looked: nobody was there
    opened(careless, loser)
    opened(careless, winner)
    assert loser.number == winner.number == 2
    careless.run(loser)
    assert loser.fenced
    assert "took the number of this attempt" in str(loser.actor.error)
    careless.save(winner, 2)
    assert careless.present == {name(20, 2)}


def test_a_loser_of_a_number_that_has_looked_spoils_at_most_one_checkpoint_and_that_one_is_rejected(
    careless: World,
) -> None:
    careless.save(careless.launch())
    careless.at_one_instant = True
    loser, winner = careless.launch(ALL), careless.launch(ALL)
    careless.sleep_before(winner, "write", "attempts/000002.json")
    careless.sleep_before(loser, "write", path(10, 2, BLOB))
    careless.save(winner)
    careless.run(loser)  # over a blob of the winner
    assert loser.fenced
    reader = careless.read()
    careless.run(reader)
    assert reader.found == [name(0, 1)]
    careless.save(winner)
    reader = careless.read()
    careless.run(reader)
    assert reader.found == [name(20, 2)]


def test_a_launch_that_replaced_the_identity_of_a_run_refuses_it_and_deletes_nothing(careless: World) -> None:
    careless.at_one_instant = True
    late, first = careless.launch(), careless.launch(ALL)
    careless.sleep_before(late, "write", "run.json")  # it looked: there was none
    careless.save(first, 3)
    careless.run(late)
    assert isinstance(late.actor.error, CorruptCheckpointError)
    assert late.number == 0, "it claimed nothing"
    assert careless.present == {name(0, 1), name(10, 1), name(20, 1)}
    careless.save(first)
    assert not first.fenced


# -- every schedule of a few switches ---------------------------------------------------------------------------------


def calls_of_one_save() -> int:
    """How many calls a writer makes from one pruned save to the next."""
    world = World()
    writer = world.launch()
    world.save(writer, 2)
    before = world.now
    world.save(writer)
    world.close()
    return world.now - before


def one_schedule(looks: Callable[[World], Launch | Reader], paused_at: int, looked: int, went_on: int) -> bool:
    """A writer pauses in a save, somebody looks for so many calls, the writer goes on, and the other comes to its end.

    Whether the other was not at its end before.
    """
    world = World()
    try:
        writer = world.launch()
        world.save(writer, 2)
        _go(world, writer, paused_at)
        other = looks(world)
        _go(world, other, looked)
        early = isinstance(other, Reader) and other.actor.ended
        early = early or (isinstance(other, Launch) and other.prunes > 0)
        _go(world, writer, went_on)
        world.run(other, lambda: isinstance(other, Launch) and other.prunes > 0)
        assert isinstance(other, Reader) or other.prunes, f"{other.actor} ended with {other.actor.error!r}"
        return not early
    finally:
        world.close()


def _go(world: World, each: Launch | Reader, calls: int) -> None:
    budget = iter(range(calls))
    world.run(each, lambda: next(budget, None) is None)


LOOKS = {
    "discovers": lambda world: world.read("discover"),
    "lists": lambda world: world.read("history"),
    "launches": lambda world: world.launch(),
}


@pytest.mark.parametrize("looks", LOOKS)
def test_a_writer_may_pause_anywhere_while_another_looks(looks: str) -> None:
    for paused_at in range(calls_of_one_save()):
        one_schedule(LOOKS[looks], paused_at, MANY_CALLS // 4, 0)


@pytest.mark.parametrize("looks", LOOKS)
def test_one_who_looks_may_pause_anywhere_while_a_writer_saves_and_prunes(looks: str) -> None:
    calls = calls_of_one_save()
    for paused_at in (0, calls // 2):
        looked = 0
        while one_schedule(LOOKS[looks], paused_at, looked, calls):
            looked += 1


@pytest.mark.matrix
@pytest.mark.parametrize("looks", ["discovers", "launches"])
def test_both_may_pause_anywhere(looks: str) -> None:
    calls = calls_of_one_save()
    for paused_at, went_on in itertools.product(range(0, calls, 2), range(1, calls, 3)):
        looked = 1
        while one_schedule(LOOKS[looks], paused_at, looked, went_on):
            looked += 2


# -- any schedule -----------------------------------------------------------------------------------------------------

RULES = st.sampled_from(
    [
        retention.Rule(last=1),
        retention.Rule(last=2),
        retention.Rule(last=1, best_metric="loss"),
        retention.Rule(last=1, every_steps=30),
    ]
)
PLACES = st.sampled_from([("write", MANIFEST), ("remove", MANIFEST), ("remove", ".safetensors"), ("list", "attempts")])


class Interleavings(RuleBasedStateMachine):
    """Hypothesis chooses who goes on, how far, who dies and whose storage fails; `World` knows what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(kind=st.sampled_from(["folder", "bucket", "careless bucket"]), sharing=st.booleans())
    def a_run(self, kind: Kind, sharing: bool) -> None:
        self.world = World(kind, sharing=sharing)
        self.world.save(self.world.launch())

    def alive(self) -> list[Launch | Reader]:
        return [each for each in [*self.world.launches, *self.world.readers] if not each.actor.ended]

    @precondition(lambda self: self._few())
    @rule(keep=RULES, every=st.sampled_from([10, 4]))
    def launch(self, keep: retention.Rule, every: int) -> None:
        self._launched(keep, every)

    @precondition(lambda self: self._few() and self._ruling())
    @rule(
        how=st.sampled_from(["discover", "history", "launch"]),
        paused_at=st.integers(0, 25),
        looked=st.integers(0, 15),
        went_on=st.integers(0, 40),
    )
    def look_beside_one_that_goes_on(
        self, how: Literal["discover", "history", "launch"], paused_at: int, looked: int, went_on: int
    ) -> None:
        [writer] = self._ruling()
        _go(self.world, writer, paused_at)
        other = self._launched(LAST, 4) if how == "launch" else self.world.read(how)
        _go(self.world, other, looked)
        _go(self.world, writer, went_on)
        self.world.run(other, lambda: isinstance(other, Launch) and other.opened is not None)

    @precondition(lambda self: self._few() and self.world.kind != "careless bucket")
    @rule(keep=RULES, calls=st.integers(0, 3))
    def launch_two_at_one_instant(self, keep: retention.Rule, calls: int) -> None:
        both = [self.world.launch(keep), self.world.launch(keep)]
        for each in both:
            self.world.run(each, lambda each=each: _claims(each.actor))
        _go(self.world, both[0], calls)
        for each in reversed(both):
            self.world.run(each, lambda each=each: each.opened is not None)

    @precondition(lambda self: self._few() and self._ruling())
    @rule(place=PLACES, keep=RULES, saves=st.integers(0, 2))
    def take_over_from_one_that_sleeps(self, place: tuple[str, str], keep: retention.Rule, saves: int) -> None:
        [zombie] = self._ruling()
        self._until_right_before(zombie, place)
        new = self._launched(keep, 4)
        self.world.run(new, lambda: new.opened is not None and new.prunes >= saves)
        _go(self.world, zombie, 60)

    @precondition(lambda self: sum(not reader.actor.ended for reader in self.world.readers) < 2)
    @rule(how=st.sampled_from(["discover", "history"]))
    def read(self, how: Literal["discover", "history"]) -> None:
        self.world.read(how)

    @precondition(lambda self: self.alive())
    @rule(who=st.integers(0, 4), calls=st.integers(1, 30))
    def go_on(self, who: int, calls: int) -> None:
        _go(self.world, self._chosen(who), calls)

    @precondition(lambda self: self.alive())
    @rule(who=st.integers(0, 4), place=PLACES)
    def go_on_until_right_before(self, who: int, place: tuple[str, str]) -> None:
        self._until_right_before(self._chosen(who), place)

    @precondition(lambda self: self.alive())
    @rule(who=st.integers(0, 4))
    def go_on_for_one_save(self, who: int) -> None:
        each = self._chosen(who)
        target = each.prunes + 1 if isinstance(each, Launch) else 0
        budget = iter(range(100))
        self.world.run(each, lambda: (isinstance(each, Launch) and each.prunes >= target) or next(budget, None) is None)

    @precondition(lambda self: self.alive())
    @rule(who=st.integers(0, 4))
    def kill(self, who: int) -> None:
        self._chosen(who).actor.kill()

    @precondition(lambda self: self._saving())
    @rule(who=st.integers(0, 4), when=st.sampled_from(["before", "after"]))
    def fail(self, who: int, when: Literal["before", "after"]) -> None:
        self._saving()[who % len(self._saving())].actor.fail(when)

    def _training(self) -> list[Launch]:
        return [launch for launch in self.world.launches if not launch.actor.ended]

    def _saving(self) -> list[Launch]:
        return [launch for launch in self._training() if launch.acknowledged]

    def _ruling(self) -> list[Launch]:
        """The one launch that rules, if it lives and has saved."""
        return [launch for launch in self._saving() if launch is self.world.ruler]

    def _launched(self, keep: retention.Rule, every: int) -> Launch:
        for each in self._training():
            if self.world.kind == "careless bucket":
                self.world.run(each, lambda each=each: each.opened is not None)  # one launch after the other
        return self.world.launch(keep, every=every)

    def _few(self) -> bool:
        return len(self._training()) < 3

    def _until_right_before(self, each: Launch | Reader, place: tuple[str, str]) -> None:
        budget = iter(range(60))
        self.world.run(each, lambda: _is(each.actor, *place) or next(budget, None) is None)

    def _chosen(self, who: int) -> Launch | Reader:
        alive = self.alive()
        return alive[who % len(alive)]

    @invariant()
    def something_stands_once_anything_was_acknowledged(self) -> None:
        if any(launch.acknowledged for launch in self.world.launches):
            assert self.world.present

    @invariant()
    def who_is_not_disturbed_sees_the_line(self) -> None:
        head = self.world.head()
        expected = [each for each in self.world.line(head) if each in self.world.present] if head else []
        assert seen(self.world) == expected

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.world.close()


@pytest.mark.timeout(420)  # to shrink what was found takes up to five minutes
class TestInterleavings(Interleavings.TestCase):
    """A short search on every run."""

    settings = settings(max_examples=80, stateful_step_count=20, suppress_health_check=list(HealthCheck))


@pytest.mark.matrix
@pytest.mark.timeout(420)
class TestManyInterleavings(Interleavings.TestCase):
    """A long one."""

    settings = settings(max_examples=100, stateful_step_count=40, suppress_health_check=list(HealthCheck))
