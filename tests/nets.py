"""Models with habits that weights meet (a head, ties, averages), and where they are put; knows no test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resumable import Trainer


def body(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


class Net(nn.Module):
    """A body and a head."""

    def __init__(self, seed: int = 0, classes: int = 2) -> None:
        super().__init__()
        self.body = body(seed)
        self.head = nn.Linear(4, classes)


class Tied(nn.Module):
    """A head that is the embedding."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def apart(seed: int = 0) -> Tied:
    net = Tied(seed)
    net.head.weight = nn.Parameter(torch.rand(5, 4))
    return net


class Average:
    """An EMA of somebody's own: of parameters only, beside plain values."""

    def __init__(self, model: nn.Module, decay: float = 0.5, spare: bool = False) -> None:
        self.decay = decay
        self.shadow = {name: torch.rand_like(value) for name, value in model.named_parameters()}
        self.backup = {name: value.clone() for name, value in self.shadow.items()} if spare else {}

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "shadow": self.shadow, "backup": self.backup}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decay, self.shadow, self.backup = state["decay"], state["shadow"], state["backup"]


def run(path: Path, **objects: Any) -> str:
    """A run of one step that trains nothing, with these objects."""
    with Trainer({"run": str(path), "progress": "never"}, **objects) as trainer:
        for _ in trainer.steps(1):
            pass
    return str(path)


def file(path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, path)
    return path


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(model: nn.Module, state: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert [name for name, value in state.items() if not torch.equal(found[name], value)] == []
