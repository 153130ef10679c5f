"""A configuration of a stranger: refused within a second and 64 MB, whatever it holds, and without a word of it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resumable.config.bounded_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from resumable.config.config import Config
from resumable.errors import ConfigError

CPU_SECONDS = 1
MEMORY_BYTES = 64 * 2**20
EXACT, REFUSED, OTHER = 0, 10, 20


def _laughs(first: str, each: Callable[[str], str]) -> str:
    """Nine levels, each of nine references to the one below."""
    return first + "".join(f"l{n}: &l{n} {each(f'*l{n - 1}')}\n" for n in range(1, 9)) + "run: *l8\n"


BOMBS = {
    "aliases in lists": _laughs("l0: &l0 [x]\n", lambda below: f"[{', '.join([below] * 9)}]"),
    "aliases in maps": _laughs("l0: &l0 {k: v}\n", lambda b: "{" + ", ".join(f"k{i}: {b}" for i in range(9)) + "}"),
    "merge keys": _laughs("l0: &l0 {k: v}\n", lambda below: f"{{<<: [{', '.join([below] * 9)}]}}"),
    "aliases as keys": _laughs("l0: &l0 [x]\n", lambda b: "[" + ", ".join(["{? " + b + " : x}"] * 9) + "]"),
    "a map in itself": "run: r\nstorage_options: &r {a: *r}\n",
    "a list in itself": "run: &r [*r]\n",
    "a map merged into itself": "run: r\nstorage_options: &r {<<: *r}\n",
    "brackets": "run: " + "[" * 20_000 + "]" * 20_000,
    "braces": "run: " + "{a: " * 20_000 + "}" * 20_000,
    "dashes": "run:\n" + "- " * 20_000 + "x\n",
    "3,000 maps": "run: " + "{a: " * 3_000 + "x" + "}" * 3_000,
    "maps by indentation": "".join(" " * depth + "a:\n" for depth in range(600)),
    "digits": "run: r\nevery: {steps: " + "9" * 100_000 + "}\n",
    "hexadecimal digits": "run: r\nevery: {steps: 0x" + "f" * 100_000 + "}\n",
    "sexagesimal digits": "run: r\nevery: {steps: 1" + ":59" * 60_000 + "}\n",
    "a sexagesimal fraction": "run: r\nevery: {minutes: 1" + ":59" * 60_000 + ".5}\n",
    "a long fraction": "run: r\nevery: {minutes: " + "9" * 100_000 + ".0}\n",
    "a date that is none": "run: 2001-99-99\n",
    "a timestamp that is none": "run: !!timestamp x\n",
    "a number that is none": "run: !!int ''\n",
    "a bool that is none": "run: !!bool maybe\n",
    "a set that is none": "run: !!set [x]\n",
    "binary": "run: !!binary " + "QUJD" * 50_000,
    "a huge key": "run: r\n? " + "k" * 200_000 + "\n: 1\n",
    "a huge list": "run: [" + "x, " * 80_000 + "]",
    "many keys": "".join(f"k{number}: 1\n" for number in range(1500)),
    "a huge file": "run: r\n#" + "x" * 2_000_000,
    "a null byte": "run: r\0\n",
    "no UTF-8": b"run: \xff\xfe",
    "UTF-16": "run: r\n".encode("utf-16"),
}


def _within(act: Callable[[], object]) -> int:
    """How `act` ends in a child that has little time and memory."""
    child = os.fork()
    if not child:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
            spent = resource.getrusage(resource.RUSAGE_SELF)
            # A limit counts whole seconds, also those that this process had spent.
            resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + 1 + CPU_SECONDS,) * 2)
            act()
        except ConfigError:
            os._exit(REFUSED)
        except BaseException:
            os._exit(OTHER)
        os._exit(EXACT)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_a_second_and_64_megabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.yaml"
    bomb = BOMBS[name]
    path.write_bytes(bomb if isinstance(bomb, bytes) else bomb.encode())
    assert _within(lambda: Config.load(path)) == REFUSED


def test_the_child_of_these_tests_sees_what_it_should() -> None:
    assert _within(lambda: None) == EXACT
    assert _within(lambda: bytearray(2 * MEMORY_BYTES)) == OTHER
    assert _within(lambda: exec("while True: pass")) in (-signal.SIGXCPU, -signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: r\nstorage_options: {secret: *hunter2}", "found undefined alias at line 2, column 27"),
        ("run: r\nstorage_options: {secret: !hunter2 x}", "could not determine a constructor for the tag at line 2"),
        ("run: r\nstorage_options: {secret: !x!hunter2 x}", "while parsing a node, found undefined tag handle at"),
        ("a: &hunter2 x\nb: &hunter2 y\n", "found duplicate anchor, second occurrence at line 2, column 4"),
        (
            "run: r\nstorage_options:\n  secret: hunter2: x\n",
            "mapping values are not allowed here at line 3, column 18",
        ),
        ("run: r\nstorage_options:\n\tsecret: hunter2\n", "found character '..' that cannot start any token at line 3"),
        ("run: r\nstorage_options: {secret: 'hunter2\n", "found unexpected end of stream at line 3"),
        ("secret: @hunter2", "found character '@' that cannot start any token at line 1, column 9"),
        ('secret: "hunter2\\q"', "found unknown escape character at line 1, column 18"),
        ("run: hunter2\n---\nrun: hunter2\n", "found another document at line 2"),
        ("? {hunter2: x}\n: 1\n", "found unhashable key at line 1, column 3"),
        ("run: r\nsecrets: {'hunter2 x': 1, 'hunter2 x': 2}\n", "the key occurs twice at line 2, column 27"),
        ("run: hunter2\0", "special characters are not allowed at character 13"),
        ("hunter2", "expected keys and values, found str"),
        ("run: {sftp: hunter2}", "run in .*: expected a valid string, found dict"),
        ("run: [hunter2]", "found list"),
        ("run: r\nevery: {steps: hunter2}", "expected a valid integer, .*found text of length 7"),
        ("run: r\nresume: hunter2", "expected 'auto', 'must' or 'never', found text of length 7"),
        ("run: r\nsignals: [hunter2]", "the name of a signal that can be watched, found text of length 7"),
        ("run: r\nstorage_options: hunter2", "expected a valid dictionary, found text of length 7"),
        ("run: r\nsftp://bob:hunter2@host/x: y", "unknown key 'sftp://host/x'"),
    ],
)
def test_a_refusal_says_where_and_quotes_nothing_of_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Config.load(path)
    assert "hunter2" not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}"


def test_a_file_with_a_few_references_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "run: r\nevery: &often {steps: 5}\nkeep: {every: *often}\n"
        "storage_options: {a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}\n"
    )
    config = Config.load(path)
    assert config.keep.every.steps == config.every.steps == 5
    assert config.storage_options == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_what_is_just_within_the_bounds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    head = "run: r\nstorage_options: {list: ["
    path.write_text(head + "x, " * (MAX_VALUES - 7) + "]}")
    assert len(Config.load(path).storage_options["list"]) == MAX_VALUES - 7
    path.write_text(head + "x, " * (MAX_VALUES - 6) + "]}")
    with pytest.raises(ConfigError, match=f"more than {MAX_VALUES:,} values"):
        Config.load(path)
    depth = MAX_DEPTH - 3
    path.write_text(head + "[" * depth + "]" * depth + "]}")
    assert Config.load(path).storage_options["list"]
    path.write_text(head + "[" * (depth + 1) + "]" * (depth + 1) + "]}")
    with pytest.raises(ConfigError, match=f"nested more than {MAX_DEPTH} deep"):
        Config.load(path)
    path.write_text("run: r\n#" + "x" * (MAX_BYTES - 8))
    assert Config.load(path).run == "r"
    path.write_text("run: r\n#" + "x" * (MAX_BYTES - 7))
    with pytest.raises(ConfigError, match="more than 256 KiB"):
        Config.load(path)


def _holding_itself() -> dict[str, Any]:
    values: dict[str, Any] = {"run": "r"}
    return values | {"storage_options": values | {"more": values.setdefault("list", []).append(values)}}


def _deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(3000):
        value = {"a": value}
    return {"run": "r", "storage_options": value}


def _many() -> dict[str, Any]:
    value = ["x"] * 9
    for _ in range(9):
        value = [value] * 9
    return {"run": "r", "storage_options": {"a": value}}


@pytest.mark.parametrize(
    ("values", "said"),
    [(_holding_itself(), "a value that holds itself"), (_deep(), "nested more than"), (_many(), "more than .* values")],
)
@pytest.mark.parametrize("make", [Config.load, lambda values: Config(**values), lambda v: Config.load({}, **v)])
def test_values_in_code_are_bounded_too(make: Callable[[Any], Config], values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(values)


@pytest.mark.parametrize("key", ["steps", "minutes"])
def test_a_number_that_python_does_not_print_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"every\.{key}.*found int"):
        Config.load({"run": "r", "every": {key: 10**5000}})


@pytest.mark.parametrize("name", ["STORAGE_OPTIONS", "SIGNALS", "EVERY"])
@pytest.mark.parametrize(
    "value", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 100_000, "9" * 100_000, '{"a": "hunter2"', '"hunter2"']
)
def test_a_variable_that_is_a_bomb_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"RESUMABLE_{name}", value)
    with pytest.raises(ConfigError) as caught:
        Config.load({"run": "r"})
    assert "hunter2" not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}"
    assert len(str(caught.value)) < 500
