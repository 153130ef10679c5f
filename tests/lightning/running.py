"""Launches cases of Lightning in forks, kills and reruns them, and compares. Independent of any case.

Interrupted and uninterrupted runs of a case live at the same path, one after the other, so that nothing but bits can
tell them apart.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resumable import Run
from tests.harness.alarms import alarms_in
from tests.harness.lines import assert_continue_each_other, resumed_from
from tests.lab.compare import differences
from tests.lightning.server import shared_lightning

PREEMPTED = 75


@dataclass(frozen=True)
class Ended:
    """What one launch left: its lines in the notes, what it printed, and, of one that came to its end, digests."""

    notes: list[str]
    output: str
    end: dict[str, str]

    @property
    def resumed_from(self) -> int | None:
        """The step of the checkpoint that it went on from."""
        return resumed_from(self.output)


class Bench:
    """All runs of one case, one after the other at one path."""

    def __init__(self, folder: Path, case: str) -> None:
        self.folder, self.case = folder, case
        self.folder.mkdir(parents=True)
        self._kept = 0

    @functools.cached_property
    def whole(self) -> Ended:
        """The uninterrupted run, made once."""
        with self.afresh("whole"):
            return self.launch()

    @contextlib.contextmanager
    def afresh(self, name: str) -> Iterator[Path]:
        """An empty folder for a run, which is kept under that name afterwards."""
        here = self.folder / "here"
        try:
            yield here
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a try that failed
            here.rename(self.folder / name)

    def launch(self, *options: str, exit: int = 0) -> Ended:
        """Launch once, and assert that it ended as it was meant to."""
        self._kept += 1
        here, out = self.folder / "here", self.folder / f"{self._kept:02}.out"
        before = len(_lines(here / "notes"))
        code = shared_lightning().launch(
            "tests.lightning.script:main", out=out, arguments=[self.case, str(here), *options]
        )
        output = out.read_text("utf-8", "replace")
        assert code == exit, f"{self.case} {' '.join(options)} ended with {code}, not {exit}:\n{output}"
        assert alarms_in(output) == [], "nothing is missing in these cases"
        end = json.loads((here / "end.json").read_text("utf-8")) if exit == 0 else {}
        return Ended(_lines(here / "notes")[before:], output, end)

    def crash_and_rerun(self, *places: str) -> list[Ended]:
        """Let launches die at those places, one after the other, and then one live; assert that all is as if none had.

        Compared are everything that each launch noted, the digests of the end, and the last checkpoints, bit for bit.
        """
        whole = self.whole
        with self.afresh(f"{self._kept:02}") as here:
            ended = [self.launch("--kill-at", place, exit=_exit_of(place)) for place in places]
            ended.append(self.launch())
            for launch in ended[1:]:
                assert launch.resumed_from, f"a launch did not resume behind step 0:\n{launch.output}"
            assert_continue_each_other([launch.notes for launch in ended], whole.notes)
            assert_equal_ends(ended[-1].end, whole.end)
            found = differences(Run(str(here / "run")), Run(str(self.folder / "whole" / "run")))
            assert not found, "\n".join(found[:20])
        return ended


def _exit_of(place: str) -> int:
    return PREEMPTED if place.endswith("!SIGTERM") else -signal.SIGKILL


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def assert_equal_ends(found: dict[str, str], expected: dict[str, str]) -> None:
    """The same names in the same order, with the same digests; the first that differ are named."""
    different = [
        f"{key}: {found.get(key)}, expected {expected.get(key)}"
        for key in {**expected, **found}
        if found.get(key) != expected.get(key)
    ]
    assert not different, f"{len(different)} differ: " + "\n".join(different[:12])
