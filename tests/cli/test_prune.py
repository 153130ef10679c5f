from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from resumable.store.attempts import lock_run
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.retry import PatientStorage
from tests.cli.conftest import Cli, flip_a_bit, newest
from tests.tiny import steps_of


def test_without_options_the_config_of_the_run_decides(run: Path, cli: Cli) -> None:
    before = steps_of(run)
    pruned = cli("prune", run)  # it says: keep the last 100
    assert pruned.code == 0
    assert steps_of(run) == before
    assert pruned.lines[-1].startswith(f"{len(before)} kept, 0 deleted")


def test_keep_last_leaves_the_newest_and_the_best(run: Path, cli: Cli) -> None:
    best = cli("show", f"{run}@best", "--json").json["name"]
    latest = cli("show", f"{run}@latest", "--json").json["name"]
    pruned = cli("prune", run, "--keep-last", 1, "--json").json
    assert set(pruned["kept"]) == {best, latest}
    assert pruned["freed_bytes"] == sum(each["size_bytes"] for each in pruned["deleted"]) > 0
    assert {folder.name for folder in (run / "checkpoints").iterdir()} == {best, latest}


def test_keep_every_leaves_milestones(run: Path, cli: Cli) -> None:
    cli("prune", run, "--keep-last", 1, "--keep-every", 2)
    assert {2, 4, 6, 8} <= set(steps_of(run))
    assert 0 not in steps_of(run)


def test_a_dry_run_deletes_nothing_and_says_the_same(run: Path, cli: Cli) -> None:
    before = steps_of(run)
    planned = cli("prune", run, "--keep-last", 1, "--dry-run", "--json").json
    assert steps_of(run) == before
    done = cli("prune", run, "--keep-last", 1, "--json").json
    assert planned == {**done, "dry_run": True}
    assert "would be deleted" in cli("prune", run, "--dry-run").out


def test_a_run_that_a_job_is_using_is_refused_untouched(run: Path, cli: Cli) -> None:
    before = steps_of(run)
    unlock = lock_run(open_storage(str(run)))
    try:
        failed = cli("prune", run, "--keep-last", 1)
    finally:
        unlock()
    assert failed.code == 1
    assert "another job is using this run" in failed.err
    assert steps_of(run) == before
    assert cli("prune", run, "--keep-last", 1).code == 0


def test_a_copy_without_attempts_is_refused(run: Path, cli: Cli) -> None:
    for file in (run / "attempts").iterdir():
        file.unlink()
    failed = cli("prune", run, "--keep-last", 1)
    assert failed.code == 1
    assert "no folder attempts/" in failed.err


def test_keeping_none_is_a_usage_error(run: Path, cli: Cli) -> None:
    assert cli("prune", run, "--keep-last", 0).code == 2


def test_nothing_is_deleted_while_what_would_stay_as_the_newest_is_damaged(run: Path, cli: Cli) -> None:
    flip_a_bit(newest(run) / "model.safetensors")
    before = sorted(run.rglob("*"))
    failed = cli("prune", run, "--keep-last", 1)
    assert failed.code == 1
    said = " ".join(failed.err.split())
    assert f"{newest(run).name}: it would stay as the newest, but it is damaged" in said
    assert "nothing was deleted" in said
    assert sorted(run.rglob("*")) == before


def leave(run: Path, data: bytes, *, attempt: int) -> Path:
    """What a save left that was killed before its manifest."""
    folder = run / "checkpoints" / f"step-000000300.e0000.a{attempt:04d}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_what_a_killed_save_of_an_earlier_launch_left_goes_and_its_bytes_are_counted(run: Path, cli: Cli) -> None:
    left = leave(run, bytes(12345), attempt=1)
    temporary = run / "attempts" / (".tmp-" + "a" * 16)
    temporary.write_bytes(bytes(7))
    planned = cli("prune", run, "--dry-run", "--json").json
    assert left.exists()
    done = cli("prune", run, "--json").json
    assert planned == {**done, "dry_run": True}
    assert done["deleted"] == [{"name": left.name, "size_bytes": 12345}]
    assert done["files"] == [f"attempts/{temporary.name}"]
    assert done["freed_bytes"] == 12352
    assert not left.exists()
    assert not temporary.exists()


def test_where_create_is_not_exclusive_what_was_left_stays_and_does_not_count_as_deleted(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(run, bytes(10), attempt=1)
    (run / "attempts" / (".tmp-" + "a" * 16)).write_bytes(bytes(7))
    bucket = FsspecStorage(LocalFileSystem(skip_instance_cache=True), str(run), str(run))
    monkeypatch.setattr("resumable.cli.verbs.prune.open_storage", lambda url, options: PatientStorage(bucket))
    before = sorted(run.rglob("*"))
    assert left in before
    done = cli("prune", run, "--json").json
    assert [done["deleted"], done["files"], done["freed_bytes"]] == [[], [], 0]
    assert sorted(run.rglob("*")) == before


def test_what_the_newest_launch_left_stays_until_a_newer_one_has_saved(run: Path, cli: Cli) -> None:
    left = leave(run, bytes(10), attempt=2)
    assert cli("prune", run, "--json").json["freed_bytes"] == 0
    assert left.exists()


def test_a_file_that_keeps_another_name_frees_nothing(run: Path, cli: Cli, tmp_path: Path) -> None:
    saved = [path for path in (run / "checkpoints").glob("*/model.safetensors") if path.parent != newest(run)]
    whole = cli("prune", run, "--keep-last", 1, "--dry-run", "--json").json
    going = {each["name"] for each in whole["deleted"]}
    kept_names = [path for path in saved if path.parent.name in going]
    (tmp_path / "names").mkdir()
    for number, path in enumerate(kept_names):
        (tmp_path / "names" / str(number)).hardlink_to(path)
    less = sum(path.stat().st_size for path in kept_names)
    done = cli("prune", run, "--keep-last", 1, "--json").json
    assert done["freed_bytes"] == whole["freed_bytes"] - less > 0
    assert done["deleted"] == whole["deleted"]
