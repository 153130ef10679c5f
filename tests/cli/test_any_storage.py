"""Every verb that reads a run, on a storage that is no folder."""

from __future__ import annotations

from tests.cli.conftest import KEEP_ALL, Cli
from tests.tiny import Tiny

URL = "memory://tests-cli/run"


def test_every_verb_works_on_a_url(cli: Cli) -> None:
    Tiny(URL, keep=KEEP_ALL).train()
    assert cli("ls", URL).lines[-1].endswith("finished")
    assert "step 2, 0 of 2 epochs completed" in cli("show", f"{URL}@2").out
    assert cli("verify", URL).code == 0
    assert cli("diff", f"{URL}@latest", f"{URL}@8").code == 0
    assert cli("diff", f"{URL}@2", f"{URL}@4").code == 1
    assert cli("prune", URL, "--keep-last", 1).code == 0
    assert len(cli("ls", URL, "--json").json["checkpoints"]) == 2  # the newest and the best
