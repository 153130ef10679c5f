from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


def test_a_person_reads_position_lineage_objects_and_config(run: Path, cli: Cli) -> None:
    shown = cli("show", run)
    assert shown.code == 0
    assert "step 8, 2 of 2 epochs completed" in shown.out
    assert "attempt 1   began the run" in shown.out
    assert "attempt 2   resumed from step-000000004." in shown.out
    [model] = [line for line in shown.lines if line.startswith("model ")]
    assert "Sequential" in model
    assert "every.steps" in shown.out
    assert "model.safetensors" in shown.out


def test_inside_an_epoch_the_batch_is_told(run: Path, cli: Cli) -> None:
    assert "batch 2/4 of the next" in cli("show", f"{run}@2").out


def test_tensors_elements_and_bytes_are_counted_once_per_tensor(run: Path, cli: Cli) -> None:
    summary = cli("show", run, "--json").json["summary"]["model"]
    assert summary["tensors"] == 9  # two linear layers, and five of the batch norm
    assert summary["elements"] == 40 + 20 + 4 * 20 + 1 + 20 + 1
    assert summary["size_bytes"] > 4 * summary["elements"]


def test_json_is_the_manifest(run: Path, cli: Cli) -> None:
    document = cli("show", f"{run}@2", "--json").json
    assert (document["step"], document["format_version"], document["finished"]) == (2, 3, False)
    assert document["name"].startswith("step-000000002.")


def test_a_step_that_has_no_checkpoint_is_an_error_that_names_those_there_are(run: Path, cli: Cli) -> None:
    failed = cli("show", f"{run}@3")
    assert failed.code == 1
    assert "no checkpoint at step 3" in failed.err
    assert "2" in failed.err.split("hint: ")[1]
