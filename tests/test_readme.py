"""The README says what is so: its commands, configs, names and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

import resumable
from resumable import Config, Trainer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(path.parts)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def table_names() -> list[str]:
    """What stands in code in the first column of the tables."""
    rows = re.findall(r"^\|([^|]*)\|", README, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def setup_commands() -> list[str]:
    return [block for block in blocks("bash") if "venv" in block]


# -- configuration ----------------------------------------------------------------------------------------------------


def test_there_is_a_config_in_the_readme() -> None:
    assert blocks("yaml")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_config_in_the_readme_can_be_used(block: str) -> None:
    assert Config.load(yaml.safe_load(block)).run


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_that_comes_along_can_be_used(path: Path) -> None:
    assert Config.load(path).run


@pytest.mark.parametrize("name", sorted(set(re.findall(r"RESUMABLE_[A-Z_]+", README))))
def test_every_variable_in_the_readme_is_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
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


def test_the_constraints_pin_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "tests" / "constraints.txt").read_text("utf-8").split()


def test_the_verbs_of_the_readme_are_those_of_the_command_line() -> None:
    from resumable.cli import command_line

    named = set(re.findall(r"^resumable (\w+)", "\n".join(blocks("bash")), re.MULTILINE))
    assert named == set(get_command(command_line()).commands)


# -- names ------------------------------------------------------------------------------------------------------------


def test_there_are_names_in_tables() -> None:
    assert table_names()


@pytest.mark.parametrize("name", table_names())
def test_every_name_in_a_table_exists(name: str) -> None:
    bare = re.sub(r"\(.*", "", name)
    owner, _, attribute = bare.rpartition(".")
    assert owner in ("trainer", "", "resumable")
    assert hasattr(Trainer if owner == "trainer" or bare.startswith(".") else resumable, attribute)


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_in_the_readme_is_python_and_its_imports_work(block: str) -> None:
    compile(block, "README.md", "exec")
    for line in re.findall(r"^from resumable import .*$", block, re.MULTILINE):
        exec(line, {})


def test_every_public_name_can_be_imported() -> None:
    assert all(hasattr(resumable, name) for name in resumable.__all__)


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8"))
    relative = [urlsplit(link) for link in links if not urlsplit(link).scheme]
    missing = [link.path for link in relative if link.path and not (page.parent / link.path).exists()]
    assert not missing


def test_nothing_in_the_readme_is_still_to_be_filled_in() -> None:
    assert not re.findall(r"@[A-Z]+@|TODO|TBD|XXX", README)
