"""A Lightning run keeps the rule by which its random generators are found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from resumable import Run
from resumable.data.rng.find_generators import NEWEST_RULE
from tests.lightning.test_refusals import _streams_as_before, fit
from tests.lightning.toys import BATCH, Net, Sample, Samples, sample
from tests.loop.test_generator_rule import name_rule, rules

__all__ = ["_streams_as_before"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


class Noise:
    """Collates with noise of its own; its method is found under another name by each rule."""

    def __init__(self) -> None:
        self.rng = random.Random(1)

    def collate(self, samples: list[Sample]) -> Any:
        batch = default_collate(samples)
        return {**batch, "x": batch["x"] + self.rng.random()}


def weights(folder: Path, *, crash_after: int = 0) -> Tensor:
    """All weights after one fit in this folder."""
    torch.manual_seed(1)
    module = Net()
    loader = DataLoader(Samples(make=sample), batch_size=BATCH, collate_fn=Noise().collate)
    fit(folder, module, loader, crash_after=crash_after)
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def begun(folder: Path, *, rule: int | None) -> None:
    weights(folder, crash_after=1)
    for later in sorted(folder.glob("run/checkpoints/*"))[1:]:
        shutil.rmtree(later)
    name_rule(folder / "run", rule)


def seed_of(folder: Path) -> int:
    return int(Run(str(folder / "run")).latest().manifest.config["data_seed"])


def test_the_rule_is_that_of_the_checkpoint_also_after_many_resumes(tmp_path: Path) -> None:
    begun(tmp_path / "first", rule=None)
    for copy in ("whole", "newest"):
        shutil.copytree(tmp_path / "first", tmp_path / copy)
    name_rule(tmp_path / "newest" / "run", NEWEST_RULE)
    whole = weights(tmp_path / "whole")
    for crash_after in (3, 3):
        weights(tmp_path / "first", crash_after=crash_after)
    assert torch.equal(weights(tmp_path / "first"), whole)
    assert set(rules(tmp_path / "first" / "run")[1:]) <= {1}
    assert rules(tmp_path / "whole" / "run")[-1] == 1
    assert not torch.equal(weights(tmp_path / "newest"), whole)
    assert rules(tmp_path / "newest" / "run")[-1] == NEWEST_RULE
    assert seed_of(tmp_path / "newest") == seed_of(tmp_path / "whole")
