"""What cannot be exported, or not there, is told with what to do; and nothing is left behind, whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Run
from resumable.errors import (
    ConfigError,
    ExportError,
    NoCheckpointError,
    ResumableError,
    RunMismatchError,
    StateError,
    StorageError,
)
from resumable.export import export, verify
from tests.export.conftest import Train, Trained, exported_as
from tests.export.models import CASES, SMALL
from tests.faults.experiments import lacking, small_disk
from tests.harness.client import PYTHON

MODELS = "tests.export.models"
PROGRAMS = ["pt2", "onnx"]
PLACE = r"\S+/tests/export/models\.py, line \d+"


@contextmanager
def leaves_nothing(folder: Path) -> Iterator[None]:
    """What is asked for inside of it fails, and leaves `folder` as it was."""
    before = sorted(folder.iterdir())
    yield
    assert sorted(folder.iterdir()) == before


def refused(
    trained: Trained, to: Path, kind: type[ResumableError], said: str, hint: str, **asked: Any
) -> ResumableError:
    """The error of an export that fails as said, and leaves nothing."""
    asked = {"format": "pt2", "model": SMALL.factory, "golden": SMALL.batch()} | asked
    with leaves_nothing(to), pytest.raises(kind, match=said) as caught:
        export(str(trained.run), to / "made", **asked)
    assert re.search(hint, str(caught.value.hint)), caught.value.hint
    return caught.value


# -- the function that builds the model -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "said", "hint"),
    [
        ("small", ConfigError, "--model small: expected package.module:function", "my_project.model:build"),
        (":small", ConfigError, "--model :small: expected package.module:function", "my_project"),
        (f"{MODELS}:", ConfigError, "expected package.module:function", "my_project"),
        ("no_such_package.model:build", ConfigError, "No module named 'no_such_package'", "run this in the folder"),
        ("tests.export.no_such:build", ConfigError, "No module named 'tests.export.no_such'", "run this in the folder"),
        ("tests/export/models.py:small", ConfigError, "not a path", "^write tests.export.models:small$"),
        ("./tests/export/models.py:small", ConfigError, "not a path", "^write tests.export.models:small$"),
        ("models.py:small", ConfigError, "not a path", "^write models:small$"),
        ("models.py", ConfigError, "not a path", "^write models:build$"),
        ("/there/models.py:small", ConfigError, "not a path", "^write models:small, in the folder /there$"),
        ("../models.py:small", ConfigError, "not a path", r"^write models:small, in the folder \.\.$"),
        (f"{MODELS}:zzz", ConfigError, "has no attribute 'zzz'", "name a function that builds the model"),
        (f"{MODELS}:smal", ConfigError, "has no attribute 'smal'", f"^did you mean {MODELS}:small\\?$"),
        (f"{MODELS}:Several.forwrad", ConfigError, "no attribute 'forwrad'", f"mean {MODELS}:Several.forward\\?$"),
        (f"{MODELS}:NOT_CALLABLE", ConfigError, "a int, expected a function", "name a function"),
        (
            f"{MODELS}:BUILT",
            ConfigError,
            "a model .Sequential., expected a function",
            "name a function that builds it",
        ),
        (f"{MODELS}:called", ExportError, r"called\(\) raised TypeError", "it is called without arguments"),
        (f"{MODELS}:raises", ExportError, rf"RuntimeError: no weights today \({PLACE}\)", "without arguments"),
        (f"{MODELS}:leaves", ExportError, rf"leaves\(\) raised SystemExit: 0 \({PLACE}\)", "without arguments"),
        (f"{MODELS}:fails_in_torch", ExportError, rf"raised TypeError: .* \({PLACE}\)", "without arguments"),
        (
            f"{MODELS}:no_module",
            ExportError,
            r"no_module\(\) returned a dict, expected a torch.nn.Module",
            "return the",
        ),
        (
            f"{MODELS}:narrow",
            RunMismatchError,
            r"another shape: 0\.weight \(checkpoint \(8, 4\), here \(6, 4\)\)",
            "as",
        ),
        (f"{MODELS}:double", RunMismatchError, "another dtype: 0.weight .checkpoint torch.float32, here", "dtypes"),
        (f"{MODELS}:mlp", RunMismatchError, r"missing in the checkpoint: 3\.weight", "the same names"),
        (f"{MODELS}:Hasty", RunMismatchError, r"not in this module: 0\.weight", "the same names"),
    ],
)
def test_a_function_that_builds_no_such_model_is_told(
    small: Trained, tmp_path: Path, model: str, kind: type[ResumableError], said: str, hint: str
) -> None:
    refused(small, tmp_path, kind, said, hint, model=model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n1 / 0", r"importing broken_model raised ZeroDivisionError.*broken_model\.py, line 2\)"),
        ("def build(:", "importing broken_model raised SyntaxError"),
        ("import sys; sys.exit(3)", "importing broken_model raised SystemExit: 3"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--no'])", "importing broken_model raised SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(
    small: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "broken_model.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    refused(small, tmp_path, ExportError, said, "__name__ == '__main__'", model="broken_model:build")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("\nimport no_such_dep.part", "No module named 'no_such_dep'", "needs_more imports no_such_dep: install it"),
        ("\nfrom os import no_such_name", "cannot import name 'no_such_name'", "`python -c 'import needs_more'`"),
        ("\nfrom . import sibling", "attempted relative import", "`python -c 'import needs_more'`"),
    ],
)
def test_a_module_that_is_found_and_whose_own_import_fails_is_told_by_that(
    small: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str, hint: str
) -> None:
    (tmp_path / "needs_more.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    said = rf"importing needs_more raised \w+: {said}.*needs_more\.py, line 2\)"
    refused(small, tmp_path, ConfigError, said, hint, model="needs_more:build")


@pytest.mark.parametrize("name", ["compiled", "parallel"])
def test_a_model_in_a_wrapper_of_training_is_the_one_inside(small: Trained, tmp_path: Path, name: str) -> None:
    made = export(str(small.run), tmp_path / "made", format="pt2", model=f"{MODELS}:{name}", golden=SMALL.batch())
    assert made.proof.grade == "outputs-identical"
    weights = exported_as(small, tmp_path / "weights", "safetensors", golden=SMALL.batch(), model=SMALL.factory)
    _, measured = verify(weights.folder, model=f"{MODELS}:{name}")
    assert measured.outputs is not None
    assert measured.outputs.identical


def test_a_head_that_is_no_longer_tied_is_told(train: Train, tmp_path: Path) -> None:
    case = CASES["transformer, tied head"]
    said = "one tensor in the checkpoint, two here: embed.weight and head.weight"
    asked = {"model": f"{MODELS}:untied_language", "golden": case.batch()}
    refused(train(case), tmp_path, RunMismatchError, said, "as it was trained", **asked)


def test_a_program_without_a_function_says_why_it_needs_one(small: Trained, tmp_path: Path) -> None:
    refused(small, tmp_path, ConfigError, "a checkpoint holds no code", "--model package.module:function", model=None)


# -- the golden input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("golden", "kind", "said", "hint"),
    [
        (None, ConfigError, "holds no golden input of model", r"--golden FILE.*trainer\.golden"),
        (torch.zeros(4, 5), StateError, r"Sequential failed on the input \(float32\[4, 5\]\)", "a tensor for model"),
        (torch.zeros(4, 4).double(), StateError, r"failed on the input \(float64\[4, 4\]\)", "a tensor for model"),
        ((torch.zeros(4, 4),) * 2, StateError, "TypeError", "a tuple of tensors"),
        ({"y": torch.zeros(4, 4)}, StateError, "unexpected keyword argument 'y'", "a dict of them"),
        ({"input": [1.0]}, StateError, r"golden\['input'\]: list, expected a tensor", "a dict of them"),
        ((torch.zeros(4, 4), 3), StateError, r"golden\[1\]: int, expected a tensor", "a tuple of tensors"),
        ("batch", StateError, "golden: str, expected tensors", "a tensor for model"),
        ((), StateError, "golden: holds no tensor", "a tensor for model"),
        ({1: torch.zeros(4, 4)}, StateError, r"golden\[1\]: expected the name of an argument", "a dict of them"),
    ],
)
def test_a_golden_input_that_does_not_fit_is_told(
    small: Trained, tmp_path: Path, golden: Any, kind: type[ResumableError], said: str, hint: str
) -> None:
    refused(small, tmp_path, kind, said, hint, golden=golden)


def test_a_golden_input_alone_proves_nothing_of_weights(small: Trained, tmp_path: Path) -> None:
    refused(small, tmp_path, ConfigError, "proves nothing about weights", "--model", format="safetensors", model=None)


# -- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said", "hint"),
    [
        ({"format": "pickle"}, "format: unknown value 'pickle'", "safetensors, pt2, onnx, aoti"),
        ({"batch": "any"}, "batch: unknown value 'any'", "dynamic, fixed"),
        ({"dtype": "int8", "format": "safetensors"}, "dtype: unknown value 'int8'", "float32, float16, bfloat16"),
        ({"dtype": "float16"}, "dtype: only for safetensors, not for pt2", "leave it out"),
        ({"dtype": "float16", "format": "safetensors"}, "dtype and model together", "leave --model out"),
        ({"max_shard_bytes": 10}, "max-shard: only for safetensors, not for pt2", "leave it out"),
        ({"max_shard_bytes": 0, "format": "safetensors"}, "max_shard_bytes: expected at least 1, found 0", "5GB"),
        ({"tolerance": -1.0}, "tolerance: expected a number from 0 on, found -1.0", "1e-4"),
        ({"tolerance": float("nan")}, "tolerance: expected a number from 0 on, found nan", "1e-4"),
        ({"tolerance": float("inf")}, "tolerance: expected a number from 0 on, found inf", "1e-4"),
    ],
)
def test_what_cannot_be_asked_is_told(
    small: Trained, tmp_path: Path, asked: dict[str, Any], said: str, hint: str
) -> None:
    refused(small, tmp_path, ConfigError, said, hint, **asked)


def test_an_object_that_is_no_module_is_told_with_those_that_are(small: Trained, tmp_path: Path) -> None:
    refused(
        small,
        tmp_path,
        ExportError,
        r"optimizer: expected a module, found optimizer \(.*SGD\)",
        "model",
        object="optimizer",
    )


def test_an_unknown_object_is_told_with_those_that_are_there(small: Trained, tmp_path: Path) -> None:
    refused(small, tmp_path, NoCheckpointError, "no object 'teacher'", "model, optimizer", object="teacher")


@pytest.mark.parametrize("selector", ["@77", "@best", "@first"])
def test_a_selector_that_selects_nothing_is_told(small: Trained, tmp_path: Path, selector: str) -> None:
    with leaves_nothing(tmp_path), pytest.raises(ResumableError) as caught:
        export(f"{small.run}{selector}", tmp_path / "made")
    assert caught.value.hint


def test_a_run_that_is_none_is_told(tmp_path: Path) -> None:
    with leaves_nothing(tmp_path), pytest.raises(NoCheckpointError, match="no checkpoints here"):
        export(str(tmp_path / "nowhere"), tmp_path / "made")


def test_a_damaged_checkpoint_is_not_exported(train: Train, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(train(SMALL).run, tmp_path / "run"))
    blob = run / "checkpoints" / Run(str(run)).latest().name / "model.safetensors"
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with leaves_nothing(tmp_path), pytest.raises(ResumableError, match=r"model\.safetensors"):
        export(str(run), tmp_path / "made")


# -- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_never_replaced(small: Trained, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "made"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to("nowhere")}[kind]()
    refused(small, tmp_path, ConfigError, "exists already", "choose a new folder", format="safetensors", model=None)


def test_a_url_is_no_target(small: Trained) -> None:
    with pytest.raises(
        ConfigError, match="to: expected a folder on this machine, found the URL s3://bucket/made"
    ) as caught:
        export(str(small.run), "s3://bucket/made")
    assert "export to a local folder, then copy it" in str(caught.value.hint)


@pytest.mark.parametrize("below", ["file/made", "file/more/made"])
def test_a_target_below_a_file_is_told(small: Trained, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with leaves_nothing(tmp_path), pytest.raises(ConfigError, match=r"file.*: not a folder") as caught:
        export(str(small.run), tmp_path / below)
    assert "--to DIR" in str(caught.value.hint)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place in which no folder can be made")
def test_a_target_where_no_folder_can_be_made_is_told(small: Trained) -> None:
    with pytest.raises(ConfigError, match=r"/proc/none: not a folder, and none can be created"):
        export(str(small.run), "/proc/none/made")


@pytest.fixture
def _mounts() -> None:
    if missing := lacking("mount"):
        pytest.skip(f"needs {missing}")


@pytest.mark.usefixtures("_mounts")
def test_a_folder_that_cannot_be_written_is_told(small: Trained, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        with leaves_nothing(disk.folder), pytest.raises(StorageError, match="Read-only file system") as caught:
            export(str(small.run), disk.folder / "made")
    assert caught.value.hint


@pytest.mark.usefixtures("_mounts")
@pytest.mark.parametrize("format", ["safetensors", *PROGRAMS])
@pytest.mark.parametrize("size_kib", [4, 700])
def test_a_disk_that_is_full_is_told_and_what_was_written_is_cleared(
    train: Train, tmp_path: Path, format: str, size_kib: int
) -> None:
    trained = train(CASES["MLP"])
    with small_disk(tmp_path / "disk", size_kib * 1024) as disk:
        with leaves_nothing(disk.folder), pytest.raises(StorageError, match="No space left on device") as caught:
            exported_as(trained, disk.folder / "made", format)
        assert str(disk.folder) in caught.value.message
        assert str(caught.value.hint).startswith("free some space there, or name a folder on another disk")


@pytest.mark.usefixtures("_mounts")
def test_a_disk_that_is_full_at_the_very_end_is_told_too(exported: Any, small: Trained, tmp_path: Path) -> None:
    whole = exported("safetensors").proof.files["model.safetensors"].size
    assert whole < 4096
    with small_disk(tmp_path / "disk", 3 * 4096) as disk:  # the model, and a proof too few
        (disk.folder / "other").write_bytes(bytes(4096))
        with leaves_nothing(disk.folder), pytest.raises(StorageError, match=r"No space left on device"):
            export(str(small.run), disk.folder / "made")


# -- what is not the same model ---------------------------------------------------------------------------------------


def test_with_a_tolerance_of_zero_an_onnx_that_differs_by_a_bit_is_not_published(train: Train, tmp_path: Path) -> None:
    trained = train(CASES["MLP"])
    with leaves_nothing(tmp_path), pytest.raises(ExportError, match=r"outputs differ by .*, 0 is the tolerance"):
        exported_as(trained, tmp_path / "made", "onnx", tolerance=0.0)


# -- killed -----------------------------------------------------------------------------------------------------------

EXPORT = "import sys; from resumable.export import export; import torch; export(*sys.argv[1:3], **eval(sys.argv[3]))"


def launched(small: Trained, to: Path, model: str) -> subprocess.Popen[bytes]:
    asked = f"dict(format='pt2', model={model!r}, golden=torch.zeros(4, 4))"
    command = [PYTHON, "-c", EXPORT, str(small.run), str(to), asked]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)


def test_an_export_that_is_killed_while_it_is_made_publishes_nothing_and_is_in_nobody_s_way(
    small: Trained, tmp_path: Path
) -> None:
    with launched(small, tmp_path / "made", f"{MODELS}:dies") as process:
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "made").exists()
    made = export(str(small.run), tmp_path / "made")
    verify(made.folder)


def test_an_export_that_is_killed_while_it_is_proved_publishes_nothing(small: Trained, tmp_path: Path) -> None:
    with launched(small, tmp_path / "made", SMALL.factory) as process:
        while not (drafts := list(tmp_path.glob(".made.tmp-*/proof.json"))):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "made").exists()
    with pytest.raises(ExportError, match="killed before it was proved"):
        verify(drafts[0].parent)


def test_a_check_that_dies_is_told_with_what_may_be_the_reason(
    small: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho out of memory >&2\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with leaves_nothing(tmp_path), pytest.raises(ExportError, match="ended with -9: out of memory") as caught:
        export(str(small.run), tmp_path / "made")
    assert "is there enough memory?" in str(caught.value.hint)
    assert ".made.tmp-" not in f"{caught.value} {caught.value.hint}"  # which is gone by now
