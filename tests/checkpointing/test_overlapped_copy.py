"""Saves that are staged while training goes on: exact, or made again, or written down here as outside of the contract.

The copies wait until the training has written to the weights, or stands at the gate before it would, so that a copy
that is not waited for is torn each time and not by chance.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resumable import Run, Trainer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.state.staging.copies import Copies
from resumable.state.staging.host_memory import HostTransfer
from resumable.state.staging.stager import Stager
from resumable.state.tensors.facts import tensor_digest
from tests.lab.client import Bench, killed, shared_lab

HEAD_START_SECONDS = 0.05  # of a training that nothing holds back, before the copy begins


class Held(HostTransfer):
    """Copies only once `go` is set, and then gives whoever does not wait the time to spoil them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.holds = 0

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
        assert self.go.wait(60)
        time.sleep(HEAD_START_SECONDS)
        super().copy(batches, threads=threads)

    def hold(self) -> None:
        self.holds += 1


class Device(Held):
    """A device as a program sees it: copies are asked for in an instant, and made when the device comes to them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Copies] = []
        self.made = threading.Event()

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
        self.asked = list(batches)

    def hold(self) -> None:
        # The device makes the copies before anything that training asks it for from here on.
        super().hold()
        HostTransfer.copy(self, self.asked, threads=1)
        self.made.set()

    def finish(self) -> None:
        assert self.made.wait(60)


class Program:
    """A small training whose saves are late, and what its checkpoints hold."""

    def __init__(self, run: Path, transfer: Held, *, mode: str = "overlap", optimizer: Any = None) -> None:
        torch.manual_seed(1)
        self.transfer = transfer
        self.model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 2))
        make = optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=0.1))
        self.optimizer = make(self.model.parameters())
        # Before the gate's own hook: so the copies may begin once an optimizer is about to step.
        self.hook = register_optimizer_step_pre_hook(lambda *_: transfer.go.set())
        config = {"run": str(run), "staging": {"mode": mode}, "max_failed_saves": 1}
        objects = {"model": self.model, "optimizer": self.optimizer}
        self.checkpointer = Checkpointer(Config.load(config), objects, stager=Stager(transfer))
        self.run = Run(str(run))

    def forward(self) -> Tensor:
        return self.model(torch.randn(8, 40)).square().mean()

    def step(self) -> None:
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def live(self) -> dict[str, str]:
        states = self.optimizer.state_dict()["state"].items()
        state = {f"optimizer.{number}.{key}": value for number, each in states for key, value in each.items()}
        tensors = {**self.model.state_dict(), **state}
        return {key: tensor_digest(value) for key, value in tensors.items()}

    def save(self, step: int, *, held: bool = True) -> dict[str, str]:
        """Begin a save, whose copies are held back or not, and tell the state that it must hold."""
        expected = self.live()
        if held:
            self.transfer.go.clear()
        else:
            self.transfer.go.set()
        self.checkpointer.save(Position(step=step), reason="steps", late=True)
        return expected

    def finish(self) -> None:
        self.transfer.go.set()
        self.checkpointer.drain()

    def stored(self) -> tuple[int, dict[str, str]]:
        checkpoint = self.run.latest()
        model = {key: record.digest for key, record in checkpoint.records["model"].items()}
        names = [name for name, _ in self.model.named_parameters()]
        records = checkpoint.records["optimizer"] | checkpoint.inline_records("optimizer").records
        state = {
            f"optimizer.{names.index(name.removeprefix('model.'))}.{key}": record.digest
            for name, key, record in ((*path.rpartition(".")[::2], record) for path, record in records.items())
        }
        checkpoint.verify()
        return checkpoint.step, model | state


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    made: list[Program] = []

    def make(transfer: Held | None = None, **options: Any) -> Program:
        made.append(Program(tmp_path / f"run{len(made)}", transfer or Held(), **options))
        made[-1].step()
        made[-1].save(1, held=False)
        made[-1].checkpointer.drain()
        return made[-1]

    yield make
    for each in made:
        each.transfer.go.set()
        each.hook.remove()
        each.checkpointer.close()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "foreach adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_waits_for_the_copy_and_the_checkpoint_is_that_of_the_boundary(
    program: Callable[..., Program], kind: str
) -> None:
    training = program(optimizer=OPTIMIZERS[kind])
    held_before = training.transfer.holds
    expected = training.save(2)
    training.step()  # forward and backward beside the copy, the step behind it
    assert training.live() != expected
    assert training.transfer.holds == held_before + 1
    training.finish()
    assert training.stored() == (2, expected)
    assert training.checkpointer.status.retake is None


def test_an_optimizer_that_was_not_registered_waits_too(program: Callable[..., Program]) -> None:
    training = program()
    other = torch.optim.SGD(training.model.parameters(), lr=0.5)
    expected = training.save(2)
    training.forward().backward()
    other.step()
    training.finish()
    assert training.stored() == (2, expected)


def test_a_second_optimizer_waits_too(program: Callable[..., Program]) -> None:
    training = program(optimizer=lambda parameters: torch.optim.SGD(list(parameters)[:2], lr=0.1))
    second = torch.optim.Adam(list(training.model.parameters())[2:], lr=0.1)
    expected = training.save(2)
    training.forward().backward()
    second.step()
    training.optimizer.step()
    training.finish()
    assert training.stored() == (2, expected)


def test_what_forward_writes_is_copied_at_the_boundary(program: Callable[..., Program]) -> None:
    training = program()
    expected = training.save(2)
    before = training.model[1].running_mean.clone()
    for _ in range(3):
        training.forward()
    assert not torch.equal(before, training.model[1].running_mean)
    training.finish()
    assert training.stored() == (2, expected)


def no_grad_write(training: Program) -> None:
    with torch.no_grad():
        training.model[0].weight.mul_(2)


def foreach_write(training: Program) -> None:
    weights = [parameter.detach() for parameter in training.model.parameters()]
    torch._foreach_lerp_(weights, [torch.ones_like(weight) for weight in weights], 0.5)


def own_optimizer(training: Program) -> None:
    """An update by hand, as of an optimizer that is none of torch's."""
    training.forward().backward()
    with torch.no_grad():
        for parameter in training.model.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad


def moments(training: Program) -> None:
    next(iter(training.optimizer.state.values()))["exp_avg"].zero_()


def other_weights(training: Program) -> None:
    training.model.load_state_dict({key: torch.zeros_like(value) for key, value in training.model.state_dict().items()})


@pytest.mark.parametrize("write", [no_grad_write, foreach_write, own_optimizer, moments, other_weights])
def test_a_write_behind_the_copys_back_is_noticed_and_the_save_made_again(
    program: Callable[..., Program], write: Callable[[Program], None], caplog: pytest.LogCaptureFixture
) -> None:
    training = program()
    training.save(2)
    write(training)
    training.finish()
    assert training.checkpointer.status.saved is None
    assert training.checkpointer.status.retake == "steps"
    assert "written while they were copied" in caplog.text
    assert training.stored()[0] == 1, "the torn one was never published"
    again = training.save(3, held=False)  # at the next boundary; staged at once, whatever is asked for
    write(training)
    training.finish()
    assert training.stored() == (3, again)
    assert training.checkpointer.status.retake is None


def test_a_write_counts_until_the_training_itself_has_judged_the_copy(program: Callable[..., Program]) -> None:
    # A kernel that is at work when the copy ends is counted by torch only when it is done.
    training = program()
    training.save(2)
    training.transfer.go.set()
    assert training.checkpointer._saving.pipeline._gate is not None
    assert training.checkpointer._saving.pipeline._gate._late is not None
    assert training.checkpointer._saving.pipeline._gate._late.copied.wait(60)
    no_grad_write(training)
    training.finish()
    assert training.checkpointer.status.retake == "steps"
    assert training.stored()[0] == 1


def test_a_copy_that_a_boundary_found_whole_is_not_spoilt_by_what_comes_after(program: Callable[..., Program]) -> None:
    training = program()
    expected = training.save(2)
    training.transfer.go.set()
    assert training.checkpointer._saving.pipeline._gate is not None
    assert training.checkpointer._saving.pipeline._gate._late is not None
    assert training.checkpointer._saving.pipeline._gate._late.copied.wait(60)
    training.checkpointer.notice_failure()  # as every boundary does
    no_grad_write(training)
    training.finish()
    assert training.stored() == (2, expected)


def data_write(training: Program) -> None:
    training.model[0].weight.data.mul_(2)


def numpy_write(training: Program) -> None:
    training.model[0].weight.detach().numpy()[:] = 3.0


@pytest.mark.parametrize("write", [data_write, numpy_write])
def test_what_no_version_tells_of_is_outside_of_overlaps_contract_and_exact_by_default(
    program: Callable[..., Program], write: Callable[[Program], None]
) -> None:
    late = program()
    expected = late.save(2)
    write(late)
    late.finish()
    assert late.stored() != (2, expected), "now it is noticed: say so where the contract is written"
    eager = program(mode=Config(run="x").staging.mode)
    expected = eager.save(2, held=False)
    write(eager)
    eager.finish()
    assert eager.stored() == (2, expected)


def test_a_loop_that_is_torn_again_and_again_is_staged_at_once_from_then_on(program: Callable[..., Program]) -> None:
    training = program()
    for step in (2, 4, 6):
        training.save(step)
        no_grad_write(training)
        training.finish()
        assert training.checkpointer.status.retake
        training.save(step + 1, held=False)
        training.finish()
    expected = training.save(8, held=False)
    no_grad_write(training)
    training.finish()
    assert training.stored() == (8, expected)


def test_copies_that_a_device_makes_later_are_made_before_a_step_and_waited_for_by_the_writer(
    program: Callable[..., Program],
) -> None:
    training = program(Device())
    expected = training.save(2)
    training.step()
    assert training.transfer.holds == 1
    training.finish()
    assert training.stored() == (2, expected)


def test_the_last_checkpoint_is_never_staged_late(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"run": str(tmp_path), "every": {"steps": 1}, "staging": {"mode": "overlap"}, "keep": {"last": 9}}
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.steps(5):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    checkpoints = Run(str(tmp_path)).checkpoints()
    assert next(each.step for each in checkpoints) == 0
    assert checkpoints[-1].step == 5
    assert checkpoints[-1].manifest.finished
    assert {key: tensor_digest(value) for key, value in checkpoints[-1].load("model").items()} == {
        key: tensor_digest(value) for key, value in model.state_dict().items()
    }


SCENARIOS = {"workers": 20, "batch_norm": 20, "gan_zeroing_after_step": 30, "ema": 20, "step_at_head": 30}
EVERY_OTHER = ["two_cadences", "old_style_scheduler", "bf16_autocast", "everything_registered", "stale_gradients"]


def crash(folder: Path, scenario: str, staging: dict[str, Any]) -> None:
    """Kills while a copy may be under way and while its save is written; the end has the bits of none."""
    bench = Bench(shared_lab(), folder, scenario, config={"staging": staging})
    kills = ["step:5+0.0010", "save.blob:8", "save.manifest:12", "fetch:14"]
    bench.crash_and_rerun([killed(kill) for kill in kills])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kills_change_no_bit_where_saves_are_staged_late(folder: Path, scenario: str) -> None:
    crash(folder, scenario, {"mode": "overlap"})


@pytest.mark.matrix
@pytest.mark.parametrize("scenario", EVERY_OTHER)
def test_kills_change_no_bit_in_every_loop_whose_saves_are_staged_late(folder: Path, scenario: str) -> None:
    crash(folder, scenario, {"mode": "overlap"})
