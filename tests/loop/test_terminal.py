"""What a person sees on a terminal: the bar, the log lines above it, and the program's own bars and prints."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import track
from tqdm import tqdm

from resumable import Interrupted, Trainer
from tests.harness.screen import COLUMNS, terminal
from tests.tiny import Crash, Tiny, until_written
from tests.utils.test_events import as_in_a_new_process

EPOCHS, STEPS = 3, 12


@pytest.fixture(autouse=True)
def drawn_at_each_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the machine is."""
    monkeypatch.setattr("resumable.loop.process.progress_bar._REDRAW_SECONDS", 0.0)


def seen(run: Path, monkeypatch: pytest.MonkeyPatch, body: Callable[[Tiny, Trainer], None], **config: str) -> list[str]:
    """The lines on the terminal after a training, log lines without what differs from launch to launch."""
    monkeypatch.chdir(run.parent)
    tiny = Tiny(run.name, **config)
    with as_in_a_new_process(), terminal(monkeypatch) as shown, tiny.trainer() as trainer:
        body(tiny, trainer)
    return [" ".join(line.split()[:3]) if line.startswith("resumable:") else line for line in shown]


def saves_of(*steps: int) -> list[str]:
    return [f"resumable: SAVED step={step}" for step in steps]


def save_at_six(trainer: Trainer) -> None:
    """Log the line of a save in the middle of an epoch."""
    if trainer.step == 5:
        trainer.request_save()
    if trainer.step == 6:
        until_written()


def plain(tiny: Tiny, trainer: Trainer) -> None:
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            save_at_six(trainer)
        print("epoch", epoch)


def test_the_bar_stays_below_prints_and_log_lines_and_is_full_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, *lines, last = seen(tmp_path / "run", monkeypatch, plain)
    assert new.startswith("resumable: NEW")
    assert lines == [*saves_of(0), "epoch 0", *saves_of(6), "epoch 1", "epoch 2", *saves_of(STEPS)]
    assert last.startswith(f"epoch {EPOCHS}/{EPOCHS} step {STEPS}/{STEPS} ━━━━━━━━━━ 0:00:0")
    assert last.endswith("· new run")


def test_a_log_line_is_not_wrapped_by_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal continues a line that is too long, without regard to words, so that it stays one line to copy."""
    words = " ".join(["words"] * 60)

    def body(tiny: Tiny, trainer: Trainer) -> None:
        for _ in trainer.steps(2):
            print(words, file=sys.stderr)

    lines = seen(tmp_path / "run", monkeypatch, body)
    assert words[:COLUMNS].rstrip() in lines
    assert words[COLUMNS:].lstrip() in lines


@pytest.mark.parametrize("progress", ["auto", "never"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_bar_of_tqdm_is_the_only_one_and_log_lines_stand_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: str, kept: bool
) -> None:
    """`kept`: one around the epochs, which opens before ours would."""

    def body(tiny: Tiny, trainer: Trainer) -> None:
        epochs = trainer.epochs(EPOCHS)
        for _ in tqdm(epochs, mininterval=0) if kept else epochs:
            for batch in trainer.batches(tiny.loader) if kept else tqdm(trainer.batches(tiny.loader), mininterval=0):
                tiny.step(batch)
                save_at_six(trainer)

    new, *lines = seen(tmp_path / "run", monkeypatch, body, progress=progress)
    assert new.startswith("resumable: NEW")
    bars = [f"{EPOCHS}/{EPOCHS}"] if kept else ["4/4"] * EPOCHS
    assert [line.split("[")[0].split()[-1] if "%|" in line else line for line in lines] == (
        [*saves_of(0, 6, STEPS), *bars] if kept else [*saves_of(0), bars[0], *saves_of(6), *bars[1:], *saves_of(STEPS)]
    )


def test_a_bar_of_the_program_in_the_middle_of_a_step_has_the_line_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is drawn before it and behind it."""

    def body(tiny: Tiny, trainer: Trainer) -> None:
        for step in trainer.steps(4):
            if step == 1:
                list(tqdm(range(50), mininterval=0))
            if step == 2:
                list(track(range(50)))

    _, _, bar, of_rich, _, ours = seen(tmp_path / "run", monkeypatch, body)
    assert bar.startswith("100%|")
    assert of_rich.startswith("Working... ━")
    assert ours.startswith("step 4/4")


@pytest.mark.parametrize("crash", [False, True])
def test_the_bar_goes_where_a_signal_or_an_error_leaves_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: bool
) -> None:
    def body(tiny: Tiny, trainer: Trainer) -> None:
        with contextlib.suppress(Crash, Interrupted):
            for step in trainer.steps(9):
                if step == 5 and crash:
                    raise Crash
                if step == 5:
                    os.kill(os.getpid(), signal.SIGINT)
        print("behind the loop")

    _, *lines = seen(tmp_path / "run", monkeypatch, body)
    said = [*saves_of(0), "resumable: WARN run:"] if crash else [*saves_of(0, 6), "resumable: PREEMPT signal=SIGINT"]
    assert lines == [*said, "behind the loop"]


def test_streams_are_the_programs_own_again_behind_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch), Tiny(tmp_path / "run").trainer() as trainer:
        own = sys.stdout, sys.stderr
        for _ in trainer.steps(3):
            assert sys.stdout is not own[0]
            assert sys.stdout.isatty()
        assert sys.stdout is own[0]
        assert sys.stderr is own[1]
