"""The launch that wrote the golden run, with every kind of object and value; never changed, or they fit it no more."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer

EPOCHS = 2


class Crash(Exception):
    """Thrown out of the loop's body where a real program would die."""


class Net(nn.Module):
    """Tied weights, a convolution in channels_last, batch statistics, buffers of both kinds, and an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(2)
        self.into = nn.Linear(2, 2)
        self.out = nn.Linear(2, 2, bias=False)
        self.out.weight = self.into.weight
        self.into.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor([1.5, -0.0, float("nan")], dtype=torch.bfloat16))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.calls += 1
        seen = self.picture(x.reshape(-1, 1, 1, 2).expand(-1, 3, 2, 2).contiguous(memory_format=torch.channels_last))
        result: Tensor = self.out(self.into(self.norm(seen.flatten(1))))
        return result

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Tally:
    """The smallest object with a state of its own."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen), "count": len(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def every_value() -> dict[Any, Any]:
    """A value for each tag of the codec, and a tensor of each uncommon sort."""
    shared = torch.tensor([1.0, 2.0])
    return {
        "plain": [None, True, False, 0, -(2**63), 2**64 - 1, 0.1, -0.0, 5e-324, "text ü \U0001f600 \x1b"],
        "int": 2**200,
        "float": [float("nan"), float("inf"), float("-inf")],
        "complex": complex(1.5, float("-inf")),
        "bytes": b"\x00\xff",
        "octets": bytes(range(256)) * 4,
        "string": "lone \ud800 surrogate",
        "tuple": (1, (2,), ()),
        "dict": {1: "a", None: "b", (1, 2): "c", 2.5: "d", b"k": "e", False: "f"},
        "dollar": {"$tuple": "a key and no tag"},
        "ordered": OrderedDict([("z", 1), ("a", 2)]),
        "counter": Counter("abca"),
        "set": {1, "a", (2, 3)},
        "frozenset": frozenset({1.5, b"x"}),
        "tensor": shared,
        "the same tensor": shared,
        "leaf": torch.tensor([3.0], requires_grad=True),
        "parameter": nn.Parameter(torch.tensor([[4.0]])),
        "frozen_parameter": nn.Parameter(torch.tensor([5.0]), requires_grad=False),
        "array": np.arange(300, dtype=np.int32).reshape(3, 100),
        "ndarray": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
        "texts": np.array(["a", "ü"]),
        "times": np.array(["2026-11-23", "NaT"], dtype="datetime64[D]"),
        "scalar": [np.float32(0.1), np.int64(-1), np.bool_(True), np.str_("s"), np.timedelta64(3, "s")],
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "sorts": [
            torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
            torch.tensor([0.5]).to(torch.float8_e5m2),
            torch.tensor([complex(1, -1)], dtype=torch.complex128),
            torch.tensor([complex(1, -1)], dtype=torch.complex64),
            torch.tensor(7, dtype=torch.uint16),
            torch.tensor([True, False]),
            torch.zeros(0, 3),
            torch.arange(6.0).reshape(2, 3).t(),
            torch.arange(16.0).reshape(1, 2, 2, 4).permute(0, 3, 1, 2),
        ],
    }


class Golden:
    """Everything that one launch makes before its loop; each launch makes the same."""

    def __init__(self, run: Path | str) -> None:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        self.config = {
            "run": str(run),
            "data_seed": 2**62,
            "every": {"steps": None, "minutes": None},
            "keep": {"last": 3},
        }
        self.model = Net()
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.model.picture.parameters(), "lr": 0.01},
                {"params": [self.model.norm.weight, self.model.norm.bias, self.model.into.weight], "weight_decay": 0.1},
            ],
            lr=0.02,
        )
        self.loader = DataLoader(TensorDataset(torch.arange(16.0).reshape(8, 2)), batch_size=2, shuffle=True)
        self.side = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2, shuffle=True)
        self.tally = Tally()
        self.objects: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": torch.optim.lr_scheduler.OneCycleLR(self.optimizer, [0.05, 0.1], total_steps=20),
            "tally": self.tally,
            "torch_stream": torch.Generator().manual_seed(4),
            "numpy_stream": np.random.default_rng(5),
            "python_stream": random.Random(6),
            "values": {},
            "history": [],
        }

    def train(self, epochs: int = EPOCHS, *, saves: tuple[int, ...] = (), crash_at: int | None = None) -> None:
        """The loop to its end, or to its crash in the body of a step."""
        with Trainer(self.config, **self.objects) as trainer:
            side = trainer.cycle(self.side, name="side")
            for _ in trainer.epochs(epochs):
                for [x] in trainer.batches(self.loader):
                    loss = self.step(x + next(side)[0].sum())
                    trainer.log(loss=loss, bad=float("nan"), top=float("inf"))
                    if trainer.step in saves:
                        trainer.request_save()
                    if trainer.step == crash_at:
                        raise Crash

    def step(self, x: Tensor) -> Tensor:
        """One optimizer step that draws from every stream and changes every object."""
        noise = torch.rand(2, generator=self.objects["torch_stream"]) + torch.rand(2)
        drawn = [self.objects["numpy_stream"].normal(), self.objects["python_stream"].gauss(0, 1), np.random.normal()]
        loss: Tensor = self.model((x + noise + sum(drawn) + random.random()) / 32).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.objects["scheduler"].step()
        self.tally.seen.append(float(x.sum()))
        self.objects["values"].update(every_value())
        self.objects["history"].append({"lr": self.optimizer.param_groups[0]["lr"]})
        return loss.detach()
