"""Damage to any region of any file of a run: never silently wrong, and the newest checkpoint left whole is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable import CorruptCheckpointError, Run
from tests.faults.damage import KINDS, REMOVED, Damage, read_tree
from tests.faults.experiments import Victim, emptied, goes_on
from tests.faults.forks import Forks
from tests.faults.subjects import DCP, IN_PLACE_SAVE, RESUMABLE, Subject
from tests.faults.verdicts import Verdict

pytestmark = pytest.mark.usefixtures("_quiet")


@pytest.fixture
def victim(forks: Forks, folder: Path) -> Victim:
    return Victim.make(forks, RESUMABLE, folder)


def assert_damage_is_noticed(victim: Victim, folder: Path, *, flips: int) -> None:
    kinds = set()
    for damage, verdict in victim.suffer(folder, flips=flips):
        kinds.add(damage.kind)
        assert verdict is Verdict.RIGHT, damage.what
    assert kinds == set(KINDS)


def test_damage_is_noticed_and_the_newest_checkpoint_left_whole_is_loaded(victim: Victim, folder: Path) -> None:
    assert_damage_is_noticed(victim, folder / "state", flips=8)


@pytest.mark.matrix
def test_damage_all_over_every_file_is_noticed(victim: Victim, folder: Path) -> None:
    assert_damage_is_noticed(victim, folder / "state", flips=200)


@pytest.mark.matrix
def test_a_run_goes_on_from_whatever_damage(victim: Victim, folder: Path) -> None:
    for damage, _ in victim.suffer(folder / "state", flips=4):
        assert goes_on(folder / "state"), damage.what


def test_a_run_file_that_is_gone_is_refused_and_nothing_is_touched(victim: Victim, folder: Path) -> None:
    damage = Damage(REMOVED, "run.json", {"run.json": None}, 3)
    with emptied(folder / "state") as run:
        damage.make(victim.tree, run)
        before = read_tree(run)
        with pytest.raises(CorruptCheckpointError, match=r"has checkpoints but no run\.json"):
            RESUMABLE.load(run)
        assert read_tree(run) | {"lock": b""} == before | {"lock": b""}
        latest = Run(str(run)).latest()
        latest.verify()
        assert latest.step == 3


@pytest.mark.matrix
@pytest.mark.parametrize("subject", [IN_PLACE_SAVE, DCP], ids=lambda subject: subject.name)
@pytest.mark.filterwarnings("ignore")
def test_the_laboratory_sees_what_peers_take_for_right(forks: Forks, folder: Path, subject: Subject) -> None:
    victim = Victim.make(forks, subject, folder)
    assert Verdict.WRONG in {verdict for _, verdict in victim.suffer(folder / "state", flips=8)}
