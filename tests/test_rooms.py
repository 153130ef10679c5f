"""The README of each room names every module in it, and the map names every room."""

from __future__ import annotations

from pathlib import Path

import pytest

import resumable

PACKAGE = Path(resumable.__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def _names(text: str, module: Path) -> bool:
    return f"{module.name}`" in text or f"`{module.stem}`" in text


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_readme_of_a_room_names_every_module(room: Path) -> None:
    text = (room / "README.md").read_text("utf-8")
    modules = [path for path in room.rglob("*.py") if path.name != "__init__.py"]
    assert [str(path.relative_to(room)) for path in modules if not _names(text, path)] == []


def test_the_map_names_every_room_and_every_module_at_the_root() -> None:
    text = (PACKAGE / "README.md").read_text("utf-8")
    names = [f"{room.name}/" for room in ROOMS]
    names += [path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert [name for name in names if name not in text] == []


def test_a_room_has_at_most_fifteen_modules() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    modules = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {str(folder): len(found) for folder, found in modules.items() if len(found) > 15} == {}
