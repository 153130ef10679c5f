"""Which boundaries are clean, and the gradients that come back after one that was not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from resumable.errors import RunMismatchError
from resumable.state.objects.choose_adapter import adapt
from resumable.state.objects.gradients import Gradients
from tests.state.roundtrip import save_tree


class Bench:
    """Two modules with an optimizer each."""

    def __init__(self) -> None:
        self.d, self.g = nn.Linear(2, 1), nn.Linear(2, 2)
        self.d_optimizer = torch.optim.AdamW(self.d.parameters())
        self.g_optimizer = torch.optim.SGD(self.g.parameters(), lr=0.1)
        self.gradients = Gradients(
            adapt({"d": self.d, "g": self.g, "d_opt": self.d_optimizer, "g_opt": self.g_optimizer})
        )

    def backward(self, *modules: nn.Module) -> None:
        for module in modules:
            module(torch.ones(1, 2)).sum().backward()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.gradients.close()


def test_a_boundary_without_gradients_is_clean(bench: Bench) -> None:
    assert bench.gradients.clean()
    assert not bench.gradients.ever_stepped


def test_a_boundary_is_clean_when_every_gradient_was_used(bench: Bench) -> None:
    bench.backward(bench.d, bench.g)
    bench.d_optimizer.step()
    assert not bench.gradients.clean()  # g accumulates
    bench.g_optimizer.step()
    assert bench.gradients.clean()
    bench.backward(bench.d)
    bench.d_optimizer.step()
    assert bench.gradients.clean()  # g still holds what it stepped with


@pytest.mark.parametrize("to_none", [True, False])
def test_a_gradient_made_after_the_step_waits_to_be_used(bench: Bench, to_none: bool) -> None:
    bench.backward(bench.d)
    bench.d_optimizer.step()
    bench.d_optimizer.zero_grad(set_to_none=to_none)
    assert bench.gradients.clean()
    bench.backward(bench.d)
    assert not bench.gradients.clean()
    assert set(bench.gradients.capture()["grads"]) == {"d.weight", "d.bias"}


def test_a_gradient_added_to_a_used_one_waits_to_be_used(bench: Bench) -> None:
    bench.backward(bench.d)
    bench.d_optimizer.step()
    bench.backward(bench.d)
    assert not bench.gradients.clean()


def test_only_what_waits_is_stored_unless_everything_is_asked_for(bench: Bench) -> None:
    bench.backward(bench.d, bench.g)
    bench.d_optimizer.step()
    auto, everything = bench.gradients.capture(), bench.gradients.capture(everything=True)
    assert set(auto["grads"]) == {"g.weight", "g.bias"}
    assert set(everything["grads"]) == set(auto["present"]) == {"d.weight", "d.bias", "g.weight", "g.bias"}


def test_what_came_back_as_zeros_is_clean(bench: Bench) -> None:
    bench.backward(bench.d)
    bench.d_optimizer.step()
    bench.gradients.restore(save_tree(bench.gradients.capture()).tree())
    assert bench.d.weight.grad is not None
    assert bench.gradients.clean()


def test_a_gradient_of_a_parameter_without_an_optimizer_is_never_clean(bench: Bench) -> None:
    extra = Gradients(adapt({"extra": nn.Linear(2, 1), "opt": bench.d_optimizer}))
    bench.backward(bench.d)
    bench.d_optimizer.step()
    assert extra.clean()
    extra._modules[0].target.weight.grad = torch.ones(1, 2)
    assert not extra.clean()
    extra.close()


def test_close_removes_the_hooks(bench: Bench) -> None:
    bench.gradients.close()
    bench.d_optimizer.step()
    assert not bench.gradients.ever_stepped


def test_an_optimizer_around_another_is_seen_to_step() -> None:
    class Around:
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.optimizer = inner

        def state_dict(self) -> dict[str, Any]:
            return self.optimizer.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.optimizer.load_state_dict(state)

    net = nn.Linear(2, 1)
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    gradients = Gradients(adapt({"model": net, "optimizer": Around(inner)}))
    net(torch.ones(1, 2)).sum().backward()
    inner.step()
    assert gradients.ever_stepped
    assert gradients.clean()
    gradients.close()


def test_gradients_come_back_with_their_bits_and_layout() -> None:
    whole, resumed = Bench(), Bench()
    whole.backward(whole.g)
    whole.g.weight.grad = torch.rand(2, 2).t()
    tree = save_tree(whole.gradients.capture()).tree()
    resumed.backward(resumed.d)
    resumed.gradients.restore(tree)
    assert resumed.d.weight.grad is None
    assert torch.equal(resumed.g.weight.grad, whole.g.weight.grad)
    assert resumed.g.weight.grad.stride() == (1, 2)


def test_a_used_gradient_comes_back_as_zeros() -> None:
    whole, resumed = Bench(), Bench()
    whole.backward(whole.g)
    whole.g_optimizer.step()
    saved = save_tree(whole.gradients.capture())
    assert not saved.records
    resumed.gradients.restore(saved.tree())
    assert resumed.g.weight.grad.tolist() == [[0, 0], [0, 0]]
    assert resumed.d.weight.grad is None


@pytest.mark.parametrize("used", [False, True])
def test_sparse_gradients_come_back_sparse(used: bool) -> None:
    whole, resumed = nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(whole.parameters())
    gradients = Gradients(adapt({"model": whole, "optimizer": optimizer}))
    whole(torch.tensor([1, 1, 3])).sum().backward()
    if used:
        optimizer.step()
    Gradients(adapt({"model": resumed})).restore(save_tree(gradients.capture()).tree())
    grad, expected = resumed.weight.grad, whole.weight.grad
    assert grad is not None
    assert expected is not None
    assert grad.is_sparse
    assert grad._nnz() == (0 if used else expected._nnz())
    assert torch.equal(grad.to_dense(), expected.to_dense() * (not used))
    gradients.close()


def test_gradients_of_parameters_that_are_not_here_are_named(bench: Bench) -> None:
    with pytest.raises(RunMismatchError, match=r"no such parameters here: old\.weight"):
        bench.gradients.restore({"present": ["old.weight"], "grads": {}})


def test_parameters_known_only_to_an_optimizer_count_too() -> None:
    parameter = nn.Parameter(torch.ones(2))
    gradients = Gradients(adapt({"optimizer": torch.optim.SGD([parameter], lr=0.1)}))
    parameter.grad = torch.ones(2)
    assert not gradients.clean()
    assert gradients.capture()["present"] == ["optimizer.group0.0"]
    gradients.close()
