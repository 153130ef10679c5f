"""One bit of one read is wrong in a real file system and on a real server: the launch goes on from the newest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.experiments import verdict_on
from tests.faults.forks import Forks, Place
from tests.faults.http_proxy import FaultProxy
from tests.faults.recording import Recorder
from tests.faults.servers import shared_moto
from tests.faults.subjects import RESUMABLE
from tests.faults.test_object_stores_resume import on_s3
from tests.faults.verdicts import Verdict
from tests.lab.client import killed

FILES = ["weights.safetensors", "manifest.json", "state.rank00000.json", "run.json", "attempts/000002.json"]
SOME = pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.matrix if number else ()) for number, file in enumerate(FILES)]
)


def events(output: str, event: str) -> list[str]:
    return [line for line in output.splitlines() if re.search(rf"\b{event} ", line)]


@SOME
@pytest.mark.usefixtures("_fuse")
def test_a_wrong_read_that_the_kernel_keeps_in_its_cache_rejects_nothing(forks: Forks, folder: Path, file: str) -> None:
    (folder / "root").mkdir()
    forks.finish(RESUMABLE, Place.make(folder / "root" / "place"), until=3)
    with Recorder(folder, f"flip:read:{file}") as recorder:
        place = Place(recorder.mount / "place")
        output = forks.finish(RESUMABLE, place, until=4)
        assert [each.path for each in recorder.mutations() if each.operation == "flip"]
        assert verdict_on(RESUMABLE, place.run, 4) is Verdict.RIGHT
    assert not events(output, "REJECT")
    [resumed] = events(output, "RESUME")
    assert "step=3 " in resumed
    [warning] = events(output, "WARN")
    assert "returned other bytes than the next read" in warning
    assert file in warning


@pytest.mark.parametrize("file", ["model.safetensors", pytest.param("manifest.json", marks=pytest.mark.matrix)])
def test_a_wrong_download_rejects_nothing(tmp_path: Path, file: str) -> None:
    with FaultProxy(shared_moto().port) as proxy:
        bench = on_s3(tmp_path, shared_moto(), proxy, epochs=1)
        whole = bench.launch("whole")
        ended = [bench.launch("crashed", killed("step:6"))]
        rule = proxy.inject("flip_reply", "GET", rf"/crashed/checkpoints/step-0+4\..*{file}")
        ended.append(bench.launch("crashed"))
        bench.assert_equal("crashed", "whole", ended, [whole])
    assert rule.fired == 1
    output = ended[1].output
    assert not events(output, "REJECT")
    [resumed] = events(output, "RESUME")
    assert "step=4 " in resumed
    assert len([line for line in events(output, "WARN") if "returned other bytes than the next read" in line]) == 1
