"""A module that is run in between leaves nothing behind: not in itself, not in the program, not after an error."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from resumable.errors import StateError
from resumable.state.codec import encode
from resumable.state.objects import global_rng
from resumable.state.objects.side_effects import without_side_effects
from tests.lab.script import digest
from tests.lab.toys import Restless

ROWS = torch.arange(6.0).reshape(3, 2)


class Changing(nn.Module):
    """Does `change` to itself in its forward."""

    seen: Tensor

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("hidden", torch.full((2,), 7.0), persistent=False)
        self.calls = 0
        self.cache: Any = None
        self.drawing = torch.Generator().manual_seed(3)
        self.numbers = numpy.random.default_rng(4)
        self._change = change

    def forward(self, x: Tensor) -> Tensor:
        self._change(self)
        out: Tensor = self.layer(x)
        return out


CHANGES: dict[str, Callable[[Any], object]] = {
    "writes to a buffer": lambda module: module.seen.add_(1),
    "writes to a buffer behind torch's back": lambda module: module.seen.data.numpy().fill(9),
    "turns the sign of a zero": lambda module: module.seen.neg_(),
    "writes NaN over the NaN that is there": lambda module: module.hidden.fill_(float("nan")),
    "puts another buffer in its place": lambda module: setattr(module, "seen", module.seen + 1),
    "exchanges the memory of a buffer": lambda module: setattr(module.hidden, "data", torch.ones(5)),
    "registers a buffer": lambda module: module.register_buffer("late", torch.ones(1)),
    "drops a buffer": lambda module: delattr(module, "seen"),
    "moves a buffer to the end": lambda module: (
        buffer := module.seen,
        delattr(module, "seen"),
        module.register_buffer("seen", buffer),
    ),
    "registers a parameter": lambda module: module.register_parameter("late", nn.Parameter(torch.ones(1))),
    "exchanges a module": lambda module: setattr(module, "layer", nn.Linear(2, 2)),
    "counts in an attribute": lambda module: setattr(module, "calls", module.calls + 1),
    "makes a cache": lambda module: setattr(module, "cache", torch.ones(2)),
    "makes an attribute": lambda module: setattr(module, "fresh", 1),
    "goes into training": lambda module: module.train(),
    "draws from its own generators": lambda module: (
        torch.rand(3, generator=module.drawing),
        module.numbers.standard_normal(3),
    ),
    "draws from torch": lambda module: torch.rand(3),
    "draws from NumPy": lambda module: numpy.random.rand(3),
    "draws from Python": lambda module: random.random(),
    "seeds everything": lambda module: (torch.manual_seed(5), numpy.random.seed(5), random.seed(5)),
}


def everything_of(module: nn.Module) -> list[Any]:
    """All that can be told of a module and of the program's streams, in an order that counts."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [
        [(name, id(tensor), tensor.data_ptr(), digest(tensor)) for name, tensor in tensors.items()],
        [(name, id(part), part.training, [*vars(part)]) for name, part in module.named_modules()],
        [(name, id(value)) for part in module.modules() for name, value in vars(part).items() if name != "training"],
        [*module.state_dict()],
        [
            value.get_state().tolist() if isinstance(value, torch.Generator) else value.bit_generator.state
            for part in module.modules()
            for value in vars(part).values()
            if isinstance(value, torch.Generator | numpy.random.Generator)
        ],
        encode(global_rng.capture_streams(), key_of=None, where="rng").document,
    ]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> nn.Module:
    module = nn.Sequential(Changing(CHANGES[request.param]), nn.BatchNorm1d(2), nn.Dropout())
    module[1].eval()  # a user's own mixture of flags
    module[0].hidden.view(torch.int32)[0] = 0x7FC01234  # a NaN of another payload
    return module


@pytest.mark.parametrize("module", CHANGES, indirect=True)
def test_what_a_forward_does_to_itself_is_undone(module: nn.Module) -> None:
    before = everything_of(module)
    with without_side_effects(module), torch.no_grad():
        module(ROWS)
    assert everything_of(module) == before


@pytest.mark.parametrize("module", CHANGES, indirect=True)
def test_what_a_forward_does_to_itself_is_undone_after_an_error(module: nn.Module) -> None:
    before = everything_of(module)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), without_side_effects(module), torch.no_grad():
        module(torch.ones(3, 5))
    assert everything_of(module) == before


@pytest.mark.parametrize("module", CHANGES, indirect=True)
def test_every_change_is_one_that_would_be_seen(module: nn.Module) -> None:
    """The proof that the two tests above look everywhere."""
    streams = global_rng.capture_streams()
    before = everything_of(module)
    with torch.no_grad():
        module(ROWS)
    after = everything_of(module)
    global_rng.restore_streams(streams)
    assert after != before


def test_a_buffer_that_nobody_changed_is_not_written_to() -> None:
    module = nn.BatchNorm1d(2).eval()
    versions = [buffer._version for buffer in module.buffers()]
    with without_side_effects(module), torch.no_grad():
        module(ROWS)
    assert [buffer._version for buffer in module.buffers()] == versions


def test_tensors_of_inference_mode_are_put_back_too() -> None:
    with torch.inference_mode():
        module = Changing(lambda module: setattr(module.seen, "data", torch.ones(4)))
    with without_side_effects(module), torch.inference_mode():
        module(ROWS)
        module.hidden.zero_()
    assert module.seen.tolist() == [0, 0, 0, 0]
    assert module.hidden.tolist() == [7, 7]


def test_a_buffer_that_is_not_plain_is_put_back_as_the_one_it_was() -> None:
    module = Changing(lambda module: setattr(module, "seen", torch.ones(1)))
    module.seen = sparse = torch.eye(2).to_sparse()
    with without_side_effects(module), torch.no_grad():
        module(ROWS)
    assert module.seen is sparse


def test_weights_that_a_lookup_scales_are_put_back() -> None:
    table = nn.Embedding(4, 2, max_norm=0.1)
    before = table.weight.detach().clone()
    with without_side_effects(table), torch.no_grad():
        table(torch.tensor([1, 2]))
    assert torch.equal(table.weight, before)


def test_a_forward_that_writes_to_other_weights_is_refused_by_name() -> None:
    module = nn.Sequential(Changing(lambda module: module.layer.weight.clamp_(-0.1, 0.1)))
    refused = pytest.raises(StateError, match=r"writes to its own parameters: 0\.layer\.weight")
    with refused as caught, torch.no_grad(), without_side_effects(module):
        module(ROWS)
    assert "if self.training" in str(caught.value.hint)


def test_a_buffer_that_grows_is_cut_back() -> None:
    module = Changing(lambda module: module.seen.resize_(4000).fill_(1))
    with without_side_effects(module), torch.no_grad():
        module(ROWS)
    assert module.seen.tolist() == [0, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # whatever its category
def test_a_scripted_module_is_put_back_too() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    state = {name: digest(value) for name, value in scripted.state_dict().items()}
    with without_side_effects(scripted), torch.no_grad():
        scripted.training = False
        scripted(ROWS)
    assert scripted.training
    assert {name: digest(value) for name, value in scripted.state_dict().items()} == state


def test_every_stream_goes_on_as_if_nothing_had_been_drawn() -> None:
    def drawn() -> list[float]:
        return [torch.rand(()).item(), float(numpy.random.rand()), random.random()]

    streams, module = global_rng.capture_streams(), Restless()
    expected = drawn()
    global_rng.restore_streams(streams)
    with without_side_effects(module):
        module(ROWS)
    assert drawn() == expected
    global_rng.restore_streams(streams)
