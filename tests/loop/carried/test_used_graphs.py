"""A tensor is used up once backward has freed its graph, and looking at it computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resumable.loop.carried.used_graphs import is_used_up


class Doubled(torch.autograd.Function):
    """A function of the user's that keeps its input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        return gradients[0] * 2 + 0 * value


def _lstm() -> tuple[Tensor, Tensor]:
    out, (hidden, _) = nn.LSTM(3, 4)(torch.ones(2, 1, 3))
    return hidden, out.sum()


def _gru() -> tuple[Tensor, Tensor]:
    out, hidden = nn.GRU(3, 4, num_layers=2)(torch.ones(2, 1, 3))
    return hidden, out.sum()


def _cell() -> tuple[Tensor, Tensor]:
    hidden, _ = nn.LSTMCell(3, 4)(torch.ones(1, 3))
    return hidden[:, :2], hidden.sum()


def _function() -> tuple[Tensor, Tensor]:
    hidden = Doubled.apply(torch.ones(2, requires_grad=True))
    return hidden, hidden.sum()


@pytest.mark.parametrize("made", [_lstm, _gru, _cell, _function])
def test_a_graph_is_used_up_by_backward_and_not_before(made: Callable[[], tuple[Tensor, Tensor]]) -> None:
    tensor, loss = made()
    assert not is_used_up(tensor)
    loss.backward(retain_graph=True)
    assert not is_used_up(tensor)
    loss.backward()
    assert is_used_up(tensor)
    with pytest.raises(RuntimeError, match="second time"):
        tensor.sum().backward()


def test_looking_at_a_checkpointed_graph_computes_nothing_again() -> None:
    calls = []

    def part(value: Tensor) -> Tensor:
        calls.append(1)
        return torch.tanh(value)

    tensor = checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=False)
    assert not is_used_up(tensor)
    assert len(calls) == 1


def test_a_tensor_without_a_graph_is_not_used_up() -> None:
    assert not is_used_up(torch.ones(2))
    assert not is_used_up(torch.ones(2, requires_grad=True) + 1)
