"""A program that saves while its interpreter ends, when no thread can be started any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from resumable import Run
from resumable.store.digesting import BESIDE_BYTES

# Python 3.12 starts no thread in a function of atexit; this is what `start` raises there.
PROGRAM = """
import atexit, sys, threading
import torch
from resumable import Trainer

def refuse(thread):
    print("refused", thread.name, flush=True)
    raise RuntimeError("can't create new thread at interpreter shutdown")

def last_words():
    threading.Thread.start = refuse
    config = {"run": sys.argv[1], "every": {"steps": 1, "minutes": None}, "progress": "never"}
    with Trainer(config, model=model) as trainer:
        for step in trainer.steps(3):
            with torch.no_grad():
                model.bias.fill_(step)

model = torch.nn.Linear(700, 700)
atexit.register(last_words)
"""


def test_what_is_saved_while_the_interpreter_ends_is_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {"refused resumable-writer", "refused resumable-digest"} <= set(done.stdout.splitlines())
    checkpoints = Run(str(tmp_path)).checkpoints()
    assert [checkpoint.step for checkpoint in checkpoints] == [1, 2, 3]
    assert checkpoints[-1].manifest.finished
    for checkpoint in checkpoints:
        assert checkpoint.manifest.blobs["model.safetensors"].size >= BESIDE_BYTES
        checkpoint.verify()
        assert set(checkpoint.load("model")["bias"].tolist()) == {checkpoint.step - 1}
