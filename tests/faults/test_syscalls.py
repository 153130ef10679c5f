"""Killed at any system call, or failed there: the last acknowledged checkpoint stands, and the program behaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiments import goes_on, litter
from tests.faults.forks import Forks
from tests.faults.sharing import SHARING
from tests.faults.subjects import IN_PLACE_SAVE, RESUMABLE, Subject
from tests.faults.syscalls import FAULTS, KILL, OPEN_AGAIN, OPEN_NEW, SAVE, START, UNTIL, Bench, Injection, Phase
from tests.faults.verdicts import Verdict

pytestmark = pytest.mark.usefixtures("_quiet", "_strace")

PHASES = (OPEN_NEW, START, OPEN_AGAIN, SAVE)
THINNED = 8


def swept(
    forks: Forks, folder: Path, phase: Phase, fault: str, every: int, *, subject: Subject = RESUMABLE
) -> Iterator[Injection]:
    """Every injection, with nothing lost by any, and a run that goes on behind each."""
    bench = Bench(forks, subject, phase, folder)
    for injection in bench.sweep([fault], every=every):
        assert set(injection.verdicts) == {Verdict.RIGHT}, f"{fault} at {injection.point}\n{injection.output}"
        yield injection
        assert goes_on(injection.place.run, subject), f"{fault} at {injection.point}\n{injection.output}"


def assert_a_kill_loses_nothing(forks: Forks, folder: Path, phase: Phase, *, every: int) -> None:
    for injection in swept(forks, folder, phase, KILL, every):
        assert injection.acknowledged == (phase.before or None), injection.point


def assert_a_failure_is_told(forks: Forks, folder: Path, phase: Phase, fault: str, *, every: int) -> None:
    """The program goes on and saves the last step, or ends with the reason; it is never silent about a save it lost."""
    for injection in swept(forks, folder, phase, fault, every):
        said = f"{fault} at {injection.point}\n{injection.output}"
        if injection.exit_code == 0:
            assert injection.acknowledged == UNTIL, said
            assert " step=2 " in injection.output or "WARN    save failed (1 of 3" in injection.output, said
            assert not litter(injection.place.run), said
        else:
            assert injection.exit_code == 1, said
            assert phase is not SAVE, f"one failed save ended the training: {said}"
            assert "StorageError: cannot " in injection.output, said


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_kill_at_a_system_call_loses_nothing(forks: Forks, folder: Path, phase: Phase) -> None:
    assert_a_kill_loses_nothing(forks, folder, phase, every=THINNED)


@pytest.mark.parametrize("subject", SHARING, ids=lambda subject: subject.name)
def test_a_fault_while_a_large_blob_is_shared_loses_nothing(forks: Forks, folder: Path, subject: Subject) -> None:
    for injection in swept(forks, folder, SAVE, KILL, THINNED, subject=subject):
        assert injection.acknowledged == SAVE.before, injection.point


@pytest.mark.matrix
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("subject", SHARING, ids=lambda subject: subject.name)
def test_every_fault_while_a_large_blob_is_shared_loses_nothing(
    forks: Forks, folder: Path, subject: Subject, fault: str
) -> None:
    for _ in swept(forks, folder, SAVE, fault, 1, subject=subject):
        pass


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_failing_system_call_loses_nothing_and_is_told(forks: Forks, folder: Path, phase: Phase, fault: str) -> None:
    assert_a_failure_is_told(forks, folder, phase, fault, every=THINNED)


@pytest.mark.matrix
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_kill_at_every_system_call_loses_nothing(forks: Forks, folder: Path, phase: Phase) -> None:
    assert_a_kill_loses_nothing(forks, folder, phase, every=1)


@pytest.mark.matrix
@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_every_failing_system_call_loses_nothing_and_is_told(
    forks: Forks, folder: Path, phase: Phase, fault: str
) -> None:
    assert_a_failure_is_told(forks, folder, phase, fault, every=1)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_laboratory_sees_what_a_write_in_place_loses(forks: Forks, folder: Path, fault: str) -> None:
    bench = Bench(forks, IN_PLACE_SAVE, SAVE, folder)
    assert Verdict.NONE in {verdict for injection in bench.sweep([fault]) for verdict in injection.verdicts}


def test_an_injection_that_hits_nothing_is_an_error(forks: Forks, folder: Path) -> None:
    bench = Bench(forks, RESUMABLE, SAVE, folder)
    [*_, last] = [point for point in bench.points() if point.call == "write"]
    with pytest.raises(AssertionError, match="ENOSPC"):
        bench.inject("ENOSPC", type(last)("write", last.number + 1000, "never reached"))
