from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli, flip_a_bit, newest


def test_a_sound_run_is_told_so_checkpoint_by_checkpoint(run: Path, cli: Cli) -> None:
    verified = cli("verify", run)
    assert verified.code == 0
    assert len([line for line in verified.lines if line.startswith("step-")]) == len(
        list((run / "checkpoints").iterdir())
    )
    assert verified.lines[-1].endswith("every byte as it was written")


def test_a_flipped_bit_is_found_named_and_exits_with_1(run: Path, cli: Cli) -> None:
    flip_a_bit(newest(run) / "optimizer.safetensors")
    verified = cli("verify", run)
    assert verified.code == 1
    [row] = [line for line in verified.lines if line.startswith(newest(run).name)]
    assert "bad" in row
    assert "optimizer.safetensors: digest differs" in row


def test_an_older_damaged_checkpoint_is_found_too(run: Path, cli: Cli) -> None:
    [second] = (run / "checkpoints").glob("step-000000002.*")
    (second / "manifest.json").write_bytes(b"{}")
    verified = cli("verify", run, "--json")
    assert verified.code == 1
    bad = [each for each in verified.json["checkpoints"] if each["verdict"] == "bad"]
    assert [each["name"] for each in bad] == [second.name]
    assert verified.json["ok"] is False


def test_a_selector_limits_it_to_that_checkpoint_also_when_it_cannot_be_read(run: Path, cli: Cli) -> None:
    [second] = (run / "checkpoints").glob("step-000000002.*")
    (second / "model.safetensors").unlink()
    assert cli("verify", f"{run}@latest").code == cli("verify", f"{run}@finite").code == 0
    failed = cli("verify", f"{run}@2", "--json")
    assert failed.code == 1
    assert [each["name"] for each in failed.json["checkpoints"]] == [second.name]


def test_a_save_that_never_finished_is_no_damage(run: Path, cli: Cli) -> None:
    (newest(run) / "manifest.json").unlink()
    verified = cli("verify", run, "--json")
    assert verified.code == 0
    assert verified.json["checkpoints"][-1]["verdict"] == "unfinished"


def test_the_folder_of_a_checkpoint_names_it(run: Path, cli: Cli) -> None:
    [second] = (run / "checkpoints").glob("step-000000002.*")
    verified = cli("verify", f"{second}/", "--json")
    assert [each["name"] for each in verified.json["checkpoints"]] == [second.name]
    assert cli("show", second, "--json").json["name"] == second.name
    assert cli("diff", second, f"{run}@2").code == 0
    assert cli("pin", second, "--json").json == {"run": str(run), "name": second.name, "pinned": True}


def test_a_folder_of_files_may_be_an_export_without_its_proof(tmp_path: Path, cli: Cli) -> None:
    assert "proof" not in cli("verify", tmp_path).err
    (tmp_path / "model.safetensors").touch()
    failed = cli("verify", tmp_path)
    assert failed.code == 1
    assert "no checkpoints here" in failed.err
    assert "An exported model is proved only beside its proof.json." in failed.err


def test_a_step_that_was_never_saved_is_an_error(run: Path, cli: Cli) -> None:
    assert cli("verify", f"{run}@12345").code == 1
