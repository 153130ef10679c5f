"""What reads runs starts without torch: real programs for which importing it is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import resumable
from resumable.store.documents.manifest import BlobRecord
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.storage.local import LocalStorage
from tests.store.building import STATE, launch, manifest

ROOT = Path(resumable.__file__).parent.parent
CHECKPOINTS = 1000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a thousand checkpoints without blobs."""
    folder = tmp_path_factory.mktemp("many") / "run"
    attempt = launch(LocalStorage(folder))
    for number in range(CHECKPOINTS):
        name = CheckpointName(500 * number, number // 4, attempt.number)
        path = folder / checkpoint_path(name, "manifest.json")
        path.parent.mkdir(parents=True)
        facts = {"metrics": {"val_loss": 1 / (number + 1)}, "config": {"keep": {"best": {"metric": "val_loss"}}}}
        state = checkpoint_path(name, "state.rank00000.json")
        path.with_name("state.rank00000.json").write_bytes(STATE)
        blob = BlobRecord(path=state, rank=0, size=len(STATE), named=1, digest=digest(STATE))
        path.write_bytes(manifest(name, {"state.rank00000.json": blob}, attempt, **facts).dump())
    return folder


@pytest.fixture(scope="module")
def torchless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `import torch` fails."""
    folder = tmp_path_factory.mktemp("torchless")
    (folder / "torch.py").write_text('raise AssertionError("torch was imported")\n')
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "100"}


def python(environment: dict[str, str], *arguments: str) -> str:
    ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_environment_of_these_tests_has_no_torch(torchless: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="torch was imported"):
        python(torchless, "-c", "from resumable import Trainer")


def test_importing_the_package_imports_nothing_heavy(torchless: dict[str, str]) -> None:
    script = "import resumable, sys; print({'numpy', 'fsspec', 'pydantic', 'yaml', 'rich'} & set(sys.modules))"
    assert python(torchless, "-c", script) == "set()\n"


@pytest.mark.parametrize("name", ["Config", "Run", "Checkpoint", "Stateful", "StorageError", "Preempted"])
def test_these_public_names_need_no_torch(torchless: dict[str, str], name: str) -> None:
    assert python(torchless, "-c", f"from resumable import {name}; print({name}.__name__)") == f"{name}\n"


def test_a_thousand_checkpoints_are_read_without_torch(torchless: dict[str, str], run: Path) -> None:
    script = f"from resumable import Run; r = Run({str(run)!r}); print(len(r.checkpoints()), r.best().step)"
    assert python(torchless, "-c", script) == f"{CHECKPOINTS} {500 * (CHECKPOINTS - 1)}\n"


def test_a_thousand_checkpoints_are_listed_without_torch(torchless: dict[str, str], run: Path) -> None:
    listed = json.loads(python(torchless, "-m", "resumable", "ls", "--json", str(run)))
    assert [each["step"] for each in listed["checkpoints"]] == [500 * number for number in range(CHECKPOINTS)]
    shown = python(torchless, "-m", "resumable", "ls", str(run))
    assert "499500" in shown


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_other_verbs_that_compare_no_tensors_need_no_torch(torchless: dict[str, str], run: Path, verb: str) -> None:
    assert python(torchless, "-m", "resumable", verb, "--json", f"{run}@latest")


def test_each_verb_imports_no_other_and_the_config_only_where_it_is_needed(
    torchless: dict[str, str], run: Path
) -> None:
    script = """
import sys
from resumable.cli import app
try:
    app(["ls", "--json", sys.argv[1]])
except SystemExit:
    pass
heavy = {"numpy", "fsspec", "yaml", "asyncio", "pydantic_settings"}
heavy |= {"resumable.config.config", "resumable.cli.checkpoint_diff"}
print("\\nimported:", sorted(heavy & set(sys.modules)))
"""
    assert python(torchless, "-c", script, str(run)).splitlines()[-1] == "imported: []"
