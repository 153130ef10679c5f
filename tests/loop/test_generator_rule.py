"""The rule by which random generators are found stays with a run, however often it is resumed."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from resumable import Run, RunMismatchError
from resumable.data.rng.find_generators import NEWEST_RULE
from resumable.store.documents.parse_documents import parse_manifest
from tests.golden.launch import EPOCHS, Golden
from tests.tiny import Crash, Tiny, assert_equal_ends

GOLDEN = Path(__file__).parents[1] / "golden"


class Noise:
    """Collates with noise of its own; its method is found under another name by each rule."""

    def __init__(self) -> None:
        self.rng = random.Random(1)

    def collate(self, samples: list[Any]) -> list[Tensor]:
        [x] = default_collate(samples)
        return [x + self.rng.random()]


def launch(run: Path, *, crash_at: int | None = None) -> list[Any]:
    """One launch of the same small training; the batches that the whole run saw, unless it crashed."""
    tiny = Tiny(run, crash_at=crash_at, keep={"last": 100})
    tiny.loader = DataLoader(tiny.loader.dataset, batch_size=2, shuffle=True, collate_fn=Noise().collate)
    try:
        tiny.train()
    except Crash:
        return []
    seen: list[Any] = tiny.notes["seen"]
    return seen


def rules(run: Path) -> list[Any]:
    """The rule that each checkpoint names."""
    return [checkpoint.manifest.environment.get("generator_rule") for checkpoint in Run(str(run)).checkpoints()]


def name_rule(run: Path, rule: Any) -> None:
    """Let all checkpoints name this rule, or with None no rule, as those of an older version."""
    for path in run.glob("checkpoints/*/manifest.json"):
        manifest = parse_manifest(path.read_bytes())
        others = {key: value for key, value in manifest.environment.items() if key != "generator_rule"}
        named = others if rule is None else {**others, "generator_rule": rule}
        path.write_bytes(manifest.model_copy(update={"environment": named}).dump())


def begun(run: Path, *, rule: Any) -> None:
    launch(run, crash_at=1)  # of which only the checkpoint before the first step counts
    for later in sorted(run.glob("checkpoints/*"))[1:]:
        shutil.rmtree(later)
    name_rule(run, rule)


def test_a_new_run_names_the_newest_rule_in_each_checkpoint(tmp_path: Path) -> None:
    launch(tmp_path / "run", crash_at=4)
    launch(tmp_path / "run")
    assert set(rules(tmp_path / "run")) == {NEWEST_RULE}


def test_a_run_that_began_by_the_first_rule_draws_by_it_to_its_end(tmp_path: Path) -> None:
    begun(tmp_path / "whole", rule=None)
    whole = launch(tmp_path / "whole")
    begun(tmp_path / "run", rule=None)
    for crash_at in (3, 5, 7):
        launch(tmp_path / "run", crash_at=crash_at)
    assert launch(tmp_path / "run") == whole
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
    assert rules(tmp_path / "run")[1:] == [1] * (len(rules(tmp_path / "run")) - 1)
    assert launch(tmp_path / "new") != whole


def test_a_copy_of_a_run_keeps_its_rule(tmp_path: Path) -> None:
    begun(tmp_path / "run", rule=None)
    launch(tmp_path / "run", crash_at=4)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert launch(tmp_path / "run") == launch(tmp_path / "copy")
    assert set(rules(tmp_path / "copy")[1:]) == {1}


@pytest.mark.parametrize(("version", "rule"), [("v2", 1), ("v3", 2)])
def test_a_run_of_an_older_version_goes_on_by_its_rule(
    version: str, rule: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(GOLDEN / version / "run", tmp_path / "run"))
    with caplog.at_level(logging.INFO, "resumable"):
        for more in (1, 2):
            Golden(run).train(EPOCHS + more)
    added = [checkpoint for checkpoint in Run(str(run)).checkpoints() if checkpoint.manifest.attempt > 2]
    assert [checkpoint.manifest.environment["generator_rule"] for checkpoint in added] == [rule] * len(added)
    changed = [record.getMessage() for record in caplog.records if "CHANGED" in record.getMessage()]
    assert not any("generator_rule" in line for line in changed)


@pytest.mark.parametrize("rule", [NEWEST_RULE + 1, 0, True, "2", None, [2]], ids=repr)
def test_a_rule_that_is_not_known_is_refused(rule: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(run, crash_at=4)
    for path in run.glob("checkpoints/*/manifest.json"):
        manifest = parse_manifest(path.read_bytes())
        unknown = {**manifest.environment, "generator_rule": rule}
        path.write_bytes(manifest.model_copy(update={"environment": unknown}).dump())
    before = sorted(run.rglob("*"))
    with pytest.raises(RunMismatchError, match="finds random generators by rule") as caught:
        launch(run)
    assert caught.value.hint == "upgrade resumable: a newer version wrote this run"
    assert sorted(run.rglob("*")) == before
