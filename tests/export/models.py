"""Models as they are trained, each built by one function and called with one batch; knows no export and no test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resumable import Trainer

STEPS = 3
CLOSE = 1e-4  # as the default tolerance; outputs are of about one


def mlp() -> nn.Module:
    """Pictures of 28 by 28 into ten classes."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.25), nn.Linear(256, 10))


def impostor() -> nn.Module:
    """The weights of `mlp`, and another activation."""
    return nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Dropout(0.25), nn.Linear(256, 10))


def bf16_mlp() -> nn.Module:
    """`mlp` in bfloat16."""
    return mlp().to(torch.bfloat16)


def small() -> nn.Module:
    """The smallest that has a layer to be mistaken about: for tests that are not about the model."""
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def cnn() -> nn.Module:
    """Convolutions with batch statistics, among them 0-d counters."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def channels_last_cnn() -> nn.Module:
    """`cnn` with its weights laid out for pictures whose channels come last."""
    return cnn().to(memory_format=torch.channels_last)


class Language(nn.Module):
    """A transformer by hand, whose head is its embedding."""

    def __init__(self, *, words: int = 64, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.keys = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words) + self.places[: words.shape[1]]
        query, key, value = self.keys(self.first(x)).chunk(3, dim=-1)
        x = x + self.out(self.attended(*map(self.heads, (query, key, value))))
        result: Tensor = self.head(x + self.wide(self.second(x)))
        return result

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, -1)).transpose(1, 2)

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(1, 2).flatten(2)


def language() -> nn.Module:
    """A small language model with a tied head."""
    return Language()


def untied_language() -> nn.Module:
    """`language` whose head has weights of its own."""
    model = Language()
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    return model


class Encoder(nn.Module):
    """torch's own encoder, which takes a fast path where nothing is trained, and a class."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(x).mean(1))
        return result


def encoder() -> nn.Module:
    """A classifier on `nn.TransformerEncoder`."""
    return Encoder()


class Several(nn.Module):
    """Inputs by name; outputs in a dict with a tuple in it, and nothing where there could be a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        a, b = self.left(left), self.right(right)
        return {"sum": a + b, "parts": (a, b.argmax(-1)), "loss": None}


def several() -> nn.Module:
    """Keyword inputs, and outputs in containers."""
    return Several()


class Whitened(nn.Module):
    """Batches minus a mean that training moves, and that no `state_dict` has."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4), persistent=False)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        result: Tensor = self.layer(x - self.mean)
        return result


def whitened() -> nn.Module:
    """A non-persistent buffer that training changes."""
    return Whitened()


class Scaled(nn.Module):
    """Buffers and parameters of no dimension, one of them of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.shift: Tensor
        self.seen: Tensor
        self.register_buffer("shift", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        result: Tensor = self.layer(x) * self.scale + self.shift.float()
        return result


def scaled() -> nn.Module:
    """0-d tensors."""
    return Scaled()


@dataclass(frozen=True)
class Case:
    """A model: how it is built, and the batch that it is called with."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Any]

    @property
    def factory(self) -> str:
        """As `--model` names it."""
        return f"tests.export.models:{self.build.__name__}"


def _normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def words() -> Tensor:
    """Sentences of eight words."""
    return torch.randint(0, 64, (4, 8), generator=torch.Generator().manual_seed(5))


CASES: Mapping[str, Case] = {
    "MLP": Case(mlp, _normal(4, 784)),
    "MLP in bfloat16": Case(bf16_mlp, lambda: _normal(4, 784)().bfloat16()),
    "CNN with BatchNorm": Case(cnn, _normal(4, 3, 12, 12)),
    "CNN in channels_last": Case(channels_last_cnn, _normal(4, 3, 12, 12)),
    "transformer, tied head": Case(language, words),
    "nn.TransformerEncoder": Case(encoder, _normal(4, 8, 32)),
    "dict and tuple outputs": Case(several, lambda: {"left": _normal(4, 4)(), "right": _normal(4, 6)()}),
    "non-persistent buffer": Case(whitened, _normal(4, 4)),
    "0-d tensors": Case(scaled, _normal(4, 4)),
}


SMALL = Case(small, _normal(4, 4))


class Restless(nn.Module):
    """Drops also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(nn.functional.dropout(x, training=True))
        return result


def restless() -> nn.Module:
    """A model that never gives the same twice."""
    return Restless()


RESTLESS = Case(restless, _normal(4, 4))


def called(model: nn.Module, batch: Any) -> Any:
    """What the model gives for a batch: a tensor by position, a dict of them by name."""
    return model(**batch) if isinstance(batch, dict) else model(batch)


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    """All tensors that the model gives, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(called(model, batch)) if leaf is not None]


def trained(run: Path, case: Case, *, golden: Any = None) -> nn.Module:
    """Train the model of a case for a few steps into `run`; the live model as it was at the end, in eval mode.

    With `golden` it is given to `trainer.golden` before the loop.
    """
    torch.manual_seed(1)
    model, batch = case.build(), case.batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with Trainer(
        {"run": str(run), "every": {"steps": 1, "minutes": None}}, model=model, optimizer=optimizer
    ) as trainer:
        if golden is not None:
            trainer.golden(golden)
        for _ in trainer.steps(STEPS):
            loss = sum(each.float().square().mean() for each in outputs(model, batch) if each.is_floating_point())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trainer.log(loss=float(loss.detach()))
    return model.eval()


def of_size(batch: Any, size: int) -> Any:
    """Make another batch of the same kind."""
    if isinstance(batch, dict):
        return {name: of_size(value, size) for name, value in batch.items()}
    return batch[torch.arange(size) % len(batch)].flip(0)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Assert that two lists of outputs are of the same kinds and equal but for rounding."""
    assert [(each.dtype, each.shape) for each in found] == [(each.dtype, each.shape) for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other.double()).abs().max()) <= CLOSE


# -- functions that are no good ---------------------------------------------------------------------------------------


def raises() -> nn.Module:
    raise RuntimeError("no weights today")


def no_module() -> Any:
    return {"weights": torch.zeros(1)}


def narrow() -> nn.Module:
    """`small` with another width."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def double() -> nn.Module:
    """`small` in another dtype."""
    return small().double()


def talks() -> nn.Module:
    """`small`, with a word about itself on stdout."""
    print("building the model")
    return small()


def dies() -> nn.Module:
    """Killed in the middle of an export, as by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)
    return small()


class Hasty(nn.Module):
    """Does not survive being called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("never called")


NOT_CALLABLE = 5
BUILT = small()


def compiled() -> Any:
    """`small`, as it is compiled for training."""
    return torch.compile(small(), backend="eager")


def parallel() -> nn.Module:
    """`small`, as it is spread over devices."""
    return nn.DataParallel(small())


def fails_in_torch() -> nn.Module:
    return nn.Linear("four", 2)  # type: ignore[arg-type]


def leaves() -> nn.Module:
    """A script's main function, named by mistake."""
    raise SystemExit(0)


def dies_in_the_check() -> nn.Module:
    """`small`, but for the fresh process that proves it, which is killed."""
    return dies() if "resumable.export.exporter" not in sys.modules else small()
