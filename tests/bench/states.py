"""What is saved: GPTs with AdamW, built by hand, and one frozen but for its adapters; knows no way of saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes of a GPT, and the tokens of one training step on it."""

    layers: int
    width: int
    vocabulary: int
    context: int
    tokens: int
    rank: int = 0  # of the adapters, where there are any


# GPT-2 124M is what the 1.5 GB are; the others are the same at fewer layers and narrower.
SHAPES: Mapping[str, Shape] = {
    "2MB": Shape(layers=2, width=64, vocabulary=1000, context=64, tokens=16),
    "120MB": Shape(layers=5, width=384, vocabulary=2500, context=256, tokens=128),
    "1.5GB": Shape(layers=12, width=768, vocabulary=50257, context=1024, tokens=64),
}
# Frozen but for 2 % of the state; GPT-2 medium is what the 1.5 GB are.
FROZEN_SHAPES: Mapping[str, Shape] = {
    "2MB": Shape(layers=4, width=96, vocabulary=1000, context=64, tokens=16, rank=2),
    "120MB": Shape(layers=8, width=512, vocabulary=8000, context=512, tokens=64, rank=12),
    "1.5GB": Shape(layers=24, width=1024, vocabulary=50257, context=1024, tokens=32, rank=23),
}


class Block(nn.Module):
    """One layer of GPT-2, with its names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.adapter: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        normed = self.ln_1(x)
        joined = self.c_attn(normed)
        if self.adapter is not None:
            joined = joined + self.adapter(normed)
        query, key, value = (part.view(batch, tokens, -1, 32).transpose(1, 2) for part in joined.split(width, dim=2))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        out: Tensor = x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class GPT(nn.Module):
    """GPT-2 with tied embeddings; `forward` gives the loss of predicting each next token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.h = nn.ModuleList(Block(shape.width) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens[:, :-1]) + self.wpe.weight[: tokens.shape[1] - 1]
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Training:
    """A model with an optimizer that has stepped once, so that all of the state is there, and its next step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    tokens: Tensor

    def backward(self) -> None:
        """The part of a step that only reads the weights."""
        self.model(self.tokens).backward()

    def step(self) -> None:
        """Forward, backward, update; the gradients are gone afterwards, so the boundary behind it is clean."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def touch(self) -> None:
        """Change a few bits of every tensor, as a step would: what did not change need not be written."""
        with torch.no_grad():
            for tensor in self.tensors():
                tensor.view(-1)[0] += 0.001

    def objects(self) -> dict[str, Any]:
        """As they are given to a `Trainer`."""
        return {"model": self.model, "optimizer": self.optimizer}

    def state(self) -> dict[str, Any]:
        """As the peers want it."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[Tensor]:
        """Every tensor of the state."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.state_dict().values(), *(each for each in moments if isinstance(each, Tensor))]

    def nbytes(self) -> int:
        """The bytes of all tensors of the state."""
        return sum(tensor.nbytes for tensor in self.tensors())


def training(size: str) -> Training:
    """A GPT that trains whole, with AdamW: two thirds of its state are moments."""
    torch.manual_seed(1)
    return _started(GPT(SHAPES[size]), SHAPES[size])


def adapting(size: str) -> Training:
    """A frozen GPT with low-rank adapters: about 98 % of its state cannot change."""
    torch.manual_seed(1)
    shape = FROZEN_SHAPES[size]
    return _started(_adapted(shape), shape)


def flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Only the tensors, with dotted names: what safetensors can hold."""
    found: dict[str, Tensor] = {}
    _walk(state, "", found.__setitem__)
    return found


def _adapted(shape: Shape) -> GPT:
    model = GPT(shape).requires_grad_(False)
    for block in model.h:
        down = nn.Linear(shape.width, shape.rank, bias=False)
        up = nn.Linear(shape.rank, 3 * shape.width, bias=False)
        block.adapter = nn.Sequential(down, up)
    return model


def _started(model: GPT, shape: Shape) -> Training:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    started = Training(model, optimizer, torch.randint(shape.vocabulary, (1, shape.tokens + 1)))
    started.step()
    return started


def _walk(tree: Any, path: str, found: Callable[[str, Tensor], None]) -> None:
    if isinstance(tree, Tensor):
        found(path, tree)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            _walk(value, f"{path}.{key}" if path else str(key), found)
