"""The configuration: where values come from, which beats which, and what a wrong one is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from resumable.config.config import Config
from resumable.config.sections import Best, Every, Keep
from resumable.errors import ConfigError
from resumable.policy.retention import Rule
from resumable.policy.save_policy import Schedule

CONFIGS = Path(__file__).parents[2] / "configs"


def _file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _refusal(*args: object, **overrides: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.load(*args, **overrides)  # type: ignore[arg-type]
    assert caught.value.hint, "every refusal says what to do next"
    return caught.value


def test_full_yaml_holds_every_key_and_equals_the_defaults() -> None:
    values = yaml.safe_load((CONFIGS / "full.yaml").read_text())
    expected = Config(run=values["run"])
    assert Config.load(CONFIGS / "full.yaml") == expected
    assert values == expected.model_dump(mode="json")


def test_every_line_with_a_key_of_full_yaml_has_a_comment() -> None:
    lines = (CONFIGS / "full.yaml").read_text().splitlines()
    assert [line for line in lines if ":" in line and "#" not in line] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_each_shipped_config_loads(path: Path) -> None:
    config = Config.load(path)
    assert Config.load(config.model_dump()) == config


def test_digits_yaml_saves_several_times_in_its_twenty_epochs() -> None:
    config = Config.load(CONFIGS / "digits.yaml")
    assert (config.run, config.every.steps, config.keep.last) == ("runs/digits", 40, 3)
    assert config.keep.best == Best(metric="val_loss")


def test_spot_yaml_saves_by_the_clock_and_on_signals_to_s3() -> None:
    config = Config.load(CONFIGS / "spot.yaml")
    assert config.run.startswith("s3://")
    assert config.every.minutes is not None
    assert config.every.minutes <= 5
    assert {"SIGTERM", "SIGUSR1"} <= set(config.signals)
    assert config.resume == "auto"


def test_arguments_beat_the_environment_which_beats_the_file_which_beats_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path, "run: file\nevery: {steps: 1, minutes: 1, epochs: 1}\n")
    monkeypatch.setenv("RESUMABLE_EVERY__STEPS", "2")
    monkeypatch.setenv("RESUMABLE_EVERY__MINUTES", "2.5")
    config = Config.load(path, every={"minutes": 3})
    assert config.every == Every(steps=2, minutes=3, epochs=1)
    assert config.keep == Keep()


def test_the_environment_beats_a_mapping_and_a_config_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", "123")
    assert Config.load({"run": "mapping"}).run == "123"
    assert Config.load(Config(run="config")).run == "123"


def test_arguments_still_beat_the_environment_when_their_config_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", "environment")
    monkeypatch.setenv("RESUMABLE_EVERY__STEPS", "7")
    again = Config.load(Config.load({"run": "mapping", "every": {"steps": 1}}, run="argument"))
    assert (again.run, again.every.steps) == ("argument", 7)


def test_a_changed_copy_of_a_config_keeps_its_change_when_loaded() -> None:
    config = Config.load({"run": "mapping"}, run="argument")
    assert Config.load(config.model_copy(update={"run": "copy"})).run == "copy"


def test_a_config_made_directly_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", "environment")
    assert Config(run="given").run == "given"


def test_every_kind_of_value_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "RESUMABLE_DATA_SEED": "5",
        "RESUMABLE_EVERY": '{"steps": 9}',
        "RESUMABLE_EVERY__MINUTES": "null",
        "RESUMABLE_KEEP__BEST__MODE": "max",
        "RESUMABLE_SIGNALS": '["SIGTERM"]',
        "RESUMABLE_STORAGE_OPTIONS__PROFILE": "mine",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    config = Config.load({"run": "x", "storage_options": {"anon": False}})
    assert config.data_seed == 5
    assert config.every == Every(steps=9, minutes=None)
    assert config.keep.best == Best(mode="max")
    assert config.signals == ("SIGTERM",)
    assert config.storage_options == {"anon": False, "profile": "mine"}


def test_the_variables_of_the_drill_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_KILL", "step:3")
    monkeypatch.setenv("RESUMABLE_KILL_LOG", "log")
    assert Config.load({"run": "x"}) == Config(run="x")


def test_all_of_every_may_be_null_and_best_may_be_null() -> None:
    never = {"steps": None, "minutes": None}
    config = Config.load({"run": "x", "every": never, "keep": {"best": None}})
    assert config.every.schedule() == Schedule()
    assert config.keep.rule() == Rule(last=3, best_metric=None)


def test_a_share_switches_off_the_steps_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    share = {"overhead_percent": 2}
    assert Every(overhead_percent=2).schedule() == Schedule(steps=None, minutes=10, overhead_percent=2)
    assert Config.load({"run": "x", "every": share}).every.steps is None
    assert Config.load(Config.load({"run": "x", "every": share})).every.steps is None
    assert Config.load({"run": "x", "every": share | {"steps": 500}}).every.steps == 500
    assert Config.load({"run": "x", "every": {"overhead_percent": None}}).every.steps == 500
    assert Config.load(Config(run="x"), every=share).every.steps is None
    monkeypatch.setenv("RESUMABLE_EVERY__OVERHEAD_PERCENT", "2")
    assert Config.load({"run": "x"}).every.steps is None
    assert Config.load({"run": "x", "every": {"steps": 500}}).every.steps == 500


def test_sections_turn_into_the_plain_values_of_policy_and_retention() -> None:
    every = Every(steps=1, minutes=2.0, epochs=3, overhead_percent=4.0)
    assert every.schedule() == Schedule(steps=1, minutes=2.0, epochs=3, overhead_percent=4.0)
    keep = Config(run="x", keep={"last": 2, "every": {"steps": 5}, "best": {"metric": "a", "mode": "max", "count": 4}})
    expected = Rule(last=2, every_steps=5, best_metric="a", best_mode="max", best_count=4)
    assert keep.keep.rule() == expected


def test_a_run_may_be_a_path_and_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Config(run=tmp_path).run == str(tmp_path)
    assert Config(run="~/runs").run == "/home/someone/runs"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config(run="x").run = "y"  # type: ignore[misc]


def test_public_values_are_json_without_secrets() -> None:
    options = {"key": "AKIA", "client_kwargs": {"token": "s3cret"}}
    config = Config(run="sftp://me:s3cret@host/runs", storage_options=options, signals=["SIGTERM"])
    public = config.public()
    assert "s3cret" not in json.dumps(public) + repr(config.storage_options and public)
    assert public["storage_options"] == {"key": "***", "client_kwargs": "***"}
    assert public["run"] == "sftp://host/runs"
    assert public["signals"] == ["SIGTERM"]
    assert config.storage_options == options


def test_neither_repr_nor_a_refusal_shows_storage_options() -> None:
    assert "s3cret" not in repr(Config(run="x", storage_options={"key": "s3cret"}))
    refusal = _refusal({"run": "x", "storage_options": "s3cret"})
    assert "storage_options" in str(refusal)
    assert "s3cret" not in str(refusal) + str(refusal.__cause__)


# ---- refusals


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ({"evry": {}}, "did you mean 'every'?"),
        ({"every": {"step": 5}}, "did you mean 'every.steps'?"),
        ({"keep": {"best": {"metrik": "x"}}}, "did you mean 'keep.best.metric'?"),
        ({"keep": {"every": {"stps": 1}}}, "did you mean 'keep.every.steps'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name_and_its_file(
    tmp_path: Path, key: dict[str, object], guess: str
) -> None:
    path = _file(tmp_path, yaml.safe_dump({"run": "x", **key}))
    refusal = _refusal(path)
    assert "unknown key" in refusal.message
    assert guess in refusal.message
    assert str(path) in refusal.message


def test_a_key_like_none_there_is_gets_no_guess() -> None:
    assert "did you mean" not in str(_refusal({"run": "x", "zzzzzzzz": 1}))


@pytest.mark.parametrize("name", ["_env_file", "_overrides", "__init__", "self", "model_config"])
def test_names_inside_the_model_are_no_keys(name: str) -> None:
    assert f"unknown key {name!r}" in _refusal({"run": "x", name: "y"}).message


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"every": {"steps": "fast"}}, ["every.steps", "integer", "'fast'"]),
        ({"every": {"steps": 0}}, ["every.steps", "greater than or equal to 1", "0"]),
        ({"every": {"steps": True}}, ["every.steps", "number", "True"]),
        ({"every": {"steps": 1.5}}, ["every.steps", "integer", "1.5"]),
        ({"every": {"minutes": float("inf")}}, ["every.minutes", "finite", "inf"]),
        ({"every": {"overhead_percent": 101}}, ["every.overhead_percent", "100", "101"]),
        ({"every": 5}, ["every", "5"]),
        ({"keep": {"last": 0}}, ["keep.last", "1", "0"]),
        ({"keep": {"best": {"mode": "mini"}}}, ["keep.best.mode", "'min' or 'max'", "'mini'"]),
        ({"resume": True}, ["resume", "'auto', 'must' or 'never'", "True"]),
        ({"data_seed": -1}, ["data_seed", "0", "-1"]),
        ({"signals": ["SIGTERM", "TERM"]}, ["signals.1", "did you mean 'SIGTERM'?", "'TERM'"]),
        ({"signals": ["SIGKILL"]}, ["signals.0", "can be watched", "'SIGKILL'"]),
        ({"signals": ["SIGSTOP"]}, ["signals.0", "can be watched", "'SIGSTOP'"]),
        ({"signals": ["SIGCHLD"]}, ["signals.0", "can be watched", "'SIGCHLD'"]),
        ({"signals": [15]}, ["signals.0", "can be watched", "15"]),
        ({"run": 5}, ["run", "string", "5"]),
        ({"run": " "}, ["run", "a folder or a URL", "' '"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_what_was_expected_and_what_was_found(
    values: dict[str, object], parts: list[str]
) -> None:
    refusal = _refusal({"run": "x", **values})
    for part in [*parts, "the mapping given", "expected", "found"]:
        assert part in refusal.message


def test_a_missing_run_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    path = _file(tmp_path, "")
    refusal = _refusal(path)
    assert "run" in refusal.message
    assert str(path) in refusal.message
    assert refusal.hint is not None
    assert "RESUMABLE_RUN" in refusal.hint


def test_all_that_is_wrong_is_told_at_once() -> None:
    refusal = _refusal({"run": "x", "evry": 1, "resume": "no", "keep": {"last": "all"}})
    assert len(refusal.message.splitlines()) == 3


def test_a_refusal_names_the_source_that_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "run: x\nevery: {steps: 5}\n")
    assert "the arguments" in _refusal(path, every={"steps": 0}).message
    monkeypatch.setenv("RESUMABLE_EVERY__STEPS", "often")
    assert "RESUMABLE_EVERY__STEPS" in _refusal(path).message


def test_a_config_made_directly_refuses_in_the_same_way() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'evry'.*did you mean 'every'"):
        Config(run="x", evry=1)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("RESUMABLE_EVERY_STEPS", "5", "did you mean 'RESUMABLE_EVERY__STEPS'?"),
        ("RESUMABLE_EVERY__STEP", "5", "did you mean 'every.steps'?"),
        ("RESUMABLE_RNU", "x", "did you mean 'RESUMABLE_RUN'?"),
        ("RESUMABLE_SIGNALS", "SIGTERM", "RESUMABLE_SIGNALS in the environment: expected JSON"),
    ],
)
def test_a_variable_that_means_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    refusal = _refusal({"run": "x"})
    assert name in refusal.message
    assert part in refusal.message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run: [x", "not valid YAML"),
        ("- run\n- x\n", "expected keys and values, found list"),
        ("just words", "expected keys and values, found str"),
        ("run: x\nrun: y\n", "the key 'run' occurs twice"),
        ("run: x\nevery: {steps: 1, steps: 2}\n", "the key 'steps' occurs twice"),
        ("run: x\non: 5\n", "expected text for a key, found True"),
        ("run: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, text: str, part: str) -> None:
    path = _file(tmp_path, text)
    refusal = _refusal(path)
    assert str(path) in refusal.message
    assert part in refusal.message


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"run: \xff\xfe")
    assert str(path) in _refusal(path).message


def test_a_file_that_is_not_there_is_refused_with_the_folder_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refusal = _refusal("absent.yaml")
    assert "absent.yaml" in refusal.message
    assert str(tmp_path) in refusal.message
    assert isinstance(refusal.__cause__, FileNotFoundError)


def test_something_that_is_no_source_is_refused_with_examples() -> None:
    assert "found int" in _refusal(5).message


@pytest.mark.parametrize(
    "given", ["runs/a", "runs/lr0.1", "runs/a.b.c", "s3://bucket/a.json", "memory://a", "/tmp/none"]
)
def test_a_text_that_does_not_end_as_a_yaml_file_does_is_the_run(given: str) -> None:
    assert Config.load(given) == Config(run=given)


def test_a_path_is_a_run_or_a_file_as_its_text_would_be(tmp_path: Path) -> None:
    assert Config.load(tmp_path / "a") == Config(run=str(tmp_path / "a"))
    assert Config.load(_file(tmp_path, "run: b\n")) == Config(run="b")


@pytest.mark.parametrize("ending", ["yaml", "yml", "YAML"])
def test_what_ends_as_a_yaml_file_does_is_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mine.{ending}"
    assert str(path) in _refusal(str(path)).message
    path.write_text("run: b\n")
    assert Config.load(str(path)) == Config(run="b")


def test_the_home_folder_stands_in_a_run_that_is_given_as_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert Config.load("~/runs/a").run == "/home/me/runs/a"


def test_the_environment_and_arguments_beat_a_run_given_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", "environment")
    assert Config.load("text").run == "environment"
    config = Config.load("text", run="argument", every={"steps": 3})
    assert (config.run, config.every) == ("argument", Every(steps=3))


def test_a_run_that_is_there_is_a_run_whatever_lies_beside_it(tmp_path: Path) -> None:
    for name in ("run", "run.json"):
        (tmp_path / name).mkdir()
        (tmp_path / "run.yaml").write_text("run: other\n")
        assert Config.load(str(tmp_path / name)).run == str(tmp_path / name)


@pytest.mark.parametrize("text", ["run", "run.json", "run.ymal", "run.yam", "run.toml", "run.YAM"])
def test_a_slip_in_the_name_of_a_config_begins_no_run(tmp_path: Path, text: str) -> None:
    path = _file(tmp_path, "run: b\n")
    refusal = _refusal(str(tmp_path / text))
    assert f"did you mean {str(path)!r}?" in refusal.message
    assert str(tmp_path / text) in refusal.message


@pytest.mark.parametrize("text", ["configs/a.json", "a.toml", "a.yamll", "a.cfg", "train.py"])
def test_the_name_of_some_other_kind_of_config_begins_no_run(text: str) -> None:
    refusal = _refusal(text)
    assert "found neither" in refusal.message
    assert "did you mean" not in refusal.message


@pytest.mark.parametrize("name", ["config.json", "config.txt", "config"])
def test_a_file_that_does_not_end_as_a_yaml_file_does_is_neither_read_nor_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("run: b\n")
    assert "found a file" in _refusal(str(tmp_path / name)).message


def test_the_text_of_a_config_is_no_name_of_one() -> None:
    assert "several lines" in _refusal("run: runs/a\nevery: {steps: 1}\n").message


def test_a_url_that_a_path_has_changed_is_no_folder() -> None:
    assert "expected a URL with ://" in _refusal(Path("s3://bucket/run")).message


def test_a_run_without_a_name_is_refused() -> None:
    assert "expected a folder or a URL, found ''" in _refusal("").message
