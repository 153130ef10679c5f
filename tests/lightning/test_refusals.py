"""What cannot be exact is refused before anything is trained, with the reason and what to do."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from resumable.errors import ConfigError, LoopError, ResumableError, RunMismatchError
from resumable.lightning import Resume
from tests.lightning.toys import FEATURES, Net, training, validation
from tests.tiny import Crash, steps_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    # Lightning itself, beside the torch that tests run on.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _streams_as_before() -> Iterator[None]:
    before = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(before[0])
    numpy.random.set_state(before[1])
    random.setstate(before[2])


class Trained(pl.Callback):
    """Counts what was trained on, and crashes after so many batches."""

    def __init__(self, crash_after: int) -> None:
        self.batches, self.crash_after = 0, crash_after

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        if self.batches == self.crash_after:
            raise Crash


def fit(folder: Path, module: Any, loaders: Any = None, *, crash_after: int = 0, **options: Any) -> Trained:
    """One short fit in this very program; what was saved before a crash is durable."""
    trained = Trained(crash_after)
    config = {"run": str(folder / "run"), "every": {"steps": 2, "minutes": None}, "progress": "never"}
    own = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "callbacks": [Resume(config), trained],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }
    trainer = pl.Trainer(**own | options)
    try:
        trainer.fit(module, loaders or training(), validation())
    except Crash:
        assert crash_after
    except ResumableError:
        assert trained.batches == 0, "something was trained before it was refused"
        raise
    return trained


class Wider(Net):
    """Another layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body[-1] = nn.Linear(8, 5)


class Longer(Net):
    """One more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Linear(FEATURES, 1)


class Momentous(Net):
    """Another optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class TwoOptimizers(Net):
    """The same weights, shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(part.parameters(), lr=0.1) for part in (self.body[0], self.body[-1])]


@pytest.mark.parametrize("crash_after", [5, 0])
@pytest.mark.parametrize("other", [Wider, Longer, Momentous, TwoOptimizers])
def test_the_checkpoint_of_another_program_is_refused_before_anything_is_trained(
    tmp_path: Path, other: Any, crash_after: int
) -> None:
    assert fit(tmp_path, Net(), crash_after=crash_after).batches == (crash_after or 9)
    before = steps_of(tmp_path / "run")
    with pytest.raises(RunMismatchError) as refused:
        fit(tmp_path, other(), max_epochs=2)
    assert refused.value.hint
    assert steps_of(tmp_path / "run") == before


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_training_loaders_is_refused(tmp_path: Path, before: int, after: int) -> None:
    fit(tmp_path, Net(), [training() for _ in range(before)], crash_after=5)
    with pytest.raises(ResumableError, match="training loaders") as refused:
        fit(tmp_path, Net(), [training() for _ in range(after)])
    assert refused.value.hint


class FetchingItself(Net):
    """Takes its batches out of the loader with its own hands."""

    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


def test_a_training_step_that_fetches_batches_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, LoopError), match="dataloader_iter") as refused:
        fit(tmp_path, FetchingItself())
    assert "batch, batch_idx" in refused.value.hint


class TwoRanks(DDPStrategy):
    """What a launcher made of two machines looks like to a callback, without the network between them."""

    world_size = 2

    def setup_environment(self) -> None:
        """No rendezvous: nobody else is there."""

    def setup(self, trainer: pl.Trainer) -> None:
        raise AssertionError("the model was wrapped for several processes before they were refused")

    def barrier(self, *_: Any, **__: Any) -> None:
        """Nobody to wait for."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def teardown(self) -> None:
        """Nothing was set up."""


def test_two_ranks_are_refused_before_the_run_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2") as refused:
        fit(tmp_path, Net(), strategy=TwoRanks())
    assert "devices=1" in refused.value.hint
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_says_two_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2"):
        fit(tmp_path, Net())
    assert not (tmp_path / "run").exists()


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from resumable.lightning import Resume
"""


def test_without_lightning_what_to_install_is_told_in_one_error() -> None:
    code = WITHOUT.format(absent=("lightning", "pytorch_lightning"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    said = "resumable.lightning needs pytorch-lightning (or lightning): pip install pytorch-lightning"
    assert ended.stderr.splitlines()[-1] == f"ImportError: {said}"
    assert ended.stderr.count("Traceback") == 1


def test_a_lightning_that_lacks_something_of_its_own_is_told_by_that() -> None:
    code = WITHOUT.format(absent=("lightning", "lightning_utilities"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'lightning_utilities" in ended.stderr.splitlines()[-1]


def test_the_run_is_given_as_a_text_or_in_a_yaml_file_as_to_a_trainer(tmp_path: Path) -> None:
    assert Resume("runs/a").config.run == "runs/a"
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        Resume(tmp_path / "none.yaml")
    (tmp_path / "none.yaml").write_text("run: b\n")
    with pytest.raises(ConfigError, match=r"did you mean .*none\.yaml"):
        Resume(str(tmp_path / "none"))
