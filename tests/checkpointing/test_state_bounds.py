"""A state that will exceed a bound is refused before it trains, and one that grows toward a bound is warned of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable import Trainer
from resumable.checkpointing.capture.state_bounds import refuse_too_many, tensors_to_come
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.errors import StateError
from resumable.state.codec.document_writer import MAX_NODES
from resumable.store.documents.strict_record import MAX_TENSORS

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam")),
    *((name, {}) for name in ("RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam")),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("SGD", {"momentum": 0.9}),
]


def held(optimizer: torch.optim.Optimizer) -> int:
    """How many tensors go to files."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(isinstance(value, torch.Tensor) and value.nbytes > 64 for value in values)


def gradient(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    dense = torch.ones_like(parameter)
    return dense.to_sparse() if type(optimizer).__name__ == "SparseAdam" else dense


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_the_tensors_of_each_optimizer_of_torch_are_those_of_its_first_step(name: str, options: dict[str, Any]) -> None:
    make = getattr(torch.optim, name, None)
    if make is None:
        pytest.skip(f"this torch has no {name}")
    shapes = [(17, 18), (18, 18)] if name == "Muon" else [(17,), (17, 18)]
    parameters = [nn.Parameter(torch.rand(shape)) for shape in shapes]
    parameters.append(nn.Parameter(torch.rand(5, 5), requires_grad=False))
    optimizer = make(parameters, lr=0.1, **options)
    expected = held(optimizer) + tensors_to_come(optimizer)
    for parameter in parameters[:-1]:
        parameter.grad = gradient(parameter, optimizer)
    optimizer.step()
    assert held(optimizer) == expected
    parameters[1].grad = None
    assert tensors_to_come(optimizer) == (tensors_to_come(make(parameters[2:], lr=0.1, **options)))


def test_the_optimizer_of_a_subclass_is_not_foretold() -> None:
    class Other(torch.optim.AdamW):
        pass

    assert tensors_to_come(Other([nn.Parameter(torch.rand(2))])) == 0
    assert tensors_to_come(type("AdamW", (Other,), {})([nn.Parameter(torch.rand(2))])) == 0
    assert tensors_to_come(object()) == 0


COUNT = MAX_TENSORS // 4 + 1


def trained(run: Path, optimizer: torch.optim.Optimizer) -> Iterator[int]:
    """Train the parameters of this optimizer without a gradient, and yield the number of each step."""
    model = nn.ParameterList(parameter for group in optimizer.param_groups for parameter in group["params"])
    with Trainer(str(run), model=model, optimizer=optimizer) as trainer:
        for step in trainer.steps(10):
            optimizer.step()
            yield step


def test_what_will_be_too_large_is_refused_at_step_0(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(17)) for _ in range(COUNT)], amsgrad=True)
    training = trained(tmp_path / "run", optimizer)
    with pytest.raises(StateError, match=f"at most {MAX_TENSORS} tensors, found {4 * COUNT} once the optimizers"):
        next(training)


class Slow(torch.optim.Optimizer):
    """An optimizer of another library, whose state exists after its first step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {name: torch.zeros(17) for name in "abc"}


@pytest.mark.matrix
def test_an_optimizer_of_another_library_is_counted_after_its_first_step(tmp_path: Path) -> None:
    training = trained(tmp_path / "run", Slow([nn.Parameter(torch.zeros(1)) for _ in range(COUNT)]))
    assert next(training) == 0
    with pytest.raises(StateError, match=f"found {4 * COUNT}\n"):
        next(training)


def test_the_bound_itself_is_allowed() -> None:
    refuse_too_many({}, [torch.optim.AdamW([nn.Parameter(torch.zeros(17))])], most=2)
    with pytest.raises(StateError, match="found 2"):
        refuse_too_many({}, [torch.optim.AdamW([nn.Parameter(torch.zeros(17))])], most=1)


def test_small_tensors_do_not_count() -> None:
    assert tensors_to_come(torch.optim.AdamW([nn.Parameter(torch.zeros(16))])) == 0
    fused = torch.optim.AdamW([nn.Parameter(torch.zeros(17, device="meta"))], capturable=True)
    assert tensors_to_come(fused) == 3


def test_values_that_reach_half_of_a_bound_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resumable")
    loop: dict[str, Any] = {"seen": [""] * (MAX_NODES // 2 - 10)}
    checkpointer = Checkpointer(Config.load({"run": str(tmp_path / "run")}), {"loop": loop})
    for step in range(1, 5):
        checkpointer.save(Position(step=step), reason="steps")
        warned = [record.getMessage() for record in caplog.records if "plain values take" in record.getMessage()]
        assert len(warned) == (step > 1)
        loop["seen"].extend([""] * 100)
    checkpointer.close()
    assert "loop: its plain values take 50% of what one object may hold" in warned[0]
