"""A LightningModule's weights where they serve: exported from a fit's own checkpoints, with the outputs that it had."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from resumable import load_weights
from resumable.export import export
from resumable.lightning import Resume
from tests.lightning.toys import FEATURES, Net, training

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


class Serving(Net):
    """A module that can be called, as one that serves must be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x)
        return logits


def build() -> Serving:
    return Serving()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Serving]:
    run = str(tmp_path_factory.mktemp("fit") / "run")
    module = Serving()
    resume = Resume({"run": run, "progress": "never"}, golden=torch.linspace(-1, 1, 3 * FEATURES).reshape(3, FEATURES))
    pl.Trainer(
        max_epochs=1, callbacks=[resume], logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(module, training())
    return run, module


def test_the_weights_of_a_module_are_exported_without_its_code(tmp_path: Path, fitted: tuple[str, Serving]) -> None:
    run, module = fitted
    exported = export(run, tmp_path / "served")
    assert exported.proof.grade == "weights-identical"
    found = load_file(tmp_path / "served" / "model.safetensors")
    live = module.state_dict()
    assert found.keys() == live.keys()
    assert all(torch.equal(found[name], live[name]) for name in live)
    other = Serving()
    load_weights(other, str(tmp_path / "served"))
    assert all(torch.equal(value, live[name]) for name, value in other.state_dict().items())


def test_a_module_becomes_a_program_that_gives_what_it_gave_in_the_fit(
    tmp_path: Path, fitted: tuple[str, Serving]
) -> None:
    exported = export(fitted[0], tmp_path / "served", format="pt2", model="tests.lightning.test_export:build")
    known = exported.proof.golden
    assert known is not None
    assert known.made_by == "trainer"
    assert exported.proof.grade == "outputs-identical"
