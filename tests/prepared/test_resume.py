"""Programs of Accelerate and Fabric that are killed in a window, in mid-epoch and in evaluation, as real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.client import Bench, killed, shared_lab, signalled
from tests.lightning.server import shared_lightning

IN_A_WINDOW, IN_EVALUATION, AT_ITS_END = "step:6+0.001", "evaluate:14", "fetch:22"
LAUNCHES = [killed(IN_A_WINDOW), killed(IN_EVALUATION), killed("save.blob:17"), killed(AT_ITS_END)]


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.matrix)])
def test_kills_of_a_program_of_accelerate_change_no_bit(tmp_path: Path, workers: int) -> None:
    ended = Bench(shared_lab(), tmp_path, "accelerate_accumulates", workers=workers).crash_and_rerun(LAUNCHES)
    assert not any("WARN" in launch.output or "replay" in launch.output for launch in ended)


def test_a_signal_in_a_window_saves_the_window(tmp_path: Path) -> None:
    bench = Bench(shared_lab(), tmp_path, "accelerate_accumulates")
    first, second, _ = bench.crash_and_rerun([signalled("SIGTERM", 5), signalled("SIGUSR1", 10)])
    assert "step=6 saved=yes" in first.output
    assert "RESUME  step=6 epoch=0 batch=6/11" in second.output


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.matrix)])
def test_kills_of_a_program_of_fabric_change_no_bit(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("lightning_fabric", reason="needs pytorch-lightning")
    ended = Bench(shared_lightning(), tmp_path, "fabric_accumulates", workers=workers).crash_and_rerun(LAUNCHES)
    assert not any("WARN" in launch.output or "replay" in launch.output for launch in ended)


def test_a_run_that_was_begun_without_the_accelerator_goes_on_with_it(tmp_path: Path) -> None:
    bench = Bench(shared_lab(), tmp_path, "accelerate_accumulates")
    begun = bench.launch("run", killed("step:9", without_accelerator=True))
    assert "add it: Trainer(..., accelerator=accelerator)" in begun.output
    joined = bench.launch("run", killed("step:14"))
    assert "WARN    accelerator: the run was begun without it" in joined.output
    rest = bench.launch("run")
    assert "begun without" not in rest.output
    again = {where: line for where, line in joined.batches.items() if where in rest.batches}
    assert again
    assert again.items() <= rest.batches.items()
