"""Another batch size or length of the dataset: refused in the middle of a pass, accepted and named at its end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from resumable import Run
from resumable.data.addresses import PassAddress
from resumable.data.loader_settings import LoaderSettings, settings_of
from resumable.errors import ChangedDataError
from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.tiny import Crash, Tiny, assert_equal_ends

CHANGED = 'note="this launch\'s are used from this pass on"'


def launch(run: Path, *, size: int = 2, samples: int = 8, epochs: int = 2, **options: Any) -> Tiny:
    """Train with batches of `size` of so many samples, to the end or to the crash at `crash_at`."""
    tiny = Tiny(run, **options)
    data = TensorDataset(torch.arange(2.0 * samples).reshape(samples, 2))
    tiny.loader = DataLoader(data, batch_size=size, shuffle=True)
    try:
        tiny.train(epochs)
    except Crash:
        assert tiny.crash_at is not None
    return tiny


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The CHANGED lines since the last call."""

    def since() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [line.removeprefix("CHANGED ") for line in found if line.startswith("CHANGED")]

    return since


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 4}, "batches.batch_size 2->4"),
        ({"samples": 12}, "batches.dataset 8->12"),
        ({"size": 4, "samples": 12}, "batches.batch_size 2->4, batches.dataset 8->12"),
    ],
    ids=["batch size", "length", "both"],
)
def test_at_the_end_of_an_epoch_it_is_accepted_and_in_its_middle_refused(
    changes: dict[str, int],
    words: str,
    tmp_path: Path,
    lines: Any,
    cli: Cli,  # noqa: F811
) -> None:
    launch(tmp_path / "end", epochs=1)
    launch(tmp_path / "middle", crash_at=3)
    assert lines() == []
    launch(tmp_path / "end", **changes)
    assert lines() == [f"{words} {CHANGED}"]
    launch(tmp_path / "end", epochs=3, **changes)
    assert lines() == []

    with pytest.raises(ChangedDataError) as refused:
        launch(tmp_path / "middle", **changes)
    assert words in refused.value.message
    assert "`resumable rewind RUN@latest --next-epoch`" in str(refused.value.hint)
    shutil.copytree(tmp_path / "middle", tmp_path / "back")
    launch(tmp_path / "back")  # the one way on
    assert lines() == []
    assert cli("rewind", f"{tmp_path / 'middle'}@latest", "--next-epoch").code == 0  # and the other
    launch(tmp_path / "middle", **changes)
    assert lines() == [f"{words} {CHANGED}"]
    assert Run(str(tmp_path / "middle")).latest().epoch == 2


def test_a_program_that_changes_them_itself_gets_one_line_at_most(tmp_path: Path, lines: Any) -> None:
    class Growing(Tiny):
        def train(self, epochs: int = 2) -> None:
            with self.trainer() as trainer:
                for epoch in trainer.epochs(epochs):
                    loader = DataLoader(self.loader.dataset, batch_size=4 if epoch % 2 else 2, shuffle=True)
                    for batch in trainer.batches(loader):
                        self.step(batch)
                        self.ends(trainer)

    Growing(tmp_path / "reference").train(4)
    Growing(tmp_path / "run").train(2)
    with pytest.raises(Crash):
        Growing(tmp_path / "run", crash_at=8).train(4)
    Growing(tmp_path / "run").train(4)
    assert lines() == []
    assert_equal_ends(tmp_path / "run", tmp_path / "reference")


def test_the_number_of_workers_matters_to_streams_alone() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    plain = TensorDataset(torch.zeros(6))
    assert settings_of(DataLoader(plain, batch_size=3)) == {"batch_size": 3, "drop_last": False, "dataset": 6}
    assert settings_of(DataLoader(Stream(), num_workers=2)) == {"batch_size": 1, "drop_last": False, "num_workers": 2}
    assert settings_of([1, 2]) == {"length": 2}
    assert settings_of(iter([1])) == {}


def test_notes_come_from_anybody() -> None:
    said: list[str] = []
    noted = {"batches/0": {"length": "\x1b[2J", "batch_size": [3], "vary": [7], "other": 1}, "x": 3}
    settings = LoaderSettings(lambda: noted, report=said.append)
    settings.see([1], PassAddress("batches", 0, 0), None)
    assert said == []
    assert settings.note() == {"batches/0": {"length": 1}}
