"""Kills at named instants: real programs, killed where they say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resumable.utils import failpoints
from resumable.utils.failpoints import Kill, reach

PROGRAM = """
import time
from resumable.utils.failpoints import reach
for step in range(1, 6):
    reach("step", step)
    reach("save.blob", step)
    print(step, flush=True)
if "wait" in __import__("sys").argv:
    time.sleep(60)
"""


def _start(kill: str | None, log: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {} if kill is None else {"RESUMABLE_KILL": kill, "RESUMABLE_KILL_LOG": str(log)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _logged(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_without_the_variable_every_point_is_passed(tmp_path: Path) -> None:
    ended = _start(None, tmp_path / "log")
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "2", "3", "4", "5"])
    assert not (tmp_path / "log").exists()


def test_the_kill_lands_at_its_point_and_step_and_says_so(tmp_path: Path) -> None:
    ended = _start("save.blob:3", tmp_path / "log")
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, ["1", "2"])
    assert _logged(tmp_path / "log") == [{"point": "save.blob", "step": 3}]


def test_a_point_that_is_first_reached_later_is_not_missed(tmp_path: Path) -> None:
    ended = _start("step:0", tmp_path / "log")
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")
    assert _logged(tmp_path / "log") == [{"point": "step", "step": 1}]


def test_a_kill_at_a_step_that_never_comes_does_not_land(tmp_path: Path) -> None:
    ended = _start("step:6", tmp_path / "log")
    assert ended.returncode == 0
    assert not (tmp_path / "log").exists()


def test_a_delayed_kill_lands_later_at_any_instruction_and_logs_where_that_was(tmp_path: Path) -> None:
    ended = _start("step:2+0.3", tmp_path / "log", "wait")
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, ["1", "2", "3", "4", "5"])
    assert _logged(tmp_path / "log") == [{"point": "step", "step": 5}]


@pytest.mark.parametrize("text", ["step:3", "save.manifest:12", "fetch:0", "evaluate:7+0.25"])
def test_a_kill_is_written_as_it_is_read(text: str) -> None:
    assert str(Kill.parse(text)) == text


@pytest.mark.parametrize("text", ["", "step", "step:", "step:x", "stop:3", "step:3+", "step:-1", "step:3 "])
def test_a_kill_that_means_nothing_is_an_error_and_no_kill(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(failpoints, "_armed", None)
    monkeypatch.setenv("RESUMABLE_KILL", text)
    failpoints.arm()
    with pytest.raises(ValueError, match="expected POINT:STEP"):
        reach("step", 1)


def test_every_point_can_be_armed() -> None:
    assert [Kill.parse(f"{point}:1").point for point in failpoints.POINTS] == list(failpoints.POINTS)
