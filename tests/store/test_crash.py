"""Killed at every system call that changes a disk, or failing there: a reader never meets a half-way state."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from resumable.checkpointing.prune import prune
from resumable.config.config import Config
from resumable.errors import StorageError
from resumable.policy.retention import Rule
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.publish import delete
from resumable.store.storage.local import LocalStorage
from tests.store import training
from tests.store.building import launch, line, save, verify_bytes
from tests.store.opening import open_run

NEED_SPACE = ("open", "write", "fsync", "replace", "link", "mkdir")
CHANGE = (*NEED_SPACE, "unlink", "rmdir")


def at_call(
    number: int, act: Callable[[], None], patch: Callable[[object, str, Any], None], names: Sequence[str] = CHANGE
) -> None:
    """Let `act` happen before the `number`th call, from now on, of those that change a disk, and before all later."""
    countdown = iter(range(number))

    def patched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reads = name == "open" and not arguments[1] & os.O_CREAT
            if not reads and next(countdown, None) is None:
                act()
            return real(*arguments, **options)

        return call

    for name in names:
        patch(os, name, patched(name, getattr(os, name)))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_every_call(work: Callable[[], object]) -> Iterator[int]:
    """Do `work` in a child that is killed at its first call, then in one killed at its second, until one survives."""
    for number in itertools.count():
        child = os.fork()
        if not child:
            at_call(number, kill, setattr)
            try:
                work()
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return
        yield number


def prepared(root: Path) -> tuple[Attempt, CheckpointName]:
    attempt = launch(LocalStorage(root))
    return attempt, save(attempt, 100)


def test_killed_at_any_call_of_a_save_the_checkpoint_is_whole_or_does_not_exist(tmp_path: Path) -> None:
    attempt, first = prepared(tmp_path / "run")
    step = itertools.count(200)
    seen = set()
    expected = [str(first)]
    for _ in killed_at_every_call(lambda: save(attempt, next(step))):
        place = LocalStorage(tmp_path / "run")
        name = CheckpointName(next(step), 0, 1)
        history = Catalog(place).history()
        for _, manifest in history:
            verify_bytes(Catalog(place), manifest)
        published = str(name) in line(place)
        seen.add(published)
        expected = [str(name), *expected] if published else expected
        assert line(place) == expected
    assert seen == {True, False}


def test_killed_at_any_call_of_a_deletion_the_rest_of_the_line_stands(tmp_path: Path) -> None:
    attempt, first = prepared(tmp_path / "run")
    second = save(attempt, 200)
    for _ in killed_at_every_call(lambda: delete(attempt.storage, attempt, [second])):
        place = LocalStorage(tmp_path / "run")
        assert line(place) in ([str(second), str(first)], [str(first)])
        for _, manifest in Catalog(place).history():
            verify_bytes(Catalog(place), manifest)
    assert Catalog(attempt.storage).names() == [first]


def test_killed_at_any_call_of_a_launch_the_next_launch_works(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "run"
    for _ in killed_at_every_call(lambda: launch(LocalStorage(root))):
        Catalog(LocalStorage(root)).run_file()
    attempt = launch(LocalStorage(root))
    attempt.check()
    assert line(LocalStorage(root)) == []


def test_a_full_disk_at_any_call_of_a_save_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, first = prepared(tmp_path / "run")
    for number in itertools.count():
        with monkeypatch.context() as patched:
            at_call(number, full_once(), patched.setattr, NEED_SPACE)
            failure = failure_of(lambda: save(attempt, 200))
        if failure is None:
            break
        assert "No space left" in failure.message
        assert line(LocalStorage(tmp_path / "run")) == [str(first)]
        left = [path.name for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
        assert sorted(left) == ["manifest.json", "model.safetensors", "state.rank00000.json"]
    assert number > 10


def failure_of(work: Callable[[], object]) -> StorageError | None:
    try:
        work()
    except StorageError as failure:
        return failure
    return None


def full_once() -> Callable[[], None]:
    failures = iter([OSError(28, "No space left on device")])

    def act() -> None:
        for failure in failures:
            raise failure

    return act


def test_killed_at_any_call_of_a_save_that_clears_what_earlier_kills_left_the_line_stands_and_all_of_it_goes(
    tmp_path: Path,
) -> None:
    root, steps = tmp_path / "run", itertools.count(1)
    place, first = LocalStorage(root), launch(LocalStorage(root))
    expected = save(first, 0, contents={})
    stale = [".tmp-" + "a" * 16, "attempts/.tmp-" + "b" * 16, "attempts/.probe-" + "c" * 16]
    for path in [checkpoint_path(CheckpointName(5, 0, 1), "model.safetensors"), *stale]:
        place.write(path, [b"left by a kill"])
    for _ in killed_at_every_call(lambda: launch_and_save(root, next(steps))):
        next(steps)
        newest, *_ = Catalog(place).history()
        assert newest[0].order >= expected.order
        for _, manifest in Catalog(place).history():
            verify_bytes(Catalog(place), manifest)
        expected = newest[0]
    launch_and_save(root, next(steps))
    assert len(Catalog(place).names()) == 3
    assert len(line(place)) == 3
    left = {str(path.relative_to(root)) for path in root.rglob(".*")}
    assert not left, "temporary files and probes stay for ever"


def launch_and_save(root: Path, step: int) -> None:
    """One more launch of the run that saves once and prunes."""
    place = LocalStorage(root)
    opened = open_run(Config(run=str(root), data_seed=7), place, Catalog(place), {})
    training.save(place, opened, step)
    prune(place, Catalog(place), opened.attempt, Rule(last=3))
    opened.unlock()
