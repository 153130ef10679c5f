"""The first second of an attempt: which run it continues, and which it refuses to touch."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resumable
from resumable import ConfigError, FencedError, NoCheckpointError, Run, RunMismatchError, Trainer
from tests.tiny import Crash, Tiny, crashed, steps_of

ROOT = Path(resumable.__file__).parent.parent

# Trains the run that its argument names until it is killed, and leaves a forked child that outlives it.
HOLDS = """
import os, signal, sys
from resumable import Trainer
trainer = Trainer({"run": sys.argv[1]}, progress={"n": 0})
steps = iter(trainer.steps(2))
next(steps)
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


class Holder:
    """Another program that uses a run, and its child."""

    def __init__(self, run: Path) -> None:
        self._program = subprocess.Popen([sys.executable, "-c", HOLDS, run], cwd=ROOT, stdout=subprocess.PIPE)
        assert self._program.stdout
        assert select.select([self._program.stdout], [], [], 60)[0], "the other program did not start"
        self.pid, self.child = self._program.pid, int(self._program.stdout.readline())

    def kill(self) -> None:
        self._program.kill()
        self._program.wait()

    def close(self) -> None:
        self.kill()
        os.kill(self.child, signal.SIGKILL)
        assert self._program.stdout
        self._program.stdout.close()


@pytest.fixture
def holder(run: Path) -> Iterator[Holder]:
    started = Holder(run)
    yield started
    started.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- one job per run --------------------------------------------------------------------------------------------------


def test_another_program_on_a_run_is_refused_until_it_is_killed_even_while_its_children_live(
    run: Path, holder: Holder
) -> None:
    who = rf"another job is using this run: .* \(attempt 1 \(host \S+, pid {holder.pid}, started "
    with pytest.raises(FencedError, match=who) as told:
        Trainer({"run": str(run)}, progress={"n": 0})
    assert "wait for it, stop it, or name another folder" in str(told.value.hint)
    holder.kill()
    assert alive(holder.child)
    with Trainer({"run": str(run)}, progress={"n": 0}) as trainer:
        assert trainer.step == 0


def test_a_refused_trainer_holds_nothing(run: Path) -> None:
    crashed(run, step=5)
    for _ in range(2):
        with pytest.raises(RunMismatchError):
            Trainer({"run": str(run)}, other={"n": 0})
    with Tiny(run).trainer() as trainer:
        assert trainer.step == 4


def test_several_runs_in_one_program_do_not_disturb_each_other(tmp_path: Path) -> None:
    with Tiny(tmp_path / "one").trainer() as one, Tiny(tmp_path / "other").trainer() as other:
        for _ in zip(one.steps(2), other.steps(2), strict=True):
            pass
    assert steps_of(tmp_path / "one") == steps_of(tmp_path / "other") == [0, 2]


# -- whether to continue ----------------------------------------------------------------------------------------------


def test_resume_must_refuses_to_begin_a_run(run: Path) -> None:
    with pytest.raises(NoCheckpointError, match="no run here, and the config sets resume: must"):
        Tiny(run, resume="must").trainer()
    assert not (run / "run.json").exists()


def test_resume_must_continues_a_run(run: Path) -> None:
    crashed(run, step=5)
    with Tiny(run, resume="must").trainer() as trainer:
        assert trainer.step == 4


def test_resume_never_refuses_a_run_that_is_there_and_deletes_nothing(run: Path) -> None:
    crashed(run, step=5)
    before = sorted(run.rglob("*"))
    with pytest.raises(RunMismatchError, match="there is a run already, and the config sets resume: never") as caught:
        Tiny(run, resume="never").trainer()
    assert "nothing was deleted" in str(caught.value.hint)
    assert sorted(run.rglob("*")) == before


def test_a_run_that_crashed_before_its_first_checkpoint_begins_again_as_the_same_run(run: Path) -> None:
    with Tiny(run, data_seed=None).trainer() as trainer:
        run_id = trainer.run_id
    before = json.loads((run / "run.json").read_text())
    assert before["run_id"] == run_id
    Tiny(run, data_seed=None).train(1)
    last = Run(str(run)).latest().manifest
    assert (last.run_id, last.attempt) == (before["run_id"], 1), "a launch without a loop claims nothing"
    assert json.loads((run / "run.json").read_text()) == before


# -- the seed of the data ---------------------------------------------------------------------------------------------


def test_another_data_seed_is_refused(run: Path) -> None:
    crashed(run, step=5)
    with pytest.raises(RunMismatchError, match=r"data_seed is 8 in the config, but .* created with 7") as caught:
        Tiny(run, data_seed=8).trainer()
    assert "remove data_seed from the config" in str(caught.value.hint)


def test_a_run_keeps_its_data_seed_when_the_config_names_none(run: Path, tmp_path: Path) -> None:
    orders = []
    for folder, seed in ((run, 7), (tmp_path / "same", 7), (tmp_path / "other", 8)):
        with pytest.raises(Crash):
            Tiny(folder, data_seed=seed, crash_at=3).train()
        tiny = Tiny(folder, data_seed=None)
        tiny.train()
        orders.append(tiny.notes["seen"])
    assert orders[0] == orders[1] != orders[2]


# -- what this version cannot do --------------------------------------------------------------------------------------


def test_a_world_of_several_processes_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the world has 2 processes; this version trains in one"):
        Tiny(run).trainer()
    assert not run.exists()


@pytest.mark.parametrize("declared", ["", " ", "1"])
def test_a_world_that_is_empty_or_one_is_this_process(
    run: Path, monkeypatch: pytest.MonkeyPatch, declared: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", declared)
    Tiny(run).train(1)
    assert Run(str(run)).latest().manifest.finished


def test_a_world_that_is_no_number_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE='two' in the environment: expected a whole number"):
        Tiny(run).trainer()
    assert not run.exists()


@pytest.mark.parametrize("change", ["missing", "unexpected", "another kind"])
def test_a_run_of_other_objects_is_refused_with_the_difference(run: Path, change: str) -> None:
    crashed(run, step=5)
    tiny = Tiny(run)
    objects: dict[str, Any] = {"model": tiny.model, "optimizer": tiny.optimizer, "notes": tiny.notes}
    if change == "missing":
        del objects["notes"]
    elif change == "unexpected":
        objects["more"] = {}
    else:
        objects["optimizer"] = torch.optim.Adam(tiny.model.parameters())
    expected = {
        "missing": "not passed: notes",
        "unexpected": "not in the checkpoint: more",
        "another kind": r"optimizer: expected torch.optim.sgd.SGD, found torch.optim.adam.Adam",
    }
    with pytest.raises(RunMismatchError, match=expected[change]) as caught:
        Trainer(tiny.config, **objects)
    assert "the same objects under the same names" in str(caught.value.hint)


def a_wider_layer(tiny: Tiny) -> None:
    tiny.model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.25), nn.Linear(8, 1))


def another_dtype(tiny: Tiny) -> None:
    tiny.model.double()


def one_more_layer(tiny: Tiny) -> None:
    tiny.model.append(nn.Linear(1, 1))


def one_layer_less(tiny: Tiny) -> None:
    del tiny.model[3]


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (a_wider_layer, "0.weight (checkpoint float32[20, 2], here float32[8, 2])"),
        (another_dtype, "0.weight (checkpoint float32[20, 2], here float64[20, 2])"),
        (one_more_layer, "4.weight"),
        (one_layer_less, "3.weight"),
    ],
)
def test_a_model_of_another_shape_is_refused_before_an_attempt_is_claimed(
    run: Path, change: Callable[[Tiny], None], phrase: str
) -> None:
    crashed(run, step=5)
    before = sorted(run.rglob("*"))
    tiny = Tiny(run)
    change(tiny)
    tiny.optimizer = torch.optim.SGD(tiny.model.parameters(), lr=0.02, momentum=0.9)
    with tiny.trainer() as trainer:
        assert (trainer.step, trainer.epoch, trainer.resuming) == (4, 0, True)
        for begins in (trainer.restore, lambda: next(iter(trainer.epochs(2)))):
            with pytest.raises(RunMismatchError) as caught:
                begins()
            assert phrase in caught.value.message
    assert sorted(run.rglob("*")) == before
    assert not (run / "attempts" / "000002.json").exists()
    with Tiny(run).trainer() as trainer:
        trainer.restore()
        assert trainer.step == 4
    assert (run / "attempts" / "000002.json").exists()
