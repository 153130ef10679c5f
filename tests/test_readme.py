"""The README and the guides say what is so: their commands, configs, names and links. `test_guides.py` runs them."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest
import yaml
from _pytest.mark import ParameterSet
from typer.main import get_command

import resumable
from resumable import Config, Trainer
from tests.pages import GUIDES, PAGES, README, ROOT, blocks, headings, table_rows

PACKAGE = ROOT / "resumable"
ALL_PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(path.parts)]
SHIPPED = [path for path in ALL_PAGES if path.is_relative_to(PACKAGE)]
TEXTS = "\n".join(page.read_text("utf-8") for page in PAGES)


def names(page: Path) -> list[str]:
    """What stands in code in the first column of the tables."""
    return [name for row in table_rows(page) for name in re.findall(r"`([^`]+)`", row[0])]


def setup_commands() -> list[str]:
    return [block for block in blocks(README, "bash") if "venv" in block]


def each_block(language: str) -> list[ParameterSet]:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


# -- the README -------------------------------------------------------------------------------------------------------


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_readme_and_the_map_name_every_guide(guide: Path) -> None:
    assert f"](resumable/guides/{guide.name})" in README.read_text("utf-8")
    assert f"](guides/{guide.name})" in (PACKAGE / "README.md").read_text("utf-8")


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", each_block("yaml"))
def test_every_config_in_a_page_can_be_used(block: str) -> None:
    assert Config.load(yaml.safe_load(block)).run


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_that_comes_along_can_be_used(path: Path) -> None:
    assert Config.load(path).run


def test_the_guide_names_every_key_with_its_default() -> None:
    rows = [row for row in table_rows(PACKAGE / "guides" / "config.md") if re.fullmatch(r"`[a-z_.]+`", row[0])]
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows}
    assert listed.pop("run") == "required"
    defaults = Config(run="x").model_dump()
    expected = {key: value for key, value in _flat(defaults) if key != "run"}
    assert {key: _plain(yaml.safe_load(value)) for key, value in listed.items()} == expected


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(value)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", sorted(set(re.findall(r"RESUMABLE_[A-Z_]+", TEXTS))))
def test_every_variable_in_a_page_is_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = isinstance(getattr(Config(run="x"), name.removeprefix("RESUMABLE_").lower(), None), tuple)
    monkeypatch.setenv(name, '["SIGTERM"]' if names else "7")
    assert Config.load({"run": "x"}) != Config(run="x")


# -- commands ---------------------------------------------------------------------------------------------------------


def test_two_commands_set_everything_up() -> None:
    commands = setup_commands()
    assert len(commands) == 2
    assert all(len(command.strip().splitlines()) == 1 for command in commands)
    assert [command for command in commands if "python examples/crash_and_resume.py" in command]
    assert [command for command in commands if re.search(r"\bpytest\b", command)]


@pytest.mark.parametrize("command", setup_commands())
def test_a_set_up_command_pins_what_was_tested_and_names_files_that_exist(command: str) -> None:
    words = shlex.split(command)
    files = [word for word in words if "/" in word and not word.startswith(".venv")]
    assert "tests/constraints.txt" in files
    assert all((ROOT / file).is_file() for file in files)
    extras = re.search(r'"\.\[([a-z,]+)\]"', command)
    assert extras
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras[1].split(","))


def test_the_readme_names_the_extras_for_users_where_it_installs() -> None:
    install = README.read_text("utf-8").partition("## Start in 60 seconds\n")[2].partition("\nSave this as")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"`pip install {project['name']}`" in install
    assert f"git clone {project['urls']['Source']} " in install
    extras = set(project["optional-dependencies"]) - {"dev", "demo", "report"}
    assert set(re.findall(r"`\[(\w+)\]`", install)) == extras


def test_the_constraints_pin_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "tests" / "constraints.txt").read_text("utf-8").split()


def test_the_guide_names_every_verb_of_the_command_line() -> None:
    from resumable.cli import command_line

    [commands, *_] = blocks(PACKAGE / "guides" / "command_line.md", "bash")
    assert re.findall(r"^resumable (\w+)", commands, re.MULTILINE) == list(get_command(command_line()).commands)


# -- names ------------------------------------------------------------------------------------------------------------

LOOP = PACKAGE / "guides" / "loop.md"


def test_there_are_names_in_the_table_of_loops() -> None:
    assert names(LOOP)


@pytest.mark.parametrize("name", names(LOOP))
def test_every_name_in_the_table_of_loops_exists(name: str) -> None:
    bare = re.sub(r"\(.*", "", name)
    owner, _, attribute = bare.rpartition(".")
    assert owner in ("trainer", "")
    assert hasattr(Trainer, attribute)


def test_the_guide_has_exactly_the_events_that_the_package_logs() -> None:
    in_guide = re.findall(r"^\| ([A-Z]+) \|", (PACKAGE / "guides" / "log.md").read_text("utf-8"), re.M)
    assert sorted(in_guide) == sorted({event for path in PACKAGE.rglob("*.py") for event in _logged(path)})


def _logged(path: Path) -> Iterator[str]:
    """The names of events in the calls of a module: `emit("NEW", ...)`, or with the level before the name."""
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        for argument in call.args[:2] if isinstance(call, ast.Call) else ():
            if isinstance(argument, ast.Constant) and re.fullmatch("[A-Z]{3,}", str(argument.value)):
                yield str(argument.value)


def test_every_public_name_can_be_imported() -> None:
    assert all(hasattr(resumable, name) for name in resumable.__all__)


# -- links ------------------------------------------------------------------------------------------------------------


def relative_links(page: Path) -> list[SplitResult]:
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [link for link in map(urlsplit, links) if not link.scheme]


def _page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", ALL_PAGES, ids=_page_id)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert [link.path for link in relative_links(page) if not (page.parent / link.path).exists()] == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=_page_id)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    anchored = [link for link in relative_links(page) if link.fragment]
    targets = [(page.parent / link.path if link.path else page, link.fragment) for link in anchored]
    assert [(target.name, name) for target, name in targets if name not in headings(target)] == []


@pytest.mark.parametrize("page", SHIPPED, ids=_page_id)
def test_links_of_a_page_in_the_package_stay_in_the_package(page: Path) -> None:
    """A page that is installed has no repository around it."""
    targets = [(page.parent / link.path).resolve() for link in relative_links(page)]
    assert [str(target) for target in targets if not target.is_relative_to(PACKAGE)] == []


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_nothing_in_a_page_is_still_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"@[A-Z]+@|TODO|TBD|XXX", page.read_text("utf-8"))
