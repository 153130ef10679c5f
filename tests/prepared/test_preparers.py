"""An `Accelerator` and a `Fabric` as objects of a run: exact where they train in one process, refused elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

import resumable.prepared.private
from resumable import ConfigError, Run, RunMismatchError, Trainer
from resumable.store.documents.parse_documents import parse_manifest
from tests.prepared.training import EPOCHS, Program
from tests.tiny import Crash, assert_equal_ends


def launch(run: Path, *, program: Program | None = None, **options: Any) -> list[bool]:
    """One launch of a program that passes its accelerator."""
    program = program or Program()
    return program.train(run, {"accelerator": program.accelerator} | program.updated, **options)


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "from before prepare()"])
@pytest.mark.parametrize("crash_at", [2, 5, 9])
def test_all_windows_after_a_resume_are_those_of_an_undisturbed_run(
    tmp_path: Path, prepared: bool, crash_at: int
) -> None:
    def launched(run: str, **options: Any) -> list[bool]:
        program = Program()
        return launch(tmp_path / run, program=program, loader=None if prepared else program.plain, **options)

    with pytest.raises(Crash):
        launched("run", crash_at=crash_at)
    rest, whole = launched("run"), launched("whole")
    assert rest == whole[crash_at:]
    assert whole.count(True) == (6 if prepared else 4)
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")


def test_windows_are_those_of_accelerate_alone(tmp_path: Path) -> None:
    program = Program()
    for _ in range(EPOCHS):
        for [x] in program.loader:
            program.step(x)
    assert launch(tmp_path / "run") == program.ends


@pytest.mark.alarms(".factor")
def test_a_gradient_scaler_goes_on_where_it_was(tmp_path: Path) -> None:
    def launched(run: str, **options: Any) -> float:
        program = Program(scaler=True, gradient_accumulation_steps=2)

        def overflow(trainer: Trainer) -> None:
            program.factor = torch.inf if trainer.step in (2, 3) else 1.0

        launch(tmp_path / run, program=program, each=overflow, **options)
        return float(program.accelerator.scaler.get_scale())

    with pytest.raises(Crash):
        launched("run", crash_at=8)
    scale = launched("run")
    assert scale == launched("whole") != 2.0**14
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")


def test_a_window_that_the_loop_changed_is_restored_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def launched(run: str, **options: Any) -> list[bool]:
        program = Program()

        def widen(trainer: Trainer) -> None:
            if trainer.step == 3:
                program.accelerator.gradient_accumulation_steps = 2

        return launch(tmp_path / run, program=program, each=widen, **options)

    with pytest.raises(Crash):
        launched("run", crash_at=9)
    assert "gradient_accumulation_steps" not in caplog.text
    assert launched("run") == launched("whole")[9:]
    line = "accelerator: gradient_accumulation_steps is 2 in the checkpoint and 4 in the program"
    assert caplog.text.count(line) == 1


def test_another_number_of_registered_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=2)
    program = Program()
    program.accelerator.register_for_checkpointing(torch.nn.Linear(1, 1))
    with pytest.raises(RunMismatchError, match="registered for checkpointing are 1 objects, expected 0"):
        launch(tmp_path / "run", program=program)


def test_a_scaler_on_one_side_of_a_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=2)
    with pytest.raises(RunMismatchError, match="has a gradient scaler, or had one, only on one side"):
        launch(tmp_path / "run", program=Program(scaler=True))


def test_a_version_that_was_not_checked_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.__version__", "99.0")
    with Trainer({"run": str(tmp_path)}, accelerator=Accelerator(cpu=True)):
        pass
    assert "accelerator: exact resume was not checked with accelerate 99.0" in caplog.text
    assert set(resumable.prepared.private.CHECKED) == {"accelerate", "lightning_fabric", "lightning"}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("distributed_type", DistributedType.DEEPSPEED, "an Accelerator of the type DEEPSPEED"),
        ("distributed_type", DistributedType.FSDP, "an Accelerator of the type FSDP"),
        ("num_processes", 2, "2 processes"),
    ],
)
def test_an_accelerator_of_several_processes_or_shards_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, value: Any, found: str
) -> None:
    accelerator = Accelerator(cpu=True)
    AcceleratorState._shared_state[name] = value
    with pytest.raises(ConfigError, match=f"accelerator: expected one process that holds .*, found {found}"):
        Trainer({"run": str(tmp_path / "run")}, accelerator=accelerator)
    assert not (tmp_path / "run").exists()


def test_a_fabric_of_several_processes_or_shards_is_refused(tmp_path: Path) -> None:
    fabrics = pytest.importorskip("lightning_fabric", reason="needs pytorch-lightning")
    several = fabrics.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    copies = fabrics.Fabric(accelerator="cpu", devices=1, strategy=fabrics.strategies.DataParallelStrategy())
    for fabric, found in ((several, "2 processes"), (copies, "a Fabric with DataParallelStrategy")):
        with pytest.raises(ConfigError, match=f"fabric: expected one process that holds .*, found {found}"):
            Trainer({"run": str(tmp_path / "run")}, fabric=fabric)


def test_the_scaler_of_a_fabric_goes_on_where_it_was(tmp_path: Path) -> None:
    fabrics = pytest.importorskip("lightning_fabric", reason="needs pytorch-lightning")
    from lightning_fabric.plugins import MixedPrecision

    def launched(run: str, crash_at: int | None = None) -> float:
        torch.manual_seed(1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        fabric = fabrics.Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu", scaler))
        model = torch.nn.Linear(2, 1)
        model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.01))
        config = {"run": str(tmp_path / run), "data_seed": 7, "every": {"steps": 1, "minutes": None}}
        with Trainer(config, fabric=fabric, model=model, optimizer=optimizer) as trainer:
            for step in trainer.steps(10):
                loss = model(torch.randn(4, 2)).float().square().mean() * (torch.inf if step == 4 else 1)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                trainer.request_save()
                if step == crash_at:
                    raise Crash
        return float(scaler.get_scale())

    with pytest.raises(Crash):
        launched("run", crash_at=7)
    scale = launched("run")
    assert scale == launched("whole") != 2.0**10
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")


# -- runs that were begun otherwise -----------------------------------------------------------------------------------


def begun_before(run: Path) -> None:
    """The start of a run as a version left it that read prepared loaders by replay, without the accelerator."""
    program = Program()
    with pytest.raises(Crash):
        program.train(run, program.updated, crash_at=1)
    for later in sorted(run.glob("checkpoints/*"))[1:]:
        shutil.rmtree(later)
    for path in run.glob("checkpoints/*/manifest.json"):
        manifest = parse_manifest(path.read_bytes())
        environment = {key: value for key, value in manifest.environment.items() if key != "prepared_loaders"}
        path.write_bytes(manifest.model_copy(update={"environment": environment}).dump())


def test_a_run_of_an_earlier_version_goes_on_by_replay_with_the_accelerator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = {}
    for run, crashes in (("whole", ()), ("run", (5, 9))):
        begun_before(tmp_path / run)
        for crash_at in crashes:
            with pytest.raises(Crash):
                launch(tmp_path / run, crash_at=crash_at)
        ends[run] = launch(tmp_path / run)
    assert caplog.text.count("accelerator: the run was begun without it") == 2
    assert "this run began with an earlier version" in caplog.text
    assert ends["run"] == ends["whole"][9:]
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
    environments = [checkpoint.manifest.environment for checkpoint in Run(str(tmp_path / "run")).checkpoints()]
    assert not any("prepared_loaders" in environment for environment in environments)


def test_a_run_that_was_begun_with_the_accelerator_is_not_continued_without(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=2)
    program = Program()
    with pytest.raises(RunMismatchError, match="not passed: accelerator"):
        program.train(tmp_path / "run", program.updated)
