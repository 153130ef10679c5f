"""Who may write."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resumable.errors import CorruptCheckpointError, FencedError
from resumable.store.attempts import begin, create_run, lock_run, read_attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import attempt_path
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Storage
from tests.store.building import launch, save
from tests.store.flat import CarelessStore


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def test_each_launch_takes_the_next_number_and_says_who_it_is(place: LocalStorage) -> None:
    first = begin(place, resumed_from=None, lineage_before=[], clock=lambda: 12.5)
    second = begin(place, resumed_from=None, lineage_before=[])
    assert (first.number, second.number) == (1, 2)
    assert first.token != second.token
    assert read_attempt(place, 1).started == 12.5
    assert read_attempt(place, 1).host


def test_the_lineage_is_that_of_the_checkpoint_and_this_attempt(place: LocalStorage) -> None:
    one = launch(place)
    assert one.lineage == ((1, None),)
    name = save(one, 100)
    launch(place, resumed_from=name)
    three = launch(place, resumed_from=name)
    assert three.lineage == ((1, None), (3, "step-000000100.e0000.a0001"))


def test_the_newest_attempt_fences_the_older_ones_and_is_named(place: LocalStorage) -> None:
    old = launch(place)
    old.check()
    new = begin(place, resumed_from=None, lineage_before=[], clock=lambda: 0.0)
    new.check()
    with pytest.raises(FencedError, match=r"attempt 2 \(host .*, pid \d+, started 1970-01-01 00:00:00 UTC\)") as caught:
        old.check()
    assert "this is attempt 1" in caught.value.message


def test_an_attempt_whose_number_was_taken_over_is_fenced(place: LocalStorage) -> None:
    mine = launch(place)
    theirs = read_attempt(place, 1).model_copy(update={"token": "another", "host": "elsewhere"})
    place.write(attempt_path(1), [theirs.dump()])
    with pytest.raises(FencedError, match="host elsewhere"):
        mine.check()


def test_an_attempt_whose_run_was_removed_is_fenced(place: LocalStorage) -> None:
    mine = launch(place)
    place.remove(attempt_path(1))
    with pytest.raises(FencedError, match="removed or replaced"):
        mine.check()


def test_a_damaged_file_of_the_newer_attempt_still_fences(place: LocalStorage) -> None:
    old = launch(place)
    place.write(attempt_path(2), [b"{"])
    with pytest.raises(FencedError, match="attempt 2 owns this run now"):
        old.check()


def test_an_absurdly_large_attempt_file_is_damage(place: LocalStorage) -> None:
    place.write(attempt_path(1), [bytes(100_000)])
    with pytest.raises(CorruptCheckpointError, match="more than"):
        read_attempt(place, 1)


def test_a_number_is_never_used_again_even_where_a_copy_left_the_attempts_behind(place: LocalStorage) -> None:
    save(launch(place), 100)
    place.remove(attempt_path(1))
    assert launch(place).number == 2


def test_of_many_launches_at_once_each_gets_its_own_number(tmp_path: Path) -> None:
    def place() -> Storage:
        return LocalStorage(tmp_path / "run")

    numbers: list[int] = []
    together = threading.Barrier(8)

    def run() -> None:
        together.wait()
        numbers.append(begin(place(), resumed_from=None, lineage_before=[]).number)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_without_exclusive_create_launches_one_after_the_other_still_differ(tmp_path: Path) -> None:
    careless = CarelessStore(folder=str(tmp_path), skip_instance_cache=True)
    place = FsspecStorage(careless, "bucket/run", "careless://bucket/run")
    old, new = launch(place), launch(place)
    new.check()
    with pytest.raises(FencedError):
        old.check()


def test_a_second_launch_on_this_machine_is_refused_and_told_who_is_there(place: LocalStorage) -> None:
    program = """
import sys
from resumable.store.storage.open import open_storage
from resumable.store.attempts import begin, lock_run
lock_run(open_storage(sys.argv[1]))
begin(open_storage(sys.argv[1]), resumed_from=None, lineage_before=[])
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program, place.url], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(FencedError, match=f"another job is using this run: .*pid {other.pid}") as caught:
            lock_run(place)
        assert caught.value.hint
        other.kill()
    lock_run(place)()


def test_run_json_is_written_once(place: LocalStorage) -> None:
    run = create_run(place, data_seed=1)
    assert create_run(LocalStorage(Path(place.url)), data_seed=2) == run
    assert Catalog(place).run_file() == run


def test_a_half_arrived_copy_is_no_place_for_a_new_run(place: LocalStorage) -> None:
    save(launch(place), 100)
    place.remove("run.json")
    with pytest.raises(CorruptCheckpointError, match=r"has checkpoints but no run\.json"):
        create_run(place, data_seed=1)


def test_a_damaged_run_file_is_an_error_not_a_new_run(place: LocalStorage) -> None:
    create_run(place, data_seed=1)
    place.write("run.json", [place.read("run.json").replace(b'"data_seed":1', b'"data_seed":3')])
    with pytest.raises(CorruptCheckpointError, match=r"run\.json: its digest differs"):
        Catalog(place).run_file()
