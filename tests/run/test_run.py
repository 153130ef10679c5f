"""The read side: which checkpoint is meant, and what is in it, in a folder and in memory, without a trainer."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import nn

from resumable import Checkpoint, NoCheckpointError, Run, RunMismatchError, Trainer, load_weights
from resumable.errors import FormatVersionError
from resumable.run.target import parse_target, parse_target_or_folder, unknown_selector
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import checkpoint_path
from resumable.store.storage.local import LocalStorage
from tests.store.building import launch, save
from tests.tiny import Tiny, crashed

LOSSES = [3.0, 1.0, 2.0]
_numbers = itertools.count()


@pytest.fixture(params=["folder", "memory"], scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished run of three epochs, each with its checkpoint."""
    if request.param == "folder":
        url = str(tmp_path_factory.mktemp("read") / "run")
    else:
        url = f"memory://read{next(_numbers)}/run"
    trained(url)
    yield url
    if request.param == "memory":
        fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)


def trained(url: str) -> Tiny:
    tiny = Tiny(url, saves=(), every={"steps": None, "minutes": None, "epochs": 1}, keep={"last": 9})
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(len(LOSSES)):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
            trainer.log(val_loss=LOSSES[epoch])
    return tiny


# -- which ------------------------------------------------------------------------------------------------------------


def test_checkpoints_come_oldest_first(url: str) -> None:
    checkpoints = Run(url).checkpoints()
    assert [(checkpoint.step, checkpoint.epoch) for checkpoint in checkpoints] == [(0, 0), (4, 1), (8, 2), (12, 3)]
    assert [checkpoint.manifest.finished for checkpoint in checkpoints] == [False, False, False, True]
    assert repr(checkpoints[1]) == "Checkpoint('step-000000004.e0001.a0001')"


@pytest.mark.parametrize(
    ("selector", "step"),
    [(None, 12), ("latest", 12), ("best", 8), ("finite", 12), ("4", 4), ("0", 0), ("step-000000008.e0002.a0001", 8)],
)
def test_a_selector_names_a_checkpoint(url: str, selector: str | None, step: int) -> None:
    assert Run(url).select(selector).step == step


def test_the_methods_name_the_same_as_the_selectors(url: str) -> None:
    run = Run(url)
    assert [run.latest().step, run.best().step, run.at(4).step] == [12, 8, 4]
    assert run.best().manifest.metrics == {"val_loss": 1.0}


def test_a_step_without_a_checkpoint_is_an_error_that_names_those_with_one(url: str) -> None:
    with pytest.raises(NoCheckpointError, match="no checkpoint at step 5") as caught:
        Run(url).at(5)
    assert "0, 4, 8, 12" in str(caught.value.hint)


def test_a_name_that_is_not_there_is_an_error(url: str) -> None:
    with pytest.raises(NoCheckpointError, match="no checkpoint 'step-000000009") as caught:
        Run(url).select("step-000000009.e0002.a0001")
    assert "resumable ls" in str(caught.value.hint)


def test_no_run_at_all_is_an_error_that_asks_for_the_right_place(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match="no checkpoints here") as caught:
        Run(str(tmp_path)).latest()
    assert "is this the folder or URL in `run:` of the config?" in str(caught.value.hint)
    assert not list(tmp_path.iterdir()), "reading writes nothing"


def test_a_folder_of_runs_names_the_first_of_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "no run", "no\\name"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if len(name) == 1:
            (tmp_path / "runs" / name / "run.json").touch()
    with pytest.raises(NoCheckpointError, match="no checkpoints here, but runs below it") as caught:
        Run(f"{tmp_path}/runs/").latest()
    runs = f"{tmp_path}/runs"
    assert caught.value.hint == f"name one of them: {runs}/a, {runs}/b, {runs}/c, {runs}/d and 1 more"


@pytest.mark.parametrize("selector", ["bset", "step_4", "4.5", "Best", ""])
def test_a_selector_that_is_none_is_told_with_those_that_are(url: str, selector: str) -> None:
    target = f"{url}@{selector}"
    for ask in (lambda: Run(parse_target(target)[0]).latest(), lambda: load_weights(nn.Linear(1, 1), target)):
        with pytest.raises(NoCheckpointError) as caught:
            ask()
        assert caught.value.message == f"{target}: unknown selector {selector!r}, and no folder of this name"
        assert caught.value.hint == "write @latest, @best, @finite, @STEP or @step-NAME"


@pytest.mark.parametrize("place", ["mail@example/run", "run", "mail@example"])
def test_an_at_sign_that_begins_no_selector_is_not_taken_for_one(tmp_path: Path, place: str) -> None:
    (tmp_path / "mail@example").mkdir()
    (tmp_path / "mail@example" / "notes.txt").touch()
    with pytest.raises(NoCheckpointError) as caught:
        Run(str(tmp_path / place)).latest()
    assert "selector" not in str(caught.value)


def test_the_name_of_a_user_is_no_selector() -> None:
    assert unknown_selector("sftp://me@host") is None
    assert unknown_selector("sftp://me@host/runs/a") is None
    assert unknown_selector("sftp://me@host/runs/a@last") is not None


def test_a_selector_that_is_given_to_run_is_told_where_to_give_it(url: str) -> None:
    with pytest.raises(NoCheckpointError) as caught:
        Run(f"{url}@best").latest()
    assert caught.value.hint == f"open the run without its selector: Run({url!r}).select('best')"


def test_best_of_a_run_that_logged_nothing_is_an_error(tmp_path: Path) -> None:
    Tiny(tmp_path / "run").train(1)
    with pytest.raises(NoCheckpointError, match="no checkpoint has a value of the metric 'val_loss'"):
        Run(str(tmp_path / "run")).best()


def test_best_of_a_run_that_names_no_metric_is_an_error(tmp_path: Path) -> None:
    Tiny(tmp_path / "run", keep={"best": None}).train(1)
    with pytest.raises(NoCheckpointError, match=r"the run's config sets no keep\.best\.metric"):
        Run(str(tmp_path / "run")).best()


def test_of_two_checkpoints_at_one_step_the_newer_is_meant(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path, every={"steps": None, "minutes": None, "epochs": 1}, saves=[3])
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                tiny.ends(trainer)
            trainer.request_save()
    assert [c.epoch for c in Run(str(tmp_path)).checkpoints() if c.step == 4] == [0, 1]
    assert Run(str(tmp_path)).at(4).epoch == 1


def test_a_damaged_one_of_two_at_one_step_is_passed_over(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path / "run")
    attempt = launch(place)
    older, newer = save(attempt, 4, epoch=0), save(attempt, 4, epoch=1)
    newest = save(attempt, 8, epoch=2)
    run = Run(str(tmp_path / "run"))
    assert run.at(4).name == str(newer)
    place.write(checkpoint_path(newer, "manifest.json"), [b"{}"])
    assert Run(str(tmp_path / "run")).at(4).name == str(older)
    place.remove(checkpoint_path(older, "model.safetensors"))
    with pytest.raises(NoCheckpointError, match="no checkpoint at step 4") as caught:
        Run(str(tmp_path / "run")).at(4)
    assert caught.value.hint == "the newest are at steps 8"
    assert Run(str(tmp_path / "run")).select(str(newest)).name == str(newest)
    with pytest.raises(NoCheckpointError, match="no checkpoint 'step-"):
        Run(str(tmp_path / "run")).select(str(older))


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path / "run")
    attempt = launch(place)
    names = [save(attempt, step) for step in (2, 4, 6, 8)]
    body = b'{"format_version":99}'
    for name in (names[0], names[2]):  # what nobody can read without an error
        place.write(checkpoint_path(name, "manifest.json"), [body[:-1] + b',"digest":"%s"}' % digest(body).encode()])
    with pytest.raises(FormatVersionError):
        Run(str(tmp_path / "run")).checkpoints()
    assert Run(str(tmp_path / "run")).latest().name == str(names[3])
    assert Run(str(tmp_path / "run")).at(4).name == str(names[1])
    assert Run(str(tmp_path / "run")).select(str(names[1])).name == str(names[1])
    with pytest.raises(FormatVersionError):
        Run(str(tmp_path / "run")).at(6)


@pytest.mark.parametrize("marked", [True, False])
def test_finite_is_the_newest_that_is_not_suspect_with_and_without_marks(tmp_path: Path, marked: bool) -> None:
    attempt = launch(LocalStorage(tmp_path / "run"))
    for step, loss in ((1, 1.0), (2, 2.0), (3, math.nan), (4, math.nan)):
        suspect = {"suspect": "loss", "suspect_since": 3} if math.isnan(loss) else {}
        position = {"witnesses": '{"metrics":{}}', **suspect} if marked else {}
        save(attempt, step, metrics={"loss": loss}, position=position)
    assert Run(str(tmp_path / "run")).finite().step == 2


def test_a_run_sees_what_is_written_after_it_was_opened(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    assert run.checkpoints() == []
    Tiny(tmp_path / "run", saves=()).train(1)
    assert run.latest().step == 4


def test_what_a_later_attempt_did_not_resume_from_is_not_in_the_history(tmp_path: Path) -> None:
    crashed(tmp_path, step=7, keep={"last": 9})
    folder = tmp_path / "checkpoints" / "step-000000006.e0001.a0001"
    hidden = folder.rename(tmp_path / "hidden")
    Tiny(tmp_path, keep={"last": 9}, saves=[5]).train()
    hidden.rename(folder)
    names = [checkpoint.name[-5:] + checkpoint.name[:14] for checkpoint in Run(str(tmp_path)).checkpoints()]
    assert names == [
        "a0001step-000000000",
        "a0001step-000000002",
        "a0001step-000000004",
        "a0002step-000000006",
        "a0002step-000000008",
    ]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("runs/a", ("runs/a", None)),
        ("runs/a@latest", ("runs/a", "latest")),
        ("runs/a@best", ("runs/a", "best")),
        ("runs/a@finite", ("runs/a", "finite")),
        ("runs/a@1200", ("runs/a", "1200")),
        ("runs/a@step-000000004.e0001.a0001", ("runs/a", "step-000000004.e0001.a0001")),
        ("sftp://me@host/runs/a", ("sftp://me@host/runs/a", None)),
        ("sftp://me@host/runs/a@12", ("sftp://me@host/runs/a", "12")),
        ("sftp://me@latest", ("sftp://me", "latest")),
        ("runs/mail@example", ("runs/mail@example", None)),
        ("", ("", None)),
    ],
)
def test_a_target_is_a_run_and_perhaps_a_selector(text: str, target: tuple[str, str | None]) -> None:
    assert parse_target(text) == target


def test_the_folder_of_a_checkpoint_is_a_target_of_the_command_line() -> None:
    name = "step-000000004.e0001.a0001"
    assert parse_target_or_folder(f"runs/a/checkpoints/{name}") == ("runs/a", name)
    assert parse_target_or_folder(f"s3://bucket/a/checkpoints/{name}/") == ("s3://bucket/a", name)
    for other in ("runs/a@4", "runs/a/checkpoints/", f"/checkpoints/{name}", f"runs/{name}"):
        assert parse_target_or_folder(other) == parse_target(other)


# -- what is in it ----------------------------------------------------------------------------------------------------


@pytest.fixture
def last(url: str) -> Checkpoint:
    return Run(url).latest()


def test_a_module_loads_as_its_state_dict(url: str, last: Checkpoint) -> None:
    state = last.load("model")
    fresh = Tiny(url).model
    assert type(state) is OrderedDict
    assert list(state) == list(fresh.state_dict())
    fresh.load_state_dict(state)
    assert state._metadata[""] == {"version": 1}


def test_other_objects_load_as_what_they_gave(last: Checkpoint) -> None:
    assert len(last.load("notes")["seen"]) == 12
    optimizer = last.load("optimizer")
    assert "model.0.weight" in str(optimizer)


def test_an_object_of_another_type_than_expected_is_refused(last: Checkpoint) -> None:
    assert last.load("notes", dict) == last.load("notes")
    with pytest.raises(RunMismatchError, match="notes: expected a list, found a dict"):
        last.load("notes", list)


def test_the_manifest_names_the_objects_and_what_they_are(last: Checkpoint) -> None:
    kinds = {name: record.kind for name, record in last.manifest.objects.items()}
    assert kinds == {"model": "module", "optimizer": "optimizer", "notes": "container", "gradients": "gradients"}
    assert set(last.manifest.blobs) >= {"model.safetensors", "optimizer.safetensors", "state.rank00000.json"}
    assert last.size_bytes == sum(blob.size for blob in last.manifest.blobs.values())


def test_a_sound_checkpoint_verifies(url: str) -> None:
    for checkpoint in Run(url).checkpoints():
        checkpoint.verify()


def test_an_object_that_is_not_there_is_an_error_that_names_those_that_are(last: Checkpoint) -> None:
    with pytest.raises(NoCheckpointError, match="no object 'ema'") as caught:
        last.load("ema")
    assert "model, optimizer, notes" in str(caught.value.hint)


def test_loading_into_a_model_fills_it_in_place(url: str, last: Checkpoint) -> None:
    model = Tiny(url).model
    weight, address = model[0].weight, model[0].weight.data_ptr()
    loaded = last.load_into(model)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert model[0].weight is weight
    assert weight.data_ptr() == address
    assert all(torch.equal(value, last.load("model")[key]) for key, value in model.state_dict().items())


def test_loading_strictly_refuses_keys_that_do_not_match_and_changes_nothing(url: str, last: Checkpoint) -> None:
    model = nn.Sequential(*Tiny(url).model, nn.Linear(1, 1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RunMismatchError, match=r"missing in the checkpoint: 4\.bias, 4\.weight"):
        last.load_into(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_loading_what_fits_reports_what_does_not(url: str, last: Checkpoint) -> None:
    model = nn.Sequential(*list(Tiny(url).model)[:3], nn.Identity(), nn.Linear(1, 1))
    loaded = last.load_into(model, strict=False)
    assert loaded.missing == ("4.bias", "4.weight")
    assert loaded.unexpected == ("3.bias", "3.weight")
    assert torch.equal(model[0].weight, last.load("model")["0.weight"])


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_is_always_refused(last: Checkpoint, strict: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 5))
    with pytest.raises(RunMismatchError, match=r"another shape: 0\.weight \(checkpoint \(20, 2\), here \(5, 2\)\)"):
        last.load_into(model, strict=strict)


@pytest.fixture
def two_models(tmp_path: Path) -> dict[str, Any]:
    models = {"critic": nn.Linear(1, 1), "generator": nn.Linear(2, 2)}
    with Trainer({"run": str(tmp_path / "two")}, **models) as trainer:
        list(trainer.steps(1))
    return models


def test_of_several_modules_one_must_be_named(tmp_path: Path, two_models: dict[str, Any]) -> None:
    last = Run(str(tmp_path / "two")).latest()
    with pytest.raises(RunMismatchError, match=r"holds 2 modules \(critic, generator\)") as caught:
        last.load_into(nn.Linear(2, 2))
    assert "load_into(model, name=...)" in str(caught.value.hint)
    model = nn.Linear(2, 2)
    last.load_into(model, name="generator")
    assert torch.equal(model.weight, two_models["generator"].weight)
