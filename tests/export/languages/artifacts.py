"""Small artifacts for programs in other languages to check, exported from a run with a golden input."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from resumable import Trainer
from resumable.export import export

BATCH = 4


class Tagger(nn.Module):
    """Token numbers in, one score per token and the best tag out: inputs and outputs of more than one dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("seen", torch.tensor(7, dtype=torch.int64))
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(torch.tanh(self.mix(self.embed(tokens) + shift))) * self.scale
        return scores, scores.argmax(-1)


def artifact(folder: Path, format: str) -> Path:
    """The export of a tagger with seeded weights in a new `folder`."""
    run = folder.with_name(f"{folder.name}-run")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Tagger()
        inputs = (torch.randint(16, (BATCH, 5)), torch.randn(BATCH, 5, 8))
    with Trainer({"run": str(run), "progress": "never"}, model=model) as trainer:
        trainer.golden(inputs)
        for _ in trainer.steps(1):
            pass
    factory = None if format == "safetensors" else "tests.export.languages.artifacts:Tagger"
    return export(str(run), folder, format=format, model=factory).folder
