"""The lines of a run, whatever the program does about logging, before the launch or after it."""

from __future__ import annotations

import importlib
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from resumable.utils import events
from tests.tiny import Tiny

OURS = logging.getLogger("resumable")
ROOT = logging.getLogger()
LOUD = ("NEW", "RESUME", "TAKEOVER", "DONE", "PREEMPT")


@contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Logging without any handler. Around the test's own call, for which pytest puts handlers on the root."""
    before = [(each, each.handlers[:], each.level, each.propagate, each.disabled) for each in (ROOT, OURS)]
    ROOT.handlers[:], OURS.handlers[:] = [], []
    ROOT.setLevel(logging.WARNING)
    OURS.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for each, handlers, level, propagate, disabled in before:
            for made in set(each.handlers) - set(handlers):
                made.close()
            each.handlers[:], each.propagate, each.disabled = handlers, propagate, disabled
            each.setLevel(level)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What stands on stderr since the last call."""
    return lambda: capsys.readouterr().err.splitlines()


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "all.log"


def to_file(path: Path, level: int = logging.NOTSET) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(level)
    return handler


def set_up_at_warning() -> None:
    logging.basicConfig()


def set_up_with_a_handler_alone() -> None:
    ROOT.addHandler(logging.StreamHandler())


def set_up_by_a_dict() -> None:
    """With `disable_existing_loggers`, which is the default."""
    root = {"handlers": ["stderr"], "level": "WARNING"}
    handlers = {"stderr": {"class": "logging.StreamHandler"}}
    logging.config.dictConfig({"version": 1, "handlers": handlers, "root": root})


AT_WARNING = [set_up_at_warning, set_up_with_a_handler_alone, set_up_by_a_dict]


def launch_lines(run: Path) -> None:
    """A new run, the same finished, and nothing left of it."""
    for _ in range(2):
        with Tiny(run).trainer() as trainer:
            for _ in trainer.steps(1):
                trainer.request_save()


@as_in_a_new_process()
def test_without_any_logging_every_line_is_printed(tmp_path: Path, printed: Callable[[], list[str]]) -> None:
    launch_lines(tmp_path / "run")
    lines = printed()
    assert [line.split()[:2] for line in lines] == [
        ["resumable:", event] for event in ("NEW", "SAVED", "SAVED", "RESUME", "DONE")
    ]


@pytest.mark.parametrize("set_up", AT_WARNING)
@as_in_a_new_process()
def test_what_nobody_may_miss_comes_at_a_root_of_warning(
    tmp_path: Path, printed: Callable[[], list[str]], set_up: Callable[[], None]
) -> None:
    set_up()
    launch_lines(tmp_path / "run")
    lines = printed()
    assert [line.removeprefix("WARNING:resumable:").split()[0] for line in lines] == ["NEW", "RESUME", "DONE"]


@pytest.mark.parametrize("set_up", AT_WARNING)
@as_in_a_new_process()
def test_it_comes_once_too_where_logging_is_set_up_after_the_launch(
    printed: Callable[[], list[str]], set_up: Callable[[], None]
) -> None:
    events.show_events()
    events.emit("SAVED", step=1)
    assert printed() == ["resumable: SAVED   step=1"]
    set_up()
    for event in (*LOUD, "SAVED"):
        events.emit(event, step=2)
    events.warn("a sentence")
    lines = printed()
    assert [line.removeprefix("WARNING:resumable:").split()[0] for line in lines] == [*LOUD, "WARN"]


@pytest.mark.parametrize("event", LOUD)
@pytest.mark.parametrize("root", [logging.DEBUG, logging.INFO])
@as_in_a_new_process()
def test_a_program_that_shows_info_gets_every_line_at_info(log_file: Path, event: str, root: int) -> None:
    events.show_events()
    ROOT.setLevel(root)
    ROOT.addHandler(to_file(log_file))
    events.emit(event, step=1)
    events.emit("SAVED", step=2)
    assert log_file.read_text() == f"INFO {event:7} step=1\nINFO SAVED   step=2\n"


@as_in_a_new_process()
def test_a_handler_that_takes_only_warnings_gets_them_too(log_file: Path, printed: Callable[[], list[str]]) -> None:
    events.show_events()
    ROOT.setLevel(logging.DEBUG)
    ROOT.addHandler(to_file(log_file, logging.WARNING))
    events.emit("RESUME", step=1)
    events.emit("SAVED", step=2)
    assert log_file.read_text() == "WARNING RESUME  step=1\n"
    assert printed() == []


@as_in_a_new_process()
def test_each_handler_of_the_program_gets_each_line_once(log_file: Path, printed: Callable[[], list[str]]) -> None:
    other = log_file.with_name("other.log")
    OURS.addHandler(to_file(log_file))
    for _ in range(3):
        events.show_events()
    logging.basicConfig(level=logging.INFO, filename=other, format="%(message)s")
    events.emit("NEW", run="r")
    events.emit("SAVED", step=2)
    assert log_file.read_text() == "INFO NEW     run=r\nINFO SAVED   step=2\n"
    assert other.read_text() == "NEW     run=r\nSAVED   step=2\n"
    assert printed() == []


@as_in_a_new_process()
def test_our_lines_are_back_when_the_program_has_no_handlers_any_more(printed: Callable[[], list[str]]) -> None:
    handler = logging.NullHandler()
    events.show_events()
    ROOT.addHandler(handler)
    events.emit("SAVED", step=1)
    ROOT.removeHandler(handler)
    events.emit("SAVED", step=2)
    assert printed() == ["resumable: SAVED   step=2"]


@as_in_a_new_process()
def test_two_launches_print_each_line_once_also_after_a_reload(printed: Callable[[], list[str]]) -> None:
    events.show_events()
    again = importlib.reload(events)
    for _ in range(2):
        again.show_events()
    again.emit("NEW", run="r")
    assert printed() == ["resumable: NEW     run=r"]


def _level_of_error() -> None:
    OURS.setLevel(logging.ERROR)


def _disabled() -> None:
    OURS.disabled = True


def _disabled_for_all() -> None:
    logging.disable(logging.WARNING)


def _a_null_handler() -> None:
    OURS.addHandler(logging.NullHandler())


def _errors_only() -> None:
    logging.basicConfig(level=logging.ERROR)


@pytest.mark.parametrize("silence", [_level_of_error, _disabled, _disabled_for_all, _a_null_handler, _errors_only])
@pytest.mark.parametrize("before", [True, False])
@as_in_a_new_process()
def test_who_wants_silence_gets_it(printed: Callable[[], list[str]], silence: Callable[[], None], before: bool) -> None:
    if before:
        silence()
    events.show_events()
    silence()
    for event in (*LOUD, "SAVED"):
        events.emit(event, step=1)
    events.warn("a sentence")
    assert printed() == []


@as_in_a_new_process()
def test_a_level_that_the_program_chose_for_our_lines_is_obeyed(printed: Callable[[], list[str]]) -> None:
    OURS.setLevel(logging.WARNING)
    events.show_events()
    events.emit("SAVED", step=1)
    events.emit("RESUME", step=1)
    OURS.setLevel(logging.NOTSET)
    logging.disable(logging.INFO)
    events.emit("SAVED", step=2)
    assert printed() == ["resumable: RESUME  step=1"]


@as_in_a_new_process()
def test_a_dict_config_that_names_our_logger_decides(log_file: Path, printed: Callable[[], list[str]]) -> None:
    events.show_events()
    handlers = {"file": {"class": "logging.FileHandler", "filename": str(log_file)}}
    loggers = {"resumable": {"handlers": ["file"], "level": "INFO", "propagate": False}}
    logging.config.dictConfig({"version": 1, "handlers": handlers, "loggers": loggers})
    events.emit("SAVED", step=1)
    assert log_file.read_text() == "SAVED   step=1\n"
    assert printed() == []


@as_in_a_new_process()
def test_lines_of_a_test_reach_caplog(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ROOT.addHandler(caplog.handler)
    launch_lines(tmp_path / "run")
    assert [line.split()[0] for line in caplog.messages] == ["NEW", "RESUME", "DONE"]


@as_in_a_new_process()
def test_a_line_goes_where_a_progress_bar_has_put_stderr(printed: Callable[[], list[str]]) -> None:
    events.show_events()
    console = Console(file=sys.stderr, force_terminal=True, width=80)
    with Live("the bar", console=console, redirect_stderr=True, auto_refresh=False):
        assert type(sys.stderr).__name__ == "FileProxy"
        events.emit("SAVED", step=1)
    lines = printed()
    [at] = [number for number, line in enumerate(lines) if "resumable: SAVED   step=1" in line]
    assert "the bar" not in lines[at]
    assert "the bar" in lines[at + 1]
