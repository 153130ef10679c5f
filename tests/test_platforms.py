"""Windows and macOS, as far as Linux shows them: by programs from which the names that are not there are taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable import Run
from tests.lab.client import shared_lab
from tests.tiny import Tiny, assert_equal_ends, crashed


def ended(platform: str, tmp_path: Path, program: str, *arguments: object) -> str:
    """Run a program of `tests.platforms` to its end, and return what it printed."""
    out = tmp_path / "out"
    given = [program, *map(str, arguments)]
    code = shared_lab().launch("tests.test_platforms:launch", out=out, platform=platform, arguments=given)
    printed = out.read_text()
    assert code == 0, printed
    return printed


def launch(platform: str, arguments: list[str]) -> None:
    """Call a platform of `tests.platforms`, in the child."""
    from tests import platforms

    getattr(platforms, platform)(*arguments)


# -- Windows ----------------------------------------------------------------------------------------------------------


def test_on_windows_files_are_saved_loaded_and_converted(tmp_path: Path) -> None:
    ended("on_windows", tmp_path, "files_of_the_user", tmp_path)


def test_on_windows_a_local_run_is_read(tmp_path: Path) -> None:
    Tiny(tmp_path / "run").train()
    printed = ended("on_windows", tmp_path, "reading_a_run", tmp_path / "run")
    assert Run(str(tmp_path / "run")).latest().name in printed
    assert "bit-exact" in printed


def test_on_windows_a_run_on_a_remote_storage_resumes_exactly(tmp_path: Path) -> None:
    ended("on_windows", tmp_path, "training_elsewhere", "memory://windows")


def test_on_windows_a_local_training_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    printed = ended("on_windows", tmp_path, "training_in_a_folder", tmp_path / "run")
    assert printed == (
        f"{tmp_path}/run: expected a remote storage, found a local folder: on this platform none is written as a run\n"
        "  hint: name one in `run`, such as s3://bucket/run, or train where Python has POSIX locks: Linux, macOS, WSL\n"
    )
    assert not (tmp_path / "run").exists()


def test_on_windows_a_path_has_backslashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from resumable.store.storage import user_file

    monkeypatch.setattr("os.sep", "\\")
    assert user_file.split(r"C:\runs\a\x.safetensors") == ("C:/runs/a", "x.safetensors")
    assert user_file.split(r"s3://bucket/a\b/c") == (r"s3://bucket/a\b", "c")


# -- macOS ------------------------------------------------------------------------------------------------------------


def test_on_macos_a_training_is_exact_and_each_of_its_files_and_folders_reaches_the_platter(tmp_path: Path) -> None:
    Tiny(tmp_path / "alone").train()
    crashed(tmp_path / "run", step=5)
    printed = ended("on_macos", tmp_path, "training_in_a_folder", tmp_path / "run")
    assert_equal_ends(tmp_path / "alone", tmp_path / "run")
    written = [line.removeprefix("full sync ") for line in printed.splitlines() if line.startswith("full sync ")]
    latest = tmp_path / "run" / "checkpoints" / Run(str(tmp_path / "run")).latest().name
    assert str(latest) in written, "the folder of a checkpoint"
    assert str(latest.parent) in written, "the folder that names it"
    files = [path for path in written if path.startswith(f"{latest}/")]
    assert len(files) >= len(list(latest.iterdir())), "each of its files, under its temporary name"
