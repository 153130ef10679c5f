from __future__ import annotations

from pathlib import Path

import pytest

from resumable.store.catalog import Catalog
from tests.cli.conftest import Cli, newest


def flags(cli: Cli, run: Path) -> dict[int, list[str]]:
    return {c["step"]: c["flags"] for c in cli("ls", run, "--json").json["checkpoints"]}


def test_a_pinned_checkpoint_is_shown_and_outlives_a_prune(run: Path, cli: Cli) -> None:
    pinned = cli("pin", f"{run}@4")
    assert (pinned.code, pinned.out) == (0, "pinned step-000000004.e0000.a0001\n")
    assert "pinned" in flags(cli, run)[4]
    assert any("pinned" in line for line in cli("ls", run).lines)
    assert cli("prune", run, "--keep-last", "1").code == 0
    assert 4 in flags(cli, run)


def test_an_unpinned_one_does_not(run: Path, cli: Cli) -> None:
    cli("pin", f"{run}@4")
    document = cli("pin", f"{run}@4", "--remove", "--json").json
    assert document == {"run": str(run), "name": "step-000000004.e0000.a0001", "pinned": False}
    assert cli("prune", run, "--keep-last", "1").code == 0
    assert 4 not in flags(cli, run)


def test_without_a_selector_the_newest_is_pinned(run: Path, cli: Cli) -> None:
    assert cli("pin", run, "--json").json["name"] == newest(run).name


def test_one_that_is_not_there_cannot_be_pinned(run: Path, cli: Cli) -> None:
    failed = cli("pin", f"{run}@5")
    assert failed.code == 1
    assert "no checkpoint at step 5" in failed.err
    assert not (run / "pins").exists()


def test_one_that_is_pruned_at_this_moment_is_told_and_not_left_pinned(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = newest(run)
    manifest = Catalog.manifest

    def pruned_now(self: Catalog, name: object) -> object:
        if (run / "pins" / str(name)).exists():
            (target / "manifest.json").unlink(missing_ok=True)
        return manifest(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalog, "manifest", pruned_now)
    failed = cli("pin", run)
    assert failed.code == 1
    assert "was pruned at this moment" in failed.err
    assert list((run / "pins").iterdir()) == []
