"""The drill drilled: with scripts that are exact, that are not, and that cannot be drilled at all."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from resumable.cli.drill.kill_schedule import SAVE_POINTS, draw_kills
from resumable.cli.drill.run_command import run_command
from tests.cli.conftest import Cli
from tests.harness.python import warm_python

Script = Callable[..., list[str]]

# Of another start in each process, as nothing is seeded; and without torch.optim, whose import takes seconds.
SCRIPT = """
import random
import time
import torch
from torch import nn
from resumable import Trainer

model = nn.Linear(2, 2)
velocity = [torch.zeros(2, 2), torch.zeros(2)]
{before}
trainer = Trainer({{"run": {run!r}, "every": {{"steps": 4}}}}, model=model, velocity=velocity)
for step in trainer.steps(20):
    model.zero_grad()
    model(torch.randn(3, 2)).square().mean().backward()
    with torch.no_grad():
        for parameter, speed in zip(model.parameters(), velocity):
            parameter -= speed.mul_(0.9).add_(parameter.grad, alpha=0.1)
    {body}
trainer.close()
print("trained")
"""


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(*, before: str = "", body: str = "pass", python: str | None = None) -> list[str]:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(SCRIPT).format(run=str(tmp_path / "mine"), before=before, body=body))
        return [python or warm_python(), str(path)]

    return write


@pytest.fixture(autouse=True)
def _the_package_is_found_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_a_script_that_passes_its_state_is_bit_exact(script: Script, tmp_path: Path, cli: Cli) -> None:
    command = script(python=sys.executable)  # as a user's starts; the others are forked, torch imported
    drilled = cli("drill", "--kills", 3, "--seed", 1, "--json", "--keep", tmp_path / "kept", "--", *command)
    report = drilled.json
    assert drilled.code == 0, drilled.err
    assert (report["exact"], report["count"], report["steps"]) == (True, 0, 20)
    assert report["tensors"] == 4  # two of the model, and their velocities
    killed = [attempt for attempt in report["attempts"] if attempt["point"]]
    assert killed, "no kill landed"
    assert report["attempts"][-1]["point"] is None
    assert [attempt["warm"] for attempt in report["attempts"]] == [False] + [True] * (len(report["attempts"]) - 1)
    for before, after in zip(report["attempts"], report["attempts"][1:], strict=False):
        assert after["steps_replayed"] == max(before["killed_at_step"] - after["resumed_from_step"], 0)
        assert after["resumed_from_step"] <= before["killed_at_step"] + 1
    assert "  | trained" in drilled.err
    assert "only the runs are in a scratch folder" in drilled.err.splitlines()[1]
    assert sorted(p.name for p in (tmp_path / "kept").iterdir() if p.is_dir()) == ["drilled", "reference"]
    assert not (tmp_path / "mine").exists()


def test_a_training_that_is_taken_over_is_drilled_from_there(script: Script, cli: Cli) -> None:
    command = script()
    path = Path(command[1])
    loop = "for step in trainer.steps("
    path.write_text(path.read_text().replace(f"{loop}20", f"trainer.begin_at(step=100)\n{loop}120"))
    drilled = cli("drill", "--kills", 2, "--seed", 1, "--json", "--", *command)
    assert drilled.code == 0, drilled.err
    assert (drilled.json["exact"], drilled.json["steps"]) == (True, 20)
    killed = [attempt for attempt in drilled.json["attempts"] if attempt["point"]]
    assert killed
    assert all(100 <= attempt["resumed_from_step"] <= attempt["killed_at_step"] <= 120 for attempt in killed)
    assert all(int(attempt["armed"].split(":")[1].split("+")[0]) > 100 for attempt in killed)


def test_a_script_that_forgets_some_state_is_found_out_with_hints(script: Script, cli: Cli) -> None:
    # Steps that are slow enough for a save to be through before the kill.
    forgetful = script(
        before="private = random.Random(0)", body="time.sleep(0.05); model.bias.data += private.random()"
    )
    drilled = cli("drill", "--kills", 1, "--quiet", "--", *forgetful)
    assert drilled.code == 1
    assert "model.bias" in drilled.out
    causes = drilled.out.partition("common causes\n")[2]
    assert causes.startswith("  - an object was not passed to Trainer(...): ")
    assert "the loop's own variables as a dict" in causes.splitlines()[0]
    kept = Path(drilled.err.rstrip().rpartition("both runs are kept in ")[2])
    assert {"reference", "drilled"} <= {folder.name for folder in kept.iterdir()}
    subprocess.run(["rm", "-r", str(kept)], check=True)


def test_what_is_logged_and_printed_is_compared_too(script: Script, cli: Cli) -> None:
    """A counter that is in no checkpoint, and that no weight depends on."""
    counting = script(
        before="seen = 0",
        body="seen += 1; trainer.log(seen=seen); time.sleep(0.03); print('step', step + 1, 'seen', seen, time.time())",
    )
    drilled = cli("drill", "--kills", 2, "--seed", 4, "--json", "--", *counting)
    report = drilled.json
    assert (drilled.code, report["exact"]) == (1, False), drilled.err
    resumed = max(attempt["resumed_from_step"] for attempt in report["attempts"])
    assert 0 < resumed < 20
    [difference] = [each for each in report["differences"] if each["path"].startswith("logged seen, at step ")]
    step = int(difference["path"].split("step ")[1].split(",")[0])
    assert (difference["a"], difference["b"]) == (f"{step}.0", "1.0")
    notes = [note for note in report["notes"] if note["path"] == "a printed line"]
    assert notes  # of the steps that no launch printed as the undisturbed one did
    for note in notes:
        one, other = note["a"].strip("'").split(), note["b"].strip("'").split()
        assert one[:3] == other[:3] == ["step", one[1], "seen"]
        assert int(one[3]) == int(one[1]) > int(other[3])
    subprocess.run(["rm", "-r", report["scratch"]], check=True)


SWEEP = """
import time
import torch
from resumable import Trainer

for rate in (0.1, 0.01):
    weights = [torch.ones(3)]
    with Trainer({{"run": {run!r} + str(rate), "every": {{"steps": 4}}}}, weights=weights) as trainer:
        for step in trainer.steps(20):
            weights[0] -= {factor} * torch.randn(3)
"""


@pytest.mark.parametrize("factor", ["rate", "(1 if rate > 0.05 else time.perf_counter())"])
def test_every_run_of_a_sweep_has_a_folder_of_its_own_and_all_are_compared(
    tmp_path: Path, cli: Cli, factor: str
) -> None:
    path, kept, forgetful = tmp_path / "train.py", tmp_path / "kept", factor != "rate"
    path.write_text(SWEEP.format(run=str(tmp_path / "rate"), factor=factor))
    drilled = cli("drill", "--kills", 4, "--seed", 5, "--json", "--keep", kept, "--", warm_python(), str(path))
    report = drilled.json
    assert (drilled.code, report["exact"]) == (int(forgetful), not forgetful), drilled.err
    first, second = report["runs"]
    assert first.startswith("rate0.1-")
    assert second.startswith("rate0.01-")
    assert (report["steps"], report["tensors"]) == (40, 2)
    assert {attempt["run"] for attempt in report["attempts"] if attempt["point"]} == {first, second}
    reached = {first: 0, second: 0}
    for attempt in report["attempts"]:
        assert attempt["steps_replayed"] == max(reached[attempt["run"]] - attempt["resumed_from_step"], 0)
        reached[attempt["run"]] = attempt["killed_at_step"] or 0
    assert {each["path"].split(": ")[0] for each in report["differences"]} == ({second} if forgetful else set())
    for side in ("reference", "drilled"):
        assert sorted(folder.name for folder in (kept / side).iterdir()) == sorted([first, second])
    assert not list(tmp_path.glob("rate*"))


def test_a_script_with_a_new_name_for_its_run_at_each_launch_is_drilled(
    script: Script, tmp_path: Path, cli: Cli
) -> None:
    command = script()
    path = Path(command[1])
    path.write_text(path.read_text().replace(f'"run": {str(tmp_path / "mine")!r}', '"run": f"runs/{time.time()}"'))
    drilled = cli("drill", "--kills", 2, "--seed", 1, "--json", "--", *command)
    assert drilled.code == 0, drilled.err
    assert (drilled.json["exact"], drilled.json["steps"]) == (True, 20)


def test_a_sweep_with_new_names_at_each_launch_is_refused(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "train.py"
    path.write_text(SWEEP.format(run=str(tmp_path / "rate"), factor="rate").replace("str(rate)", "f'{time.time()}'"))
    drilled = cli("drill", "--kills", 1, "--seed", 5, "--keep", tmp_path / "kept", "--", warm_python(), str(path))
    assert drilled.code == 1
    assert "COMMAND trains runs of other names at each launch: rate" in drilled.err
    assert "name each run the same at every launch" in drilled.err


@pytest.mark.parametrize(
    ("where", "rate", "message"),
    [
        ("reference", 0.1, "COMMAND ended, but its run rate0.1-"),
        ("drilled", 0.01, "COMMAND ended with exit code 0, but its run rate0.01-"),
    ],
)
def test_a_sweep_that_leaves_one_of_its_runs_unfinished_is_refused(
    tmp_path: Path, cli: Cli, where: str, rate: float, message: str
) -> None:
    path, early = tmp_path / "train.py", f"rate == {rate} and os.environ['RESUMABLE_RUN'].endswith('/{where}')"
    sweep = SWEEP.format(run=str(tmp_path / "rate"), factor="rate").replace("import time", "import os")
    path.write_text(f"{sweep}            if {early}:\n                break\n")
    drilled = cli("drill", "--kills", 0, "--keep", tmp_path / "kept", "--", sys.executable, str(path))
    assert drilled.code == 1
    assert message in drilled.err


def test_runs_of_one_name_in_two_folders_are_two_runs(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "train.py"
    sweep = SWEEP.format(run=f"{tmp_path}/", factor="rate")
    path.write_text(sweep.replace("str(rate)", "str(rate) + '/run'"))
    drilled = cli("drill", "--kills", 0, "--json", "--", sys.executable, str(path))
    assert drilled.code == 0, drilled.err
    assert [name.partition("-")[0] for name in drilled.json["runs"]] == ["run", "run"]
    assert len(set(drilled.json["runs"])) == 2


def test_a_drill_that_always_began_anew_says_that_it_proves_little(
    script: Script, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESUMABLE_EVERY__STEPS", "1000")
    drilled = cli("drill", "--kills", 1, "--seed", 2, "--quiet", "--", *script())
    assert drilled.code == 0
    assert "RESUMABLE_EVERY__STEPS" in drilled.out
    assert drilled.lines[-1].startswith("bit-exact")


@pytest.mark.parametrize(
    ("body", "before", "message", "hint"),
    [
        ("1 / 0", "", "failed in the undisturbed run: exit code 1", "make it run to its end"),
        ("break", "", "is unfinished at step", "trainer.stop()"),
        ("pass", "raise SystemExit", "wrote no run", "resumable.Trainer"),
    ],
)
def test_what_cannot_be_drilled_is_said(
    script: Script, tmp_path: Path, cli: Cli, body: str, before: str, message: str, hint: str
) -> None:
    failed = cli("drill", "--quiet", "--keep", tmp_path / "kept", "--", *script(before=before, body=body))
    assert failed.code == 1
    assert f"error: {message}" in failed.err or message in failed.err
    assert hint in failed.err.split("hint: ")[1]


def test_the_arguments_of_the_command_are_its_own(cli: Cli) -> None:
    failed = cli(
        "drill", "-q", sys.executable, "-c", "import sys; sys.exit(sys.argv[1:] != ['--kills', '9'])", "--kills", "9"
    )
    assert "wrote no run" in failed.err  # so it ended with 0
    assert "kept in" not in failed.err  # there was nothing to keep


def test_a_command_that_is_not_there_is_said(cli: Cli, tmp_path: Path) -> None:
    failed = cli("drill", "--keep", tmp_path / "kept", "--", "no-such-program")
    assert failed.code == 1
    assert "cannot run 'no-such-program'" in failed.err


def test_a_folder_that_holds_something_is_not_used(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    assert cli("drill", "--keep", tmp_path, "--", "true").code == 2


def test_kills_are_drawn_in_order_of_steps_every_third_in_a_save() -> None:
    kills = draw_kills(count=9, seed=3, steps=100, step_seconds=0.5)
    assert [kill.step for kill in kills] == sorted(kill.step for kill in kills)
    assert sum(kill.point in SAVE_POINTS for kill in kills) == 3
    assert all(kill.point == "step" for kill in kills if kill.point not in SAVE_POINTS)
    assert all(0 <= kill.delay_seconds <= 0.5 for kill in kills)
    assert kills == draw_kills(count=9, seed=3, steps=100, step_seconds=0.5)
    assert kills != draw_kills(count=9, seed=4, steps=100, step_seconds=0.5)


def test_more_kills_than_steps_can_be_drawn() -> None:
    assert {kill.step for kill in draw_kills(count=8, seed=0, steps=2, step_seconds=0.1)} == {1, 2}
    assert draw_kills(count=0, seed=0, steps=2, step_seconds=0.1) == []


def test_what_outlives_a_launch_is_ended_with_it() -> None:
    lines: list[str] = []
    ended = run_command(
        ["sh", "-c", "sleep 600 & echo $!; echo half\rwhole; kill -9 $$"], environment={}, show=lines.append
    )
    assert str(ended) == "signal SIGKILL"
    assert lines[1] == "whole"
    with contextlib.suppress(ProcessLookupError):
        sleeper = os.pidfd_open(int(lines[0]))
        ended_too, _, _ = select.select([sleeper], [], [], 60)
        os.close(sleeper)
        assert ended_too


def test_what_a_command_prints_neither_moves_the_cursor_nor_shows_escapes() -> None:
    bars = r"\033[1;31mred\033[0m\n\n\033[A\n\r 0%%|\r50%%|\033[A\r\n\033]0;title\a\033(Bone\ttwo\b\033[2K\n"
    lines: list[str] = []
    ended = run_command(["printf", bars], environment={}, show=lines.append)
    assert lines == ["red", "", "50%|", "one\ttwo"]
    assert ended.tail == tuple(lines)


def test_the_end_of_the_output_is_part_of_a_failure(script: Script, cli: Cli, tmp_path: Path) -> None:
    failed = cli("drill", "-q", "--keep", tmp_path / "kept", "--", *script(body="raise ValueError('a bad day')"))
    assert "  | ValueError: a bad day" in failed.err
