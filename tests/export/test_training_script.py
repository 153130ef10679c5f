"""`--model` names a script that trains when it is imported: nothing is trained, and nothing of its run is touched."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import resumable
from tests.harness.python import EXAMPLES_IMPORT, warm_python

ROOT = Path(resumable.__file__).parent.parent
HINT = "what trains belongs behind `if __name__ == '__main__':`"

SCRIPT = """
import sys
import torch
from torch import nn

def build():
    return nn.Linear(4, 2)

def train():
    from resumable import Trainer
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"run": "run", "every": {"steps": 1, "minutes": None}, "keep": {"last": 1}, "progress": "never"}
    with Trainer(config, model=model, optimizer=optimizer) as trainer:
        trainer.golden(torch.ones(2, 4))
        for _ in trainer.steps(3 if "resumable" not in sys.argv[0] else 30):
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()
    return model
"""

LIGHTNING = """
import sys
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from resumable.lightning import Resume

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        loss = self(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def build():
    return Net()

def train():
    config = {"run": "run", "every": {"steps": 1, "minutes": None}, "keep": {"last": 1}, "progress": "never"}
    epochs = 1 if "resumable" not in sys.argv[0] else 9
    trainer = pl.Trainer(
        callbacks=[Resume(config, golden=torch.ones(2, 4))], max_epochs=epochs, accelerator="cpu",
        logger=CSVLogger(".", name="logs", version=0), log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(6, 4), batch_size=2))
    return Net()
"""

ENDINGS = {
    "at import": "train()",
    "at import, in a try": "try:\n    train()\nexcept ImportError:\n    pass",
    "in the function": "def build_and_train():\n    return train()\nif __name__ == '__main__':\n    train()",
}


@pytest.fixture(autouse=True)
def _interpreters_start_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python(*EXAMPLES_IMPORT))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below, with when it was written and what is in it."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def exported(folder: Path, function: str) -> subprocess.CompletedProcess[str]:
    asked = ("export", "run", "--to", "made", "--format", "pt2", "--model", f"train:{function}")
    return python(folder, "-m", "resumable", *asked)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("script", [SCRIPT, LIGHTNING], ids=["Trainer", "Lightning"])
def test_a_script_that_trains_when_it_is_named_touches_nothing(tmp_path: Path, script: str, ending: str) -> None:
    (tmp_path / "train.py").write_text(script + ENDINGS[ending])
    trained = python(tmp_path, "train.py")
    assert trained.returncode == 0, trained.stderr
    before = contents(tmp_path)
    said = exported(tmp_path, "build_and_train" if "function" in ending else "build")
    assert said.returncode == 1, said.stderr
    assert "train:build" in said.stderr
    assert "began to train" in said.stderr
    assert HINT in " ".join(said.stderr.split())
    assert contents(tmp_path) == before


def test_a_script_that_catches_everything_has_trained_nothing_either(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"{SCRIPT}\ntry:\n    train()\nexcept Exception:\n    pass")
    assert python(tmp_path, "train.py").returncode == 0
    before = contents(tmp_path / "run")
    said = exported(tmp_path, "build")
    assert said.returncode == 0, said.stderr
    assert contents(tmp_path / "run") == before


def test_behind_main_the_same_script_is_exported_and_trains_on_afterwards(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"{SCRIPT}\nif __name__ == '__main__':\n    train()")
    assert python(tmp_path, "train.py").returncode == 0
    said = exported(tmp_path, "build")
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "made" / "proof.json").exists()
    shutil.rmtree(tmp_path / "made")
    code = """if True:
        from resumable.export import export
        export("run", "made", format="pt2", model="train:build")
        from train import train
        train()
    """
    ended = python(tmp_path, "-c", code)
    assert ended.returncode == 0, ended.stderr
    assert "RESUME  step=3" in ended.stderr
