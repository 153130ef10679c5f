"""Every form of a configuration through a real training: a URL, a YAML file, a `Config`, and a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from resumable import Config, Run
from resumable.transformers import Resume
from tests.faults.servers import shared_moto
from tests.harness.place import Launch, continue_each_other, killed
from tests.huggingface.launches import EVERY_STEPS, Place
from tests.huggingface.programs import Crashing, Points, trainer
from tests.lab.compare import differences
from tests.tiny import Crash

EVERY: dict[str, Any] = {"every": {"steps": EVERY_STEPS, "minutes": None}, "keep": {"best": None}, "data_seed": 0}


def written(folder: Path, name: str, config: dict[str, Any]) -> str:
    """Return the path of a YAML file with this configuration."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return str(path)


@pytest.mark.parametrize("form", ["URL", "YAML", "Config"])
def test_a_crashed_training_is_resumed_by_each_form(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a URL alone, the environment says how often to save."""
    if form == "URL":
        monkeypatch.setenv("RESUMABLE_EVERY__STEPS", str(EVERY_STEPS))
        monkeypatch.setenv("RESUMABLE_DATA_SEED", "0")

    def train(run: str, update: int = 0) -> list[list[float]]:
        config = EVERY | {"run": f"memory://{tmp_path}/{run}"}
        forms = {"URL": config["run"], "YAML": written(tmp_path, run, config), "Config": Config.load(config)}
        training = trainer([Resume(forms[form]), Crashing(update)], Points(), output_dir=str(tmp_path / "hf"))
        training.train()
        return [parameter.tolist() for parameter in training.model.parameters()]

    with pytest.raises(Crash):
        train("run", 5)
    assert Run(f"memory://{tmp_path}/run").latest().step == 4
    assert train("run") == train("whole")
    assert Run(f"memory://{tmp_path}/run").latest().manifest.attempt == 2


def test_a_run_on_a_server_is_killed_and_resumed(tmp_path: Path) -> None:
    server = shared_moto()
    place, storage = Place(tmp_path, "tests.huggingface.programs:points"), server.options()
    bucket = server.new_bucket()

    def launch(name: str, launch: Launch) -> Any:
        config = written(tmp_path, name, EVERY | {"run": f"s3://{bucket}/{name}", "storage_options": storage})
        return place.launch(Launch(launch.kill, launch.saved, launch.options | {"config": config}))

    whole = launch("whole", Launch())
    ended = [launch("run", each) for each in (killed("batch:7", saved=6), Launch())]
    assert [each.resumed_from for each in ended] == [None, 6]
    continue_each_other(ended, whole)
    runs = [Run(f"s3://{bucket}/{name}", storage_options=storage) for name in ("run", "whole")]
    found = [line for line in differences(*runs) if not Place.ignored.match(line)]
    assert [line.split(":")[0] for line in found] == [".state.objects.huggingface.beside.run"]
