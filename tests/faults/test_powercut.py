"""The power fails at any instant of a run: what was acknowledged is there, whole, and the run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from resumable.store.storage.direct_io import ALIGNMENT_BYTES
from tests.faults.experiments import Recording, calls_of, cut, goes_on, record
from tests.faults.forks import Forks
from tests.faults.powercut import State, states
from tests.faults.recording import Mutation
from tests.faults.sharing import SHARING
from tests.faults.subjects import BROKEN, DCP, IN_PLACE_SAVE, RESUMABLE, Subject
from tests.faults.verdicts import Verdict

pytestmark = pytest.mark.usefixtures("_quiet")
recorded = pytest.mark.usefixtures("_fuse")


def assert_survives(
    recording: Recording, folder: Path, *, since: int = 0, subject: Subject = RESUMABLE, safe_step: int | None = None
) -> Iterator[State]:
    """Every state after `since` changes loads what was acknowledged."""
    for state, verdict in cut(subject, recording, folder, since=since, safe_step=safe_step):
        assert verdict is Verdict.RIGHT, (state.cut, state.how)
        yield state


def assert_survives_and_goes_on(recording: Recording, folder: Path) -> int:
    """The same, and that the run goes on from each; how many there are."""
    count = 0
    for state in assert_survives(recording, folder):
        assert goes_on(folder), (state.cut, state.how)
        count += 1
    return count


@recorded
def test_a_power_cut_at_any_instant_of_a_new_run_loses_nothing_that_was_acknowledged(
    forks: Forks, folder: Path
) -> None:
    recording = record(forks, RESUMABLE, folder / "recorded", until=2)
    assert recording.exit_code == 0, recording.output
    assert assert_survives_and_goes_on(recording, folder / "state") > 80


@recorded
@pytest.mark.parametrize("subject", BROKEN, ids=lambda subject: subject.name)
def test_a_writer_that_spares_an_fsync_is_caught(forks: Forks, folder: Path, subject: Subject) -> None:
    recording = record(forks, subject, folder / "recorded", until=2)
    assert recording.exit_code == 0, recording.output
    verdicts = (verdict for _, verdict in cut(subject, recording, folder / "state", safe_step=1))
    assert any(verdict is not Verdict.RIGHT for verdict in verdicts)


@recorded
@pytest.mark.matrix
@pytest.mark.parametrize("subject", [IN_PLACE_SAVE, DCP], ids=lambda subject: subject.name)
def test_the_laboratory_sees_what_peers_lose(forks: Forks, folder: Path, subject: Subject) -> None:
    recording = record(forks, subject, folder / "recorded", until=2)
    found = {verdict for _, verdict in cut(subject, recording, folder / "state", safe_step=1)}
    assert found & {Verdict.NONE, Verdict.LOST}


@recorded
@pytest.mark.matrix
def test_a_power_cut_at_any_instant_of_an_attempt_that_resumes_loses_nothing(forks: Forks, folder: Path) -> None:
    recording = record(forks, RESUMABLE, folder / "recorded", until=2, again=4)
    assert recording.exit_code == 0, recording.output
    assert assert_survives_and_goes_on(recording, folder / "state") > 150


def assert_sharing_survives(forks: Forks, folder: Path, subject: Subject, *, until: int, safe_step: int) -> None:
    recording = record(forks, subject, folder / "recorded", until=until)
    assert recording.exit_code == 0, recording.output
    linked = [change for change in recording.mutations if change.operation == "link" and ".frozen" in change.path]
    assert bool(linked) is subject.options["links"]
    count = 0
    for state in assert_survives(recording, folder / "state", subject=subject, safe_step=safe_step):
        assert goes_on(folder / "state", subject), (state.cut, state.how)
        count += 1
    assert count > 20


@recorded
@pytest.mark.parametrize("subject", SHARING, ids=lambda subject: subject.name)
def test_a_power_cut_while_a_large_blob_is_shared_loses_nothing(forks: Forks, folder: Path, subject: Subject) -> None:
    assert_sharing_survives(forks, folder, subject, until=2, safe_step=1)


@recorded
@pytest.mark.matrix
@pytest.mark.parametrize("subject", SHARING, ids=lambda subject: subject.name)
def test_a_power_cut_loses_nothing_until_a_shared_blob_is_written_anew(
    forks: Forks, folder: Path, subject: Subject
) -> None:
    assert_sharing_survives(forks, folder, subject, until=4, safe_step=0)


# -- fsync that fails, writes that fall short -------------------------------------------------------------------------


def assert_fault_harms_nothing(forks: Forks, folder: Path, kind: str, operation: str, number: int) -> None:
    """One call of a run's start and first save suffers a fault; then the power may fail whenever it likes."""
    recording = record(forks, RESUMABLE, folder / "recorded", until=1, fault=f"{kind}:{operation}:{number}")
    calls = [at for at, mutation in enumerate(recording.mutations) if mutation.operation == operation]
    assert recording.mutations[calls[number - 1]].failed is (kind != "short"), "the fault did not land"
    for _ in assert_survives(recording, folder / "state", since=calls[number - 1]):
        pass
    if recording.exit_code == 0:
        assert recording.place.acknowledged() == 1
    else:
        assert "StorageError: cannot " in recording.output, recording.output


def syncs_of_the_last_save(forks: Forks, folder: Path) -> list[tuple[str, int]]:
    """The fsync of a blob's data, and those of the name of its folder and of its own name."""
    mutations = record(forks, RESUMABLE, folder / "recorded", until=1).mutations
    counts: Counter[str] = Counter()
    found = {}
    for before, mutation in pairwise(mutations):
        counts[mutation.operation] += 1
        if mutation.operation in ("fsync", "fsyncdir") and "/step-000000001." in before.path:
            found.setdefault((before.operation, mutation.operation), counts[mutation.operation])
    assert set(found) == {("write", "fsync"), ("mkdir", "fsyncdir"), ("rename", "fsyncdir")}
    return [(operation, number) for (_, operation), number in found.items()]


@recorded
def test_a_power_cut_after_an_fsync_that_failed_loses_nothing(forks: Forks, folder: Path) -> None:
    for operation, number in syncs_of_the_last_save(forks, folder):
        assert_fault_harms_nothing(forks, folder, "EIO", operation, number)


@recorded
def test_a_write_that_falls_short_is_gone_on_with(forks: Forks, folder: Path) -> None:
    undisturbed = record(forks, RESUMABLE, folder / "recorded", until=1)
    for number in list(calls_of(undisturbed, "write"))[-3:]:
        assert_fault_harms_nothing(forks, folder, "short", "write", number)


@recorded
@pytest.mark.parametrize("subject", SHARING[:1], ids=lambda subject: subject.name)
def test_a_direct_write_that_falls_short_is_gone_on_with_through_the_cache(
    forks: Forks, folder: Path, subject: Subject
) -> None:
    undisturbed = record(forks, subject, folder / "recorded", until=0)
    writes = [change for change in undisturbed.mutations if change.operation == "write"]
    large = [number for number, change in enumerate(writes, 1) if len(change.data) % ALIGNMENT_BYTES == 0]
    assert len(large) == 2  # of both blobs, but for their last bytes
    for number in large:
        recording = record(forks, subject, folder / "recorded", until=0, fault=f"short:write:{number}")
        pieces = [len(change.data) for change in recording.mutations if change.operation == "write"]
        assert pieces[number - 1] == len(writes[number - 1].data) // 2, "the fault did not land"
        assert (recording.exit_code, recording.place.acknowledged()) == (0, 0), recording.output
        for _ in assert_survives(recording, folder / "state", subject=subject):
            pass


@recorded
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("kind", "operation"),
    [("EIO", "fsync"), ("EIO", "fsyncdir"), ("EIO", "write"), ("ENOSPC", "write"), ("short", "write")],
)
def test_a_fault_at_any_such_call_and_then_a_power_cut_lose_nothing(
    forks: Forks, folder: Path, kind: str, operation: str
) -> None:
    undisturbed = record(forks, RESUMABLE, folder / "recorded", until=1)
    for number in calls_of(undisturbed, operation):
        assert_fault_harms_nothing(forks, folder, kind, operation, number)


# -- the model itself -------------------------------------------------------------------------------------------------

SAFE = [Mutation("mkdir", "/p"), Mutation("mkdir", "/p/run")]


def outcomes(*changes: Mutation) -> list[dict[str, bytes]]:
    """The trees that a cut after the last of some changes in a folder that is safe adds to those of earlier cuts."""
    return [state.files for state in all_states(*changes) if state.cut == len(SAFE) + len(changes)]


def all_states(*changes: Mutation) -> list[State]:
    return list(states([*SAFE, *changes], place="/p", safe_until=len(SAFE)))


def file(name: str, data: bytes) -> list[Mutation]:
    return [Mutation("create", f"/p/run/{name}"), Mutation("write", f"/p/run/{name}", data=data)]


def test_in_the_model_data_without_fsync_may_be_lost_zeroed_or_torn_and_its_name_too() -> None:
    data = b"x" * 1024
    found = [state.files for state in all_states(*file("a", data))]
    assert {} in found
    for content in (b"", data, bytes(1024), data[:512], bytes(512) + data[512:]):
        assert {"a": content} in found


def test_in_the_model_data_and_name_are_safe_after_both_syncs() -> None:
    synced = [Mutation("fsync", "/p/run/a"), Mutation("fsyncdir", "/p/run")]
    found = outcomes(*file("a", b"x" * 1024), *synced, Mutation("create", "/p/run/b"))
    assert found
    assert all(tree["a"] == b"x" * 1024 for tree in found)


def test_in_the_model_a_rename_may_come_before_the_data_and_before_other_names() -> None:
    found = [state.files for state in all_states(*file("a", b"x"), Mutation("rename", "/p/run/a", "/p/run/b"))]
    assert {"b": b""} in found
    assert {"a": b"x"} in found
    assert not any({"a", "b"} <= tree.keys() for tree in found), "one file under two names, from a rename"


def test_in_the_model_a_failed_fsync_loses_what_it_was_to_make_safe() -> None:
    failed, later = Mutation("fsync", "/p/run/a", failed=True), Mutation("fsync", "/p/run/a")
    named, more = Mutation("fsyncdir", "/p/run"), Mutation("create", "/p/run/b")
    assert outcomes(*file("a", b"x"), failed, later, named, more) == [{"a": b"", "b": b""}]
