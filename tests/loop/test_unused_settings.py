"""A loop that does not use a setting gets one WARN: a metric that nothing logs, a loader that is not wrapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resumable import ConfigError, Trainer
from tests.tiny import Tiny


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("WARN")]


def train(run: Path, *, wrap: bool = True, epochs: int = 3, **config: Any) -> None:
    tiny = Tiny(run, **config)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(epochs):
            for batch in trainer.batches(tiny.loader) if wrap else tiny.loader:
                loss = tiny.step(batch)
            trainer.log(val_acc=loss)


def test_a_mistyped_metric_is_reported_once_at_the_end_of_the_first_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, keep={"best": {"metric": "valacc"}})
    [warning] = warnings(caplog)
    assert "keep.best.metric: 'valacc' was never logged" in warning
    assert "did you mean 'val_acc'?" in warning


def test_the_default_metric_is_no_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = Tiny(tmp_path)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(eval_loss=tiny.step(batch))
    assert warnings(caplog) == []


def test_a_name_that_is_logged_behind_the_last_batches_is_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, epochs=1, keep={"best": {"metric": "valacc"}})
    [warning] = warnings(caplog)
    assert "did you mean 'val_acc'?" in warning


def test_passes_without_epochs_may_log_the_metric_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = Tiny(tmp_path, keep={"best": {"metric": "acc"}})
    with tiny.trainer() as trainer:
        for number in range(2):
            for batch in trainer.batches(tiny.loader):
                loss = tiny.step(batch)
                trainer.log(**{"acc" if number else "loss": loss})
    assert warnings(caplog) == []


def test_a_metric_that_only_an_earlier_launch_logged_is_no_mistake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, keep={"best": {"metric": "val_acc"}})
    tiny = Tiny(tmp_path, keep={"best": {"metric": "val_acc"}})
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(4):
            for batch in trainer.batches(tiny.loader):
                trainer.log(val_accc=tiny.step(batch))
    assert warnings(caplog) == []


@pytest.mark.parametrize("wrap", [True, False])
def test_a_loader_that_is_not_wrapped_is_reported_once(
    wrap: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, wrap=wrap, every={"steps": 2})
    assert ["trainer.batches(loader)" in warning for warning in warnings(caplog)] == [True] * (not wrap)


@pytest.mark.parametrize("key", ["every", "keep", "data_seed", "run"])
def test_a_key_of_the_config_is_refused_as_an_object(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key!r} is a key of the configuration"):
        Trainer(tmp_path / "run", **{key: {"steps": 5}})
    assert not (tmp_path / "run").exists()
    with Trainer(tmp_path / "run", progress={"best": 0.0}):  # the name of the program's own values in earlier guides
        pass


def test_a_trainer_shows_where_it_stands(tmp_path: Path) -> None:
    with Tiny(tmp_path).trainer() as trainer:
        assert repr(trainer) == f"Trainer(run={str(tmp_path)!r}, step=0, epoch=0)"
