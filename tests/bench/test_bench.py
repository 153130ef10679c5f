"""The benchmark runs through and says all that it should; how fast anything is is asserted nowhere."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import FIGURES
from tests.bench.contestants import CONTESTANTS, EAGER
from tests.bench.others import fitted
from tests.bench.report import FORMAT
from tests.bench.targets import TARGETS, Target, judge
from tests.bench.timing import Summary, ratio, rounds


def measured(folder: Path, *options: str) -> Mapping[str, Any]:
    """The JSON of one run of the command, which must end well and leave nothing behind."""
    written, work = folder / "found.json", folder / "work"
    command = [sys.executable, "-m", "tests.bench", *options, "--json", str(written), "--folder", str(work)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(work.iterdir()) == []
    document: Mapping[str, Any] = json.loads(written.read_text("utf-8"))
    return document


def refuse_incomplete(document: Mapping[str, Any], *, pairs: int) -> None:
    """What every reader of the JSON may count on."""
    assert document["format"] == FORMAT
    assert {"cores", "memory_bytes", "file_system", "kernel", "versions", "commit", "training_threads"} <= set(
        document["machine"]
    )
    for result in document["results"]:
        if "failed" in result:
            assert result["failed"].startswith("not there yet")
            continue
        assert result["samples"]
        for measures in result["samples"].values():
            for what, samples in measures.items():
                assert samples, (result["figure"], what)
                assert all(math.isfinite(sample) for sample in samples), (result["figure"], what)
        if result["figure"].startswith(("save", "train-kept")):
            assert all(
                len(samples) == pairs
                for who in result["samples"]
                if who in CONTESTANTS
                for samples in result["samples"][who].values()
            )
    for target in document["targets"]:
        assert target["met"] in (True, False, None)
        assert (target["ratio"] is None) == bool(target["why"])


@pytest.mark.timeout(300)
def test_every_contestant_saves_and_is_counted_in_a_tiny_run(tmp_path: Path) -> None:
    options = ("--size", "2MB", "--pairs", "1", "--threads", "1")
    document = measured(tmp_path, *options, "--only", "save", "--only", "train-kept")
    refuse_incomplete(document, pairs=1)
    saving = [result for result in document["results"] if result["figure"].startswith("save")]
    assert {who for result in saving for who in result["samples"]} >= set(CONTESTANTS)
    assert all(result["absent"] == {} for result in document["results"])
    assert {target["says"] for target in document["targets"]} == {
        target.says for target in TARGETS if target.figure.startswith("save") or target.figure == "train-kept"
    }


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_the_quick_benchmark_runs_through_all_figures(tmp_path: Path) -> None:
    document = measured(tmp_path, "--quick", "--threads", "1")
    refuse_incomplete(document, pairs=2)
    assert [result["figure"] for result in document["results"]] == [
        figure.name for figure in FIGURES if figure.fits("120MB", ["120MB"])
    ]


def test_each_target_names_a_figure_that_is_measured() -> None:
    assert {target.figure for target in TARGETS} <= {figure.name for figure in FIGURES}


def test_who_comes_first_changes_from_round_to_round() -> None:
    assert list(rounds("abc", 4)) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_pairs() -> None:
    found = ratio([1.0, 2.0, 30.0], [2.0, 4.0, 10.0])
    assert (found.median, found.count) == (0.5, 3)
    assert (found.low, found.high) == (0.5, 1.75)


def test_nothing_can_be_held_to_what_took_no_time() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        ratio([1.0], [0.0])


def test_a_summary_of_one_sample_is_that_sample() -> None:
    assert Summary.of([3.0]) == Summary(3.0, 3.0, 3.0, 1)


def test_a_contestant_that_could_not_run_leaves_its_reason_in_the_target() -> None:
    target = Target("stall", "save-kept", "stall_seconds", EAGER, 1.15, "memcpy", "seconds")
    result = {"samples": {"memcpy": {"seconds": [1.0]}}, "absent": {EAGER: "ImportError: gone"}}
    verdict = judge(target, {"save-kept": result})
    assert (verdict.found, verdict.met, verdict.why) == (None, None, "ImportError: gone")


def test_a_target_is_met_up_to_its_bound() -> None:
    target = Target("memory", "memory", "peak_states", EAGER, 1.05)
    for value, met in ((1.05, True), (1.06, False)):
        assert judge(target, {"memory": {"samples": {EAGER: {"peak_states": [value]}}, "absent": {}}}).met is met


def test_a_nested_answer_becomes_samples_by_who_and_what() -> None:
    found = fitted({"state_bytes": 7, "cold": {"resumable": {"seconds": [1, 2]}}, "requests_count": 5, "note": "hello"})
    assert found.samples == {
        "cold · resumable": {"seconds": [1.0, 2.0]},
        "resumable": {"requests_count": [5.0]},
    }
    assert (found.state_bytes, found.notes) == (7, ["note: hello"])
