"""The run with every feature of version 3 that an earlier program wrote: read and resumed now, and for ever."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Run
from resumable.cli import app
from resumable.store.layout import CHECKPOINTS
from tests.golden.features import FEATURES, Featured, Point
from tests.golden.write import expected

HERE = Path(__file__).parent / "features3"
FINAL = "step-000000008.e0002.a0002"


def held() -> dict[str, Any]:
    """What the run held when it was written."""
    document: dict[str, Any] = json.loads((HERE / "expected.json").read_bytes())
    return document


def test_its_files_are_as_they_were_written_and_read_as_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    found = {path: hashlib.sha256((HERE / "run" / path).read_bytes()).hexdigest() for path in held()["files"]}
    assert found == held()["files"]
    assert json.loads(json.dumps(expected(HERE / "run"))) == held()
    with pytest.raises(SystemExit, match="0"):
        app(["verify", "--json", str(HERE / "run")])
    assert json.loads(capsys.readouterr().out)["ok"]


def test_it_has_every_feature_and_the_history_of_its_metrics() -> None:
    used = {feature for each in Run(str(HERE / "run")).checkpoints() for feature in each.manifest.features}
    assert used == FEATURES
    rows = Run(str(HERE / "run")).metrics_history()
    assert [row.place[0] for row in rows if row.kind == "step"] == list(range(1, 9))


def test_a_launch_resumes_it_inside_an_epoch_and_trains_what_it_trained(tmp_path: Path) -> None:
    run = Path(shutil.copytree(HERE / "run", tmp_path / "run"))
    shutil.rmtree(run / CHECKPOINTS / FINAL)
    launch = Featured(run)
    launch.train()
    assert launch.carried[0] == (0.125, 13.75)
    assert len(launch.carried) == 5
    assert launch.values["recent"].maxlen == 2
    assert launch.values["count"]["steps"] == launch.loop.seen + 1 == launch.values["at"].x + 1 == 8
    assert type(launch.values["at"]) is Point
    assert launch.data.scale == 1.0 + 8 * 0.25
    assert torch.equal(launch.sampler.weights, torch.full((8,), 1 + 8 * 0.5))
    assert Run(str(run)).latest().manifest.finished
