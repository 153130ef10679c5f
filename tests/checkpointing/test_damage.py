"""Damage to checkpoints, file by file: what is wrong is told, the one before is used, and the end is bit-exact."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resumable import CorruptCheckpointError, NoCheckpointError, Run
from resumable.store.layout import CHECKPOINTS
from tests.tiny import Tiny, assert_equal_ends, crashed, steps_of

OLDER, NEWEST = "step-000000004.e0000.a0001", "step-000000006.e0001.a0001"


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(place: Callable[[int], int]) -> Callable[[Path], None]:
    """One bit of the byte at `place(size)` is another."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place(len(data))] ^= 0x10
        path.write_bytes(data)

    return flip


HEADER, MIDDLE, END = flipped(lambda size: 12), flipped(lambda size: size // 2), flipped(lambda size: size - 1)

# The file, what happens to it, and the reason that is told.
DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "model missing": ("model.safetensors", missing, "model.safetensors: missing"),
    "model empty": ("model.safetensors", empty, "model.safetensors: 0 bytes, expected "),
    "model halved": ("model.safetensors", halved, "model.safetensors: "),
    "model longer": ("model.safetensors", longer, "model.safetensors: "),
    "model header": ("model.safetensors", HEADER, "model.safetensors: digest differs"),
    "model tensor data": ("model.safetensors", END, "model.safetensors: digest differs"),
    "optimizer missing": ("optimizer.safetensors", missing, "optimizer.safetensors: missing"),
    "optimizer empty": ("optimizer.safetensors", empty, "optimizer.safetensors: 0 bytes, expected "),
    "optimizer halved": ("optimizer.safetensors", halved, "optimizer.safetensors: "),
    "optimizer header": ("optimizer.safetensors", HEADER, "optimizer.safetensors: digest differs"),
    "optimizer tensor data": ("optimizer.safetensors", END, "optimizer.safetensors: digest differs"),
    "state missing": ("state.rank00000.json", missing, "state.rank00000.json: missing"),
    "state empty": ("state.rank00000.json", empty, "state.rank00000.json: 0 bytes, expected "),
    "state halved": ("state.rank00000.json", halved, "state.rank00000.json: "),
    "state flipped": ("state.rank00000.json", MIDDLE, "state.rank00000.json: digest differs"),
    "manifest missing": (
        "manifest.json",
        missing,
        "no manifest.json: this save did not finish, which is normal after a kill, ",
    ),
    "manifest empty": ("manifest.json", empty, "manifest.json: cut short, or not of this format"),
    "manifest halved": ("manifest.json", halved, "manifest.json: cut short, or not of this format"),
    "manifest flipped": ("manifest.json", MIDDLE, "manifest.json: its digest differs"),
    "manifest's digest flipped": ("manifest.json", flipped(lambda size: size - 5), "manifest.json: "),
}


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed, with three checkpoints, and an undisturbed one."""
    folder = tmp_path_factory.mktemp("damage")
    crashed(folder / "crashed", step=7, keep={"last": 3})
    Tiny(folder / "whole").train()
    return folder


@pytest.fixture
def run(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals / "crashed", tmp_path / "run")
    assert steps_of(tmp_path / "run") == [2, 4, 6]
    return tmp_path / "run"


def rejections(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for record in caplog.records if (line := record.getMessage()).startswith("REJECT")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_with_the_reason_and_the_one_before_is_used(
    run: Path, originals: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    caplog.set_level(logging.INFO, "resumable")
    file, harm, reason = DAMAGES[damage]
    harm(run / CHECKPOINTS / NEWEST / file)
    tiny = Tiny(run, saves=())
    with tiny.trainer() as trainer:
        assert trainer.resumed_from == OLDER
    [line] = rejections(caplog)
    assert line.startswith(f'REJECT  {NEWEST} reason="{reason}')
    assert line.endswith(f'" next={OLDER}')
    assert (run / CHECKPOINTS / NEWEST).exists(), "a reader deletes nothing"
    Tiny(run, saves=()).train()
    assert_equal_ends(run, originals / "whole")


def test_two_damaged_checkpoints_are_both_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing(run / CHECKPOINTS / NEWEST / "model.safetensors")
    END(run / CHECKPOINTS / OLDER / "model.safetensors")
    with Tiny(run).trainer() as trainer:
        assert trainer.step == 2
    assert [line.split()[1] for line in rejections(caplog)] == [NEWEST, OLDER]
    assert all(line.endswith("next=step-000000002.e0000.a0001") for line in rejections(caplog))


@pytest.mark.parametrize("harm", [END, halved], ids=["flipped", "halved"])
def test_if_all_are_damaged_they_are_named_and_nothing_is_deleted_or_begun(
    run: Path, harm: Callable[[Path], None]
) -> None:
    for path in run.rglob("model.safetensors"):
        harm(path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    tiny = Tiny(run)
    with pytest.raises(CorruptCheckpointError, match="no checkpoint is valid") as caught:
        tiny.train()
    for step in (2, 4, 6):
        assert f"step-00000000{step}.e000{step // 5}.a0001: model.safetensors: " in caught.value.message
    assert "nothing was deleted" in str(caught.value.hint)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not tiny.notes["seen"]


def test_a_foreign_checkpoint_in_the_run_is_rejected(run: Path, originals: Path) -> None:
    shutil.rmtree(run / CHECKPOINTS / NEWEST)
    other = next((originals / "whole" / CHECKPOINTS).glob("*000006*"))
    shutil.copytree(other, run / CHECKPOINTS / NEWEST)
    with Tiny(run).trainer() as trainer:
        assert trainer.resumed_from == OLDER


def test_files_that_nobody_knows_harm_nothing(run: Path) -> None:
    (run / CHECKPOINTS / NEWEST / "notes.txt").write_text("mine")
    (run / CHECKPOINTS / "mine").mkdir()
    (run / "notes.txt").write_text("mine")
    Tiny(run, keep={"last": 1, "best": None}).train()
    assert Run(str(run)).latest().manifest.finished
    assert len(list(run.rglob("notes.txt"))) == 2, "only names of the format are deleted"


def test_what_was_rejected_is_cleared_once_enough_newer_ones_stand(run: Path) -> None:
    END(run / CHECKPOINTS / NEWEST / "model.safetensors")
    missing(run / CHECKPOINTS / NEWEST / "manifest.json")
    Tiny(run, keep={"last": 2, "best": None}).train()
    assert not (run / CHECKPOINTS / NEWEST).exists()


# -- the read side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [name for name in DAMAGES if not name.endswith(("header", "data", "state flipped"))])
def test_reading_falls_back_by_the_cheap_checks(run: Path, damage: str) -> None:
    file, harm, reason = DAMAGES[damage]
    harm(run / CHECKPOINTS / NEWEST / file)
    told: dict[str, str] = {}
    assert Run(str(run)).latest().name == OLDER
    assert [checkpoint.name for checkpoint in Run(str(run)).checkpoints(told.__setitem__)][-1] == OLDER
    assert list(told) == [NEWEST]
    assert told[NEWEST].startswith(reason)


@pytest.mark.parametrize(("file", "name"), [("model.safetensors", "model"), ("optimizer.safetensors", "optimizer")])
def test_contents_are_verified_whenever_they_are_read(run: Path, file: str, name: str) -> None:
    END(run / CHECKPOINTS / NEWEST / file)
    latest = Run(str(run)).latest()
    assert latest.name == NEWEST
    for read in (latest.verify, lambda: latest.load(name)):
        with pytest.raises(CorruptCheckpointError, match=rf"{file}: .*digest differs"):
            read()
    assert latest.load("notes")["seen"]


def test_a_run_without_a_readable_checkpoint_is_told_from_no_run(run: Path, tmp_path: Path) -> None:
    for path in run.rglob("manifest.json"):
        halved(path)
    with pytest.raises(CorruptCheckpointError, match=r"no checkpoint is readable: .*manifest.json: cut short"):
        Run(str(run)).latest()
    with pytest.raises(NoCheckpointError, match="no checkpoints here"):
        Run(str(tmp_path / "nothing")).latest()
