from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli, newest


def test_checkpoints_are_listed_oldest_first_with_position_and_flags(run: Path, cli: Cli) -> None:
    listed = cli("ls", run)
    assert listed.code == 0
    header, *rows = listed.lines
    assert header.split()[:4] == ["step", "epoch", "batch", "metrics"]
    assert [int(row.split()[0]) for row in rows] == sorted(int(row.split()[0]) for row in rows)
    assert rows[0].split()[:2] == ["0", "0"]
    assert rows[-1].endswith("latest finished") or rows[-1].endswith("latest best finished")
    assert any(" 2/4 " in row for row in rows)


def test_where_an_attempt_resumed_is_said_once_at_its_first_checkpoint(run: Path, cli: Cli) -> None:
    rows = [row for row in cli("ls", run).lines if "of attempt 1" in row]
    assert len(rows) == 1
    assert "4 of attempt 1" in rows[0]


def test_json_has_the_documented_keys_and_real_numbers(run: Path, cli: Cli) -> None:
    document = cli("ls", run, "--json").json
    assert set(document) == {"run", "checkpoints", "rejected"}
    first, last = document["checkpoints"][0], document["checkpoints"][-1]
    assert first["step"] == 0
    assert first["resumed_from"] is None
    assert last["resumed_from"].startswith("step-000000004.")
    assert {"latest", "finished"} <= set(last["flags"])
    assert last["metrics"]["loss"] > 0
    assert last["size_bytes"] > 100
    assert sum("best" in checkpoint["flags"] for checkpoint in document["checkpoints"]) == 1


def test_best_is_the_one_that_at_best_names(run: Path, cli: Cli) -> None:
    flagged = [c["name"] for c in cli("ls", run, "--json").json["checkpoints"] if "best" in c["flags"]]
    assert flagged == [cli("show", f"{run}@best", "--json").json["name"]]


def test_a_rejected_checkpoint_is_listed_below_with_the_reason(run: Path, cli: Cli) -> None:
    (newest(run) / "model.safetensors").unlink()
    listed = cli("ls", run)
    assert listed.code == 0
    assert listed.lines[-1] == f"rejected {newest(run).name}: model.safetensors: missing"
    assert cli("ls", run, "--json").json["rejected"] == [
        {"name": newest(run).name, "reason": "model.safetensors: missing"}
    ]


def test_no_run_is_an_error_with_a_hint_on_stderr(tmp_path: Path, cli: Cli) -> None:
    failed = cli("ls", tmp_path / "nothing")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("error: ")
    assert "\nhint: " in failed.err


def test_a_folder_of_runs_names_them(run: Path, cli: Cli) -> None:
    failed = cli("ls", run.parent)
    assert failed.code == 1
    assert f"hint: name one of them: {run}\n" in failed.err


def test_a_selector_is_a_usage_error_because_ls_is_about_the_whole_run(run: Path, cli: Cli) -> None:
    failed = cli("ls", f"{run}@latest")
    assert failed.code == 2
    assert "without @latest" in failed.err


def test_storage_options_that_are_no_json_object_are_a_usage_error(run: Path, cli: Cli) -> None:
    assert cli("ls", run, "--storage-options", "{").code == 2
    assert cli("ls", run, "--storage-options", "[1]").code == 2
    assert cli("ls", run, "--storage-options", '{"auto_mkdir": true}').code == 0
