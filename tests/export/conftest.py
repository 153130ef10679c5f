"""What the tests of exports share: runs that were trained, and artifacts made of them once, to be copied and spoilt."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from resumable.export import Exported, export
from tests.export.models import SMALL, Case, trained
from tests.harness.python import warm_python


@dataclass(frozen=True)
class Trained:
    """A run of one case, and the live model at its end."""

    run: Path
    case: Case
    model: nn.Module


Train = Callable[[Case], Trained]
Artifact = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _interpreters_start_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks of exports start in no time; those of tests/cli start as a user's do."""
    monkeypatch.setattr(sys, "executable", warm_python())


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """The run of a case; trained when it is first asked for, and never to be changed."""

    @functools.cache
    def once(case: Case) -> Trained:
        run = tmp_path_factory.mktemp(case.build.__name__) / "run"
        return Trained(run, case, trained(run, case))

    return once


@pytest.fixture(scope="session")
def small(train: Train) -> Trained:
    """The run for tests that are not about the model."""
    return train(SMALL)


@pytest.fixture(scope="session")
def exported(small: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """`small` as it is published in a format; made once, and never to be changed."""

    @functools.cache
    def once(format: str) -> Exported:
        return exported_as(small, tmp_path_factory.mktemp("exported") / format, format)

    return once


@pytest.fixture
def artifact(exported: Callable[[str], Exported], tmp_path: Path) -> Artifact:
    """A copy of what is published in a format, which a test may spoil."""

    def copy(format: str) -> Path:
        return Path(shutil.copytree(exported(format).folder, tmp_path / f"copy-{format}"))

    return copy


def exported_as(trained: Trained, to: Path, format: str, **more: object) -> Exported:
    """Export the newest checkpoint; a program with its case's function and batch."""
    if format != "safetensors":
        more = {"model": trained.case.factory, "golden": trained.case.batch(), **more}
    return export(str(trained.run), to, format=format, **more)  # type: ignore[arg-type]
