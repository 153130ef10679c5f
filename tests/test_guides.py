"""The code of the README and the guides, run as it stands: loops, programs, commands and job scripts."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset
from typer.main import get_command

import resumable
from resumable import Run, Trainer
from resumable.cli.checkpoint_diff import compare
from tests.cli import conftest
from tests.cli.conftest import Cli
from tests.harness.python import warm_python
from tests.pages import GUIDES, PAGES, README, ROOT, blocks

cli = conftest.cli

# What a page names and a test has in another place, or sooner.
ELSEWHERE = {"s3://": "memory://", "@12000": "@4"}


class Net(nn.Module):
    """A body of two layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(self.encoder(images)).relu())


def validate(model: nn.Module, loader: Any) -> float:
    with torch.no_grad():
        return sum(cross_entropy(model(images), labels).item() for images, labels in loader)


def names() -> dict[str, Any]:
    """What the reader of a page has already: a model, an optimizer and data."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(20, 4), torch.arange(20) % 3)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "bert": nn.Linear(2, 2),
        "dataset": data,
        "train_loader": DataLoader(data, batch_size=5, shuffle=True),
        "test_loader": DataLoader(data, batch_size=5),
        "images": data.tensors[0],
        "get_batch": lambda: (torch.randn(5, 4), torch.randint(3, (5,))),
        "validate": validate,
        "cross_entropy": cross_entropy,
    }


def train(run: str) -> None:
    """Leave a finished run of 4 steps with a golden input, an average and a metric."""
    known = names()
    model, average = known["model"], AveragedModel(known["model"])
    config = {"run": run, "every": {"steps": 2}, "keep": {"last": 9}}
    with Trainer(config, model=model, optimizer=known["optimizer"], ema=average) as trainer:
        trainer.golden(known["images"][:2], model="model")
        for _ in trainer.epochs(1):
            for images, labels in trainer.batches(known["train_loader"]):
                cross_entropy(model(images), labels).backward()
                known["optimizer"].step()
                average.update_parameters(model)
                trainer.log(val_loss=1 / trainer.step if trainer.step else 1.0)


def runs() -> None:
    """Leave the runs and files that the pages name."""
    train("runs/digits")
    shutil.copytree("runs/digits", "runs/a")
    shutil.copytree("runs/digits", "runs/b")
    memory = fsspec.filesystem("memory")
    memory.put("runs/digits", "/bucket/digits", recursive=True)
    save_file(nn.Linear(2, 2).state_dict(), "model.safetensors")
    memory.put("model.safetensors", "/models/bert/model.safetensors")
    other = {name.replace("encoder.", "bert."): value for name, value in Net().state_dict().items()}
    save_file({name: value for name, value in other.items() if "head" not in name}, "bert.safetensors")
    torch.save({"weight": torch.ones(2)}, "last.ckpt")


NEEDS_RUNS = {"command_line", "weights", "retention", "tensor_files"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which a reader works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})  # the runs of other tests stay
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    shutil.copytree(ROOT / "configs", "configs")
    logger = logging.getLogger("resumable")
    level = logger.level
    yield tmp_path
    logger.setLevel(level)


def here(text: str) -> str:
    for there, near in ELSEWHERE.items():
        text = text.replace(there, near)
    return text


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_guide_runs(page: Path, place: Path) -> None:
    if page.stem in NEEDS_RUNS:
        runs()
    known = names()
    if page.stem == "loop":
        parts = {name: known[name].state_dict() for name in ("model", "optimizer", "scheduler")}
        torch.save({**parts, "epoch": 2, "step": 8}, "last.pt")
    if page.stem == "export":
        known["trainer"] = Trainer("runs/mine", model=known["model"])
    for block in blocks(page, "python"):
        exec(compile(here(block), str(page), "exec"), known)
    if "trainer" in known:
        known["trainer"].close()
    if page.stem == "loop":
        taken = Run("runs/taken").latest()
        assert (taken.step, taken.epoch, taken.manifest.finished) == (8 + 2 * 4, 4, True)


def test_the_cell_of_the_notebook_can_be_run_again(place: Path) -> None:
    [cell] = blocks(ROOT / "resumable" / "guides" / "notebook.md", "python")
    known = names()
    exec(cell, known)
    first = known["trainer"]
    assert first.step == 2 * 4
    exec(cell.replace("epochs(2)", "epochs(3)"), known)
    assert known["trainer"].resumed_from
    assert known["trainer"].step == 3 * 4
    with pytest.raises(resumable.LoopError, match="attempt 2"):
        first.stop()
    known["trainer"].close()


def added(diff: str) -> str:
    """The program after a change."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith("-"))


def test_the_loop_of_the_guide_trains(place: Path) -> None:
    [diff] = blocks(ROOT / "resumable" / "guides" / "loop.md", "diff")
    known = names()
    exec(added(diff), known)
    known["trainer"].close()
    assert known["trainer"].step == 20 * 4
    assert resumable.Run("runs/digits").best()


def test_the_line_for_lightning_is_python_and_its_import_works() -> None:
    [diff] = blocks(ROOT / "resumable" / "guides" / "lightning.md", "diff")
    compile(added(diff), "lightning.md", "exec")
    exec(added(diff).splitlines()[0], {})


# -- blocks that are killed and run again -----------------------------------------------------------------------------

PREAMBLE = """
import random

import numpy

from resumable import Trainer
from tests.test_guides import names

random.seed(0)
numpy.random.seed(0)
globals().update(names())
"""


def launched(folder: Path, program: str, kill: str | None = None) -> None:
    """Run a program in a folder, to its end or until it is killed."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(PREAMBLE + program)
    environment = os.environ | {"RESUMABLE_EVERY__STEPS": "10"} | ({"RESUMABLE_KILL": kill} if kill else {})
    ended = subprocess.run([warm_python(), "train.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == (-signal.SIGKILL if kill else 0), ended.stderr


def curve(folder: Path) -> list[tuple[int, float]]:
    """The points that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "board"), size_guidance={"scalars": 0})
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars("loss")]


def test_log_files_and_rates_of_the_guides_are_the_same_after_kills(tmp_path: Path) -> None:
    rates = [block for block in blocks(ROOT / "resumable" / "guides" / "loop.md", "python") if "runs/rates" in block]
    logs = [block for block in blocks(ROOT / "resumable" / "guides" / "log.md", "python") if "Trainer(" in block]
    assert (len(rates), len(logs)) == (1, 3)
    program, undisturbed, killed = "\n".join([*logs, *rates]), tmp_path / "undisturbed", tmp_path / "killed"
    launched(undisturbed, program)
    for kill in ("step:17@csv", "step:17@board", "step:28@rates"):
        launched(killed, program, kill)
    launched(killed, program)
    assert (killed / "runs/csv.csv").read_bytes() == (undisturbed / "runs/csv.csv").read_bytes()
    assert [int(row.split(",")[0]) for row in (killed / "runs/csv.csv").read_text().splitlines()] == [*range(40)]
    assert curve(killed) == curve(undisturbed)
    assert [step for step, _ in curve(killed)] == [*range(40)]
    rate, other = (resumable.Run(str(folder / "runs" / "rates")).latest() for folder in (killed, undisturbed))
    assert compare(rate, other) == []
    assert "0.01" in str(rate.load("optimizer"))


def test_what_is_set_before_the_loop_is_replaced_by_a_resume(place: Path) -> None:
    """The schedule of a longer training included, as the guide of loops says."""

    def trained(epochs: int, lr: float) -> list[float]:
        known, rates = names(), []
        optimizer = torch.optim.SGD(known["model"].parameters(), lr=lr)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
        with Trainer("runs/longer", model=known["model"], optimizer=optimizer, scheduler=cosine) as trainer:
            optimizer.param_groups[0]["lr"] = lr
            for _ in trainer.epochs(epochs):
                for _ in trainer.batches(known["train_loader"]):
                    optimizer.step()
                rates.append(optimizer.param_groups[0]["lr"])
                cosine.step()
        return rates

    assert trained(4, 0.1)[0] == 0.1
    longer = trained(8, 7.0)
    assert len(longer) == 4
    assert longer == sorted(longer)  # it rises again
    assert 0 < longer[1] < longer[3] < 0.1


def test_a_smaller_number_than_was_trained_trains_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    [cell] = blocks(ROOT / "resumable" / "guides" / "notebook.md", "python")
    exec(cell, names())
    caplog.clear()
    with caplog.at_level(logging.INFO, "resumable"):
        exec(cell.replace("epochs(2)", "epochs(1)"), known := names())
    known["trainer"].close()
    assert known["trainer"].step == 2 * 4
    assert "DONE    step=8 epoch=2" in caplog.text


# -- commands ---------------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    text = "".join(blocks(page, "bash"))
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("resumable ")]


def is_run_elsewhere(words: list[str]) -> bool:
    """Whether another test runs such a command: a drill below, programs and their proofs with the exports."""
    return words[1] == "drill" or "serve/onnx" in words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.stem)
def test_the_commands_of_a_page_can_be_parsed(page: Path) -> None:
    from resumable.cli import command_line

    verbs = get_command(command_line()).commands
    for _, verb, *arguments in commands(page):
        verbs[verb].make_context(verb, arguments)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(
    page: Path,
    place: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = [words for words in commands(page) if not is_run_elsewhere(words)]
    if wanted:
        runs()
    monkeypatch.setattr("sys.executable", warm_python())
    for words in wanted:
        ended = cli(*map(here, words[1:]))
        assert ended.code == 0, (words, ended.err)


def stub(place: Path, name: str, script: str) -> None:
    program = place / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o700)


def shell(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    return subprocess.run(["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_job_script_requeues_a_preempted_training_alone(place: Path, code: int) -> None:
    [script] = [block for block in blocks(ROOT / "resumable" / "guides" / "slurm.md", "bash") if "SBATCH" in block]
    stub(place, "python", f"[ $STEP ] && exit {code}")  # SLURM signals the steps that srun starts, and no other program
    stub(place, "srun", 'STEP=1 "$@"')
    stub(place, "scontrol", 'echo "scontrol $*"')
    ended = shell(place, script)
    assert (ended.returncode, ended.stdout) == (code, "scontrol requeue 7\n" if code == 75 else "")


def test_the_loop_of_the_shell_runs_a_preempted_training_again(place: Path) -> None:
    [script] = [block for block in blocks(ROOT / "resumable" / "guides" / "slurm.md", "bash") if "while" in block]
    stub(place, "python", "echo run >>runs; [ $(wc -l <runs) -eq 3 ] || exit 75")
    ended = shell(place, script)
    assert ended.stdout == "preempted, running again\n" * 2
    assert (place / "runs").read_text() == "run\n" * 3


# -- the first minute -------------------------------------------------------------------------------------------------


def test_the_start_of_the_readme_is_drilled_by_the_command_of_the_readme(place: Path, cli: Cli) -> None:
    [program] = blocks(README, "python")
    [command] = [block for block in blocks(README, "bash") if "drill" in block]
    assert command == "resumable drill -- python train.py\n"
    quick = re.sub(r" *time.sleep.*\n", "", program).replace("epochs(10)", "epochs(6)")
    assert quick.count("\n") == program.count("\n") - 1
    (place / "train.py").write_text(quick)
    ended = cli("drill", "--kills", 2, "--seed", 1, "--", warm_python(), "train.py")
    assert ended.code == 0, ended.err
    assert "bit-exact: 16 tensors, " in ended.out
    assert ended.err.count("to be killed") == 2
