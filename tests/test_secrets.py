"""Everything that working and failing runs print, raise and write, searched for the secrets that were planted."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import resumable
from resumable import Run, Trainer, load, load_weights, save
from resumable.cli import main
from resumable.config.config import Config
from resumable.convert import convert
from resumable.export import export, verify
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.weights.files import SINGLE
from tests.tiny import Tiny

# Each piece is looked for, so that no half of a password is left either.
PIECES = ("planteduser", "Pl4nted", "w0rd", "tok3n", "0ptionkey", "0ptionvalue", "31415926")
USER_INFO = "planteduser:Pl4nted/w@0rd:w0rd"
QUERY = "?X-Amz-Signature=tok3n"
OPTIONS = {"key": "0ptionkey", "client_kwargs": {"deep": ["0ptionvalue", {"pin": 31415926}]}}
MEMORY = f"memory://{USER_INFO}@host/run{QUERY}"
PLACES = {
    "memory": f"memory://{USER_INFO}@host/absent{QUERY}",
    "sftp": f"sftp://{USER_INFO}@127.0.0.1:1/run",
    "sftp without a port": f"sftp://{USER_INFO}@127.0.0.1/run",
    "sftp without a host": "sftp://planteduser:Pl4nted/run",
    "s3": f"s3://{USER_INFO}@bucket/run{QUERY}",
    "https": f"https://planteduser:Pl4nted@127.0.0.1:1/run{QUERY}",
    "a cache": f"filecache::https://planteduser:Pl4nted@127.0.0.1:1/run{QUERY}",
    "no protocol": f"gopher://{USER_INFO}@host/run{QUERY}",
    "a space before it": f" sftp://{USER_INFO}@host/run",
}
ENDPOINT = {"endpoint_url": "http://planteduser:Pl4nted@127.0.0.1:1/?tok3n"}

Call = Callable[[str, dict[str, Any]], Any]


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def cli(*arguments: str) -> Call:
    """A verb of the command line, on a place and with options."""

    def call(url: str, options: dict[str, Any]) -> None:
        words = [word.replace("URL", url) for word in arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["resumable", *words, "--storage-options", json.dumps(options)])
            main()

    return call


CALLS: dict[str, Call] = {
    "Trainer": lambda url, options: Trainer({"run": url, "storage_options": options}, m=model()),
    "Trainer, must": lambda url, o: Trainer({"run": url, "storage_options": o, "resume": "must"}, m=model()),
    "Trainer of a path": lambda url, options: Trainer(url, m=model()),
    "Run": lambda url, options: Run(url, storage_options=options),
    "Run.latest": lambda url, options: Run(url, storage_options=options).latest(),
    "Run.best": lambda url, options: Run(url, storage_options=options).best(),
    "Run.finite": lambda url, options: Run(url, storage_options=options).finite(),
    "Run.at": lambda url, options: Run(url, storage_options=options).at(31),
    "Run.select": lambda url, options: Run(url, storage_options=options).select("step-31"),
    "a selector in Run": lambda url, options: Run(f"{url}@best", storage_options=options).latest(),
    "load_weights": lambda url, options: load_weights(model(), url, storage_options=options),
    "load_weights @": lambda url, options: load_weights(model(), f"{url}@31", storage_options=options),
    "load_weights of a file": lambda url, o: load_weights(model(), f"{url}/{SINGLE}", storage_options=o),
    "load_weights, swapped": lambda url, options: load_weights(url, model()),  # type: ignore[arg-type]
    "save": lambda url, options: save({"x": torch.ones(1)}, url, storage_options=options),
    "save of what cannot be": lambda url, options: save({"x": print}, url, storage_options=options),
    "load": lambda url, options: load(url, storage_options=options),
    "load of a part": lambda url, options: load(url, only="nothing", storage_options=options),
    "convert": lambda url, options: convert(url, url + "x", storage_options=options),
    "export": lambda url, options: export(url, "exported", storage_options=options),
    "export there": lambda url, options: export("nowhere", url),
    "verify": lambda url, options: verify(url),
    "Config.load": lambda url, options: Config.load(url),
    "Config, wrong": lambda url, o: Config.load({"run": {"url": url}, "storage_options": list(o), "every": url}),
    "Config, unknown key": lambda url, options: Config.load({"run": url, "storage_option": options, url: url}),
    **{
        f"cli {' '.join(words)}": cli(*words)
        for words in (
            ("ls", "URL"),
            ("ls", "URL", "--json"),
            ("ls", "URL@best"),
            ("ls", "URL@bset"),
            ("ls", "one", "URL"),
            ("URL",),
            ("show", "URL@31"),
            ("show", "URL", "--json"),
            ("verify", "URL", "--json"),
            ("verify", "URL@31"),
            ("verify", "URL", "--model", "a:b"),
            ("diff", "URL@latest", "URL@best"),
            ("diff", "URL", "URL", "--json"),
            ("prune", "URL", "--dry-run", "--json"),
            ("prune", "URL"),
            ("pin", "URL", "--json"),
            ("pin", "URL@31"),
            ("export", "URL", "--to", "exported", "--json"),
            ("export", "URL", "--to", "URL"),
            ("convert", "URL", "URL.safetensors", "--json"),
            ("convert", "absent", "URL"),
        )
    },
}


# In the default run; the others go through the same few lines.
FEW = ("Trainer", "load", "load_weights of a file", "cli ls URL")


class Everything:
    """What was printed, logged and raised since the last look."""

    def __init__(self, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self._capfd = capfd
        self._caplog = caplog

    def of(self, call: Callable[[], object]) -> str:
        told: list[str] = []
        try:
            told.append(repr(call()))
        except (Exception, SystemExit) as error:
            told += [str(error), repr(error), *traceback.format_exception(error)]
        printed = self._capfd.readouterr()
        told += [printed.out, printed.err, self._caplog.text]
        self._caplog.clear()
        return "\n".join(told)


@pytest.fixture
def everything(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Everything:
    monkeypatch.setattr(FsspecStorage, "patience_seconds", 0.0)
    monkeypatch.setattr(logging.getLogger("resumable"), "propagate", True)
    caplog.set_level(logging.INFO, "resumable")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESUMABLE_STORAGE_OPTIONS__SECRET", "0ptionvalue")
    # Nothing asks a service elsewhere.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return Everything(capfd, caplog)


def leaked(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text]


def own_memory(patch: pytest.MonkeyPatch) -> None:
    """Give the memory filesystem files of its own: those of other tests stay."""
    patch.setattr(MemoryFileSystem, "store", {})
    patch.setattr(MemoryFileSystem, "pseudo_dirs", [""])


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    own_memory(monkeypatch)


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    """The files of a run whose URL and options hold secrets, of two launches."""
    with pytest.MonkeyPatch.context() as patch:
        own_memory(patch)
        Tiny(MEMORY, storage_options=OPTIONS).train(1)
        Tiny(MEMORY, storage_options=OPTIONS).train(2)
        return dict(fsspec.filesystem("memory").store)


@pytest.fixture
def run(files: dict[str, Any]) -> str:
    """Where that run is, for one test."""
    fsspec.filesystem("memory").store.update(files)
    return MEMORY


def test_working_launches_print_and_write_no_secret(everything: Everything) -> None:
    for epochs in (1, 2, 2):
        said = everything.of(lambda epochs=epochs: Tiny(MEMORY, storage_options=OPTIONS).train(epochs))
        assert ("run=memory://host/run" if epochs == 1 else "RESUME") in said
        assert not leaked(said)
    files = fsspec.filesystem("memory").store
    assert len(files) > 10
    for name, file in files.items():
        assert not leaked(file.getvalue().decode("latin-1")), name


@pytest.mark.parametrize("name", CALLS)
def test_no_use_of_a_run_prints_or_raises_a_secret(run: str, everything: Everything, name: str) -> None:
    said = everything.of(lambda: CALLS[name](run, OPTIONS))
    assert not leaked(said), said


@pytest.mark.parametrize("config", [{"resume": "never"}, {"data_seed": 9}])
def test_no_refusal_of_a_launch_holds_a_secret(run: str, everything: Everything, config: dict[str, Any]) -> None:
    said = everything.of(lambda: Tiny(run, storage_options=OPTIONS, **config).train(3))
    assert "memory://host/run: " in said
    assert not leaked(said), said


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.matrix) for name in CALLS],
)
@pytest.mark.parametrize("place", PLACES)
def test_no_failure_of_a_place_prints_or_raises_a_secret(everything: Everything, place: str, name: str) -> None:
    said = everything.of(lambda: CALLS[name](PLACES[place], OPTIONS))
    assert not leaked(said), said


@pytest.mark.parametrize("options", [ENDPOINT, OPTIONS | {"secret": "0ptionvalue"}, {"0ption": "0ptionvalue"}])
@pytest.mark.parametrize("name", ["Trainer", "Run.latest", "load_weights", "save", "load", "cli ls URL"])
def test_no_failure_of_a_client_s_options_holds_a_secret(
    everything: Everything, name: str, options: dict[str, Any]
) -> None:
    said = everything.of(lambda: CALLS[name]("s3://bucket/run", options))
    assert "s3://bucket/run" in said
    assert not leaked(said), said


@pytest.mark.parametrize("name", [MEMORY, Path(MEMORY), Path(PLACES["sftp"]), f"{MEMORY}.yaml", f"{MEMORY}\n"])
def test_a_text_or_path_that_names_a_run_leaks_no_secret(everything: Everything, name: str | Path) -> None:
    said = everything.of(lambda: Trainer(name, m=model()))
    assert not leaked(said), said


def test_two_runs_that_the_environment_puts_into_one_are_named_without_secrets(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", MEMORY)
    for number in (1, 2):
        said = everything.of(lambda number=number: Tiny(PLACES["sftp"] + str(number)).train(1))
        assert not leaked(said), said
    assert "would put two runs of this program into one" in said


def test_what_a_break_leaves_unsaved_is_said_without_secrets(everything: Everything) -> None:
    def leave() -> None:
        with Tiny(MEMORY).trainer() as trainer:
            for _ in trainer.steps(3):
                break

    said = everything.of(leave)
    assert "trained up to step 1" in said
    assert not leaked(said), said


def test_a_run_of_which_all_is_suspect_is_named_without_secrets(everything: Everything) -> None:
    store = fsspec.filesystem("memory").store

    def ruin() -> None:
        with Tiny(MEMORY).trainer() as trainer:
            for step in trainer.steps(2):
                trainer.log(loss=1.0 if step == 0 else float("nan"))
        for path in [path for path in store if "step-000000000" in path]:
            del store[path]
        Run(MEMORY).finite()

    said = everything.of(ruin)
    assert "every checkpoint is suspect" in said
    assert not leaked(said), said


def test_what_a_lightning_run_is_named_by_holds_no_secret() -> None:
    from resumable.lightning import Resume
    from resumable.utils.location import absolute_location

    resume = Resume({"run": MEMORY, "storage_options": OPTIONS})
    public = json.dumps(resume.config.public())
    assert not leaked(f"{resume!r}{resume.config!r}{resume.config}{absolute_location(MEMORY)}{public}")


def test_a_launch_that_fails_leaves_no_secret_in_the_traceback_that_python_prints(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"run: {PLACES['sftp']}\nstorage_options: {json.dumps(OPTIONS)}\n")
    (tmp_path / "broken.yaml").write_text("run: x\nstorage_options: {secret: *0ptionvalue}\n")
    code = "import sys, torch, resumable; resumable.Trainer(sys.argv[1], model=torch.nn.Linear(1, 1))"
    for name in ("run.yaml", "broken.yaml"):
        ended = subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, capture_output=True, text=True)
        assert "Traceback" in ended.stderr
        assert not leaked(ended.stdout + ended.stderr), ended.stderr


def test_no_message_of_the_package_is_made_of_a_raw_url() -> None:
    """`Run.url` and `Config.run` open; what is printed is their `location`."""
    for path in Path(resumable.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FormattedValue):
                written = ast.unparse(node.value)
                assert not re.search(r"\bconfig\.run$|\brun\.url$", written), path
                assert path.name != "run.py" or written != "self.url", path


def test_an_answer_of_a_client_is_passed_without_what_it_quotes(run: str, everything: Everything) -> None:
    storage = Run(run, storage_options=OPTIONS)._storage
    fsspec.filesystem("memory").pipe_file("/planteduser:Pl4nted/w@0rd:w0rd@host/run?X-Amz-Signature=tok3n/file", b"")
    said = everything.of(lambda: storage.write("file/below", [b"x"]))
    assert "FileExistsError(17, 'File exists')" in said
    assert not leaked(said), said
