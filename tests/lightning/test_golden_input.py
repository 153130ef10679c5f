"""A golden input in a Lightning fit: what its checkpoints carry, and that no bit of the fit depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from resumable import Run, StateError
from resumable.checkpointing.capture.golden_input import Golden
from resumable.cli.checkpoint_diff import compare
from resumable.lightning import Resume
from resumable.state.objects import global_rng
from tests.lab.script import seed_all
from tests.lab.toys import Restless
from tests.lightning.toys import FEATURES, Net, training, validation
from tests.tiny import Crash

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    # Lightning itself, beside the torch that tests run on.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

X = torch.linspace(-1, 1, 3 * FEATURES).reshape(3, FEATURES)


@pytest.fixture(autouse=True)
def _streams_as_before() -> Iterator[None]:
    before = global_rng.capture_streams()
    yield
    global_rng.restore_streams(before)


class Restive(Net):
    """Its forward counts its calls and draws, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.body.insert(4, Restless())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


class Crashing(pl.Callback):
    """Crashes after so many batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.after:
            raise Crash


def fit(folder: Path, golden: Any, *, module: Any = None, crash_after: int = 0, **options: Any) -> None:
    """One fit of two epochs, saved after every second batch, where gradients wait or not."""
    seed_all()
    config = {"run": str(folder), "data_seed": 7, "every": {"steps": 2, "minutes": None}, "gradients": "always"}
    own = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "callbacks": [Resume(config | {"progress": "never"}, golden=golden), Crashing(crash_after)],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder.parent),
        "accumulate_grad_batches": 3,
    }
    pl.Trainer(**own | options).fit(module or Restive(), training(), validation())


def newest(folder: Path) -> Any:
    return Run(str(folder)).latest()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}])
@pytest.mark.parametrize("golden", [X, {"x": X}])
def test_no_bit_of_a_fit_that_crashed_depends_on_it(tmp_path: Path, golden: Any, options: dict[str, Any]) -> None:
    run, whole, without = (tmp_path / name for name in ("run", "whole", "without"))
    with pytest.raises(Crash):
        fit(run, golden, crash_after=12, **options)
    fit(run, golden, **options)
    fit(whole, golden, **options)
    fit(without, None, **options)
    assert "golden" not in newest(without).manifest.objects
    # Where the run lies is beside the state, and these three lie in three places.
    assert compare(newest(run), newest(whole)) == compare(newest(whole), newest(without)) == []
    outputs = [Golden.from_tree(newest(folder).tree("golden")).outputs[0] for folder in (run, whole)]
    assert torch.equal(*outputs)
    assert outputs[0].dtype is torch.float32


def test_it_is_what_the_modules_forward_gives(tmp_path: Path) -> None:
    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x)
            return logits

    fit(tmp_path / "run", X, module=Plain())
    tree = newest(tmp_path / "run").tree("golden")
    module = Plain().eval()
    newest(tmp_path / "run").load_into(module)
    assert tree["model"] == "model"
    with torch.no_grad():
        assert torch.equal(tree["outputs"][0], module(X))


def test_what_does_not_fit_is_refused_before_training_and_lets_go_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"Restive failed on the input \(float32\[3, 2\]\)"):
        fit(tmp_path / "run", torch.ones(3, 2))
    fit(tmp_path / "run", X)  # the same program tries again
    assert newest(tmp_path / "run").manifest.attempt == 2


def test_a_module_without_a_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"Net failed on the input .*NotImplementedError"):
        fit(tmp_path / "run", X, module=Net())
