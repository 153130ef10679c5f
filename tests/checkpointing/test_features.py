"""What a reader must know of a checkpoint is announced by name, and only where the checkpoint has it."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from resumable import FormatVersionError, Run
from resumable.store.documents import parse_documents
from tests.tiny import Tiny


def trained(run: Path, **more: Any) -> list[list[str]]:
    """The features of all checkpoints of a short training with these objects."""
    tiny = Tiny(run, keep={"last": 9})
    with tiny.trainer(**more) as trainer:
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            tiny.ends(trainer)
            for value in more.values():
                if isinstance(value, list) and value:
                    value.pop()
    return [checkpoint.manifest.features for checkpoint in Run(str(run)).checkpoints()]


def test_a_plain_run_needs_no_reader_of_its_own(tmp_path: Path) -> None:
    assert not any(trained(tmp_path / "run", values={"best": 1.0}, more=[1, 2]))


def test_each_part_is_announced(tmp_path: Path) -> None:
    for name, given, features in (
        ("deque", {"x": {"deep": collections.deque([1])}}, ["containers"]),
        ("parts", {"nets": [nn.Linear(1, 1)]}, ["parts"]),  # also when the list has lost the object
        ("both", {"nets": (nn.Linear(1, 1), collections.deque([1]))}, ["containers", "parts"]),
    ):
        found = trained(tmp_path / name, **given)
        assert found
        assert all(each == features for each in found)


def test_a_program_without_the_part_refuses_the_run_and_claims_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run", nets=[nn.Linear(1, 1)])
    before = sorted((tmp_path / "run").rglob("*"))
    monkeypatch.setattr(parse_documents, "KNOWN_FEATURES", frozenset({"containers"}))  # as an earlier version
    with pytest.raises(FormatVersionError, match="uses the feature parts of the format") as caught:
        Tiny(tmp_path / "run").trainer(nets=[nn.Linear(1, 1)])
    assert "upgrade" in str(caught.value.hint)
    assert sorted((tmp_path / "run").rglob("*")) == before
