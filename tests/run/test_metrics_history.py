"""What `trainer.log` recorded, as one curve: over crashes, on each kind of storage, and whatever the journal holds."""

from __future__ import annotations

import resource
import time
import uuid
from pathlib import Path

import pytest
import torch

from resumable import Run
from resumable.errors import NoCheckpointError
from resumable.store.journal.records import MetricsRecord
from tests.tiny import Tiny, crashed, warnings_of


@pytest.fixture(params=["folder", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/run"


def curve(run: str | Path) -> list[tuple[str, int, int, dict[str, float]]]:
    return [(row.kind, row.step, row.epoch, dict(row.metrics)) for row in Run(str(run)).metrics_history()]


def attempts(run: str) -> list[int]:
    return [row.attempt for row in Run(run).metrics_history() if row.kind == "step"]


def test_a_run_that_crashed_has_the_curve_of_one_that_did_not(place: str, tmp_path: Path) -> None:
    Tiny(tmp_path / "whole").train()
    crashed(place, step=6, saves=[3])
    Tiny(place).train()
    assert attempts(place) == [1] * 4 + [2] * 4
    assert curve(place) == curve(tmp_path / "whole")
    assert [(kind, step, epoch) for kind, step, epoch, _ in curve(place)][3:6] == [
        ("step", 4, 0),
        ("epoch", 4, 1),
        ("step", 5, 1),
    ]


def test_what_was_logged_after_the_batches_is_a_record_of_the_epoch(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "run")
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
            trainer.log(val_loss=epoch + 0.5)
    ends = [row for row in Run(str(tmp_path / "run")).metrics_history() if row.kind == "epoch"]
    assert [(row.step, row.epoch, row.metrics["val_loss"]) for row in ends] == [(4, 1, 0.5), (8, 2, 1.5)]


def test_a_program_that_logs_nothing_has_no_journal_and_off_is_off(tmp_path: Path) -> None:
    Tiny(tmp_path / "silent").turn(3, lambda trainer: None)
    Tiny(tmp_path / "off", journal={"mode": "off"}).train()
    assert not (tmp_path / "silent/journal").exists()
    assert not (tmp_path / "off/journal").exists()
    assert curve(tmp_path / "silent") == curve(tmp_path / "off") == []


def test_there_is_no_history_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError):
        Run(str(tmp_path)).metrics_history()


def test_values_that_are_not_finite_or_no_floats_are_kept(tmp_path: Path) -> None:
    values = {"nan": float("nan"), "inf": -float("inf"), "half": torch.tensor(0.1, dtype=torch.float16), "n": 3}
    Tiny(tmp_path / "run").turn(1, lambda trainer: trainer.log(values))
    [row] = Run(str(tmp_path / "run")).metrics_history()
    assert repr(dict(row.metrics)) == "{'nan': nan, 'inf': -inf, 'half': 0.0999755859375, 'n': 3.0}"


def test_a_value_that_cannot_be_read_ends_the_journal_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tensor on the device `meta` has no value, as one on a device that is lost."""

    def body(trainer: object) -> None:
        trainer.log(loss=1.0)  # type: ignore[attr-defined]
        trainer._loops._metrics.logged["lost"] = torch.empty((), device="meta")  # type: ignore[attr-defined]
        trainer._loops._metrics.logged.pop("lost") if trainer.step > 2 else None  # type: ignore[attr-defined]

    with pytest.raises((NotImplementedError, RuntimeError)):  # of the save, which needs the value as well
        Tiny(tmp_path / "run").turn(2, body)
    assert [line for line in warnings_of(caplog) if "the journal ends here" in line]


def test_too_many_metrics_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Tiny(tmp_path / "run").turn(3, lambda trainer: trainer.log({f"m{n}": float(n) for n in range(80)}))
    assert [len(row.metrics) for row in Run(str(tmp_path / "run")).metrics_history()] == [64] * 3
    assert warnings_of(caplog) == ["WARN    the journal holds the first 64 of 80 metrics that step 1 logged"]


def test_a_hostile_journal_takes_bounded_time_and_memory(tmp_path: Path) -> None:
    Tiny(tmp_path / "run").train()
    expected, folder = curve(tmp_path / "run"), tmp_path / "run/journal"
    (folder / "000009.jsonl").write_bytes(b"\n" * 50_000_000)
    (folder / "000009.0001.jsonl").write_bytes(b"{" * 30_000_000)
    (folder / "000009.0002.jsonl").mkdir()
    (folder / "000009.0003.jsonl").symlink_to("/dev/zero")
    with (folder / "000009.0004.jsonl").open("wb") as file:
        file.truncate(2**40)  # sparse
    for name in ("0000009.jsonl", "000000.jsonl", "x.jsonl", "000009.5.jsonl"):
        (folder / name).write_bytes(b"{}")
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = curve(tmp_path / "run")
    assert time.process_time() - began < 30  # as a guard against what grows with the bytes that a name claims
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
    assert found in (expected, [])


def test_a_row_of_the_history_is_public(tmp_path: Path) -> None:
    Tiny(tmp_path / "run").train()
    row = Run(str(tmp_path / "run")).metrics_history()[0]
    assert isinstance(row, MetricsRecord)
    assert (row.kind, row.step, row.epoch, row.attempt, row.count, row.summaries) == ("step", 1, 0, 1, 1, None)
