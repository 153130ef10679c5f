"""A notebook in a real Jupyter kernel: one cell run again and again, after whatever ended it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resumable import Run

pytest.importorskip("ipykernel", reason="needs ipykernel")
client = pytest.importorskip("nbclient", reason="needs nbclient")
notebooks = pytest.importorskip("nbformat", reason="needs nbformat")

# What a user has in a cell; `tqdm` is kept by its name, as in many notebooks.
SETUP = """
import os, pathlib, time, torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm
from resumable import Trainer, Preempted
torch.set_num_threads(1)
fails_at = stops_at = None

def notebook_cell():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer
"""
CELL = """
model, optimizer = notebook_cell()
trainer = Trainer({"run": RUN, "every": {"steps": 3}, "data_seed": 1}, model=model, optimizer=optimizer)
epochs = tqdm(trainer.epochs(3), disable=True)
for epoch in epochs:
    bar = tqdm(trainer.batches(DataLoader(TensorDataset(torch.arange(16.).reshape(8, 2)), 2, shuffle=True)))
    for (x,) in bar:
        optimizer.zero_grad(); model(x / 16).square().mean().backward(); optimizer.step()
        if trainer.step == fails_at:
            raise ValueError("a typo")
        if trainer.step == stops_at:
            pathlib.Path("here").write_text(str(os.getpid()))  # and now the stop button is pressed
            while not trainer._launch.preemption.pending:
                time.sleep(0.01)
print("at", trainer.step)
"""


class Kernel:
    """One kernel, which runs cells one after the other."""

    def __init__(self, folder: Path) -> None:
        self.notebook = notebooks.v4.new_notebook()
        self.client = client.NotebookClient(
            self.notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What stands below the last cell."""
        outputs: list[dict[str, Any]] = self.notebook.cells[-1].outputs
        return outputs

    def run(self, source: str) -> tuple[str, str | None]:
        """What the cell printed, and the name of the error that ended it."""
        cell = notebooks.v4.new_code_cell(source)
        self.notebook.cells.append(cell)
        error = None
        try:
            self.client.execute_cell(cell, len(self.notebook.cells) - 1)
        except client.exceptions.CellExecutionError as ended:
            error = ended.ename
        return "".join(output.get("text", "") for output in cell.outputs), error


@pytest.fixture
def kernel_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of this very interpreter, whatever the machine has."""
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec: dict[str, Any] = {"argv": argv, "display_name": "here", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@contextlib.contextmanager
def pressing_stop(folder: Path) -> Iterator[None]:
    """Interrupt the kernel as the stop button does, once its cell is where it should be interrupted."""
    here, over = folder / "here", threading.Event()

    def press() -> None:
        while not (here.exists() and here.read_text()):
            if over.wait(0.01):
                return  # the cell ended before it got there, with an error that the test shows
        os.kill(int(here.read_text()), signal.SIGINT)

    presses = threading.Thread(target=press, daemon=True)
    presses.start()
    try:
        yield
    finally:
        over.set()
        presses.join()
        here.unlink(missing_ok=True)


@pytest.mark.usefixtures("kernel_spec")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cell_can_be_run_again_after_whatever_ended_it(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    with kernel.client.setup_kernel():
        assert kernel.run(SETUP + f"RUN = {str(tmp_path / 'run')!r}") == ("", None)
        printed, error = kernel.run("fails_at = 2\n" + CELL)
        assert error == "ValueError"
        assert f"WARN    {tmp_path / 'run'}: trained up to step 2, but the newest checkpoint is of step 0" in printed
        assert "NEW" in printed

        with pressing_stop(tmp_path):
            printed, error = kernel.run("fails_at, stops_at = None, 5\n" + CELL)
        assert error == "CellInterrupted"  # the cell has stopped, and the kernel lives
        [shown] = [output for output in kernel.shown if output["output_type"] == "error"]
        assert shown["traceback"] == ["stopped at step 6, saved; run the cell again to continue"]
        assert "To exit" not in printed
        assert "TAKEOVER" in printed
        assert "PREEMPT signal=SIGINT step=6 saved=yes exit=130" in printed

        printed, error = kernel.run("stops_at = None\n" + CELL)
        assert error is None
        assert "RESUME  step=6" in printed
        assert printed.rstrip().endswith("at 12")

        printed, error = kernel.run("old = trainer\n" + CELL)
        assert error is None
        assert "TAKEOVER" in printed
        assert "DONE" in printed
        printed, error = kernel.run("old.stop()")
        assert error == "LoopError"

        caught = "stops_at = 12\ntry:\n" + "\n".join(
            "    " + line for line in CELL.replace("epochs(3)", "epochs(4)").splitlines()
        )
        with pressing_stop(tmp_path):
            printed, error = kernel.run(
                f"{caught}\nexcept KeyboardInterrupt as error:\n    print(error.code, error.saved)"
            )
        assert error is None
        assert printed.rstrip().endswith("130 True")
    assert Run(str(tmp_path / "run")).latest().step == 13
