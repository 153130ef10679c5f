"""Runs whose metrics or weights stop being finite: which checkpoint stays, what is said, and all of it across kills."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable import NoCheckpointError, Run, Trainer
from resumable.cli import app
from resumable.loop.metrics import CHUNK, MAX_WAITING, FiniteWatch
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CHECKPOINTS, CheckpointName
from resumable.store.pins import pin
from resumable.store.storage.local import LocalStorage
from tests.lab.client import Bench, Launch, killed, shared_lab, signalled
from tests.tiny import Tiny, steps_of, warnings_of

pytestmark = pytest.mark.usefixtures("_every_line")

NAN = math.nan
EVERYTHING = {"last": 1000, "best": None}
LAST = {"last": 1, "best": None}


def train(
    run: Path,
    *,
    steps: int = 20,
    every: int = 5,
    keep: Mapping[str, Any] = LAST,
    logged: Callable[[int], Mapping[str, Any]] = lambda step: {},
    ruins: Callable[[int, nn.Module], None] = lambda step, model: None,
    model: nn.Module | None = None,
    **config: Any,
) -> None:
    """A loop without a loader that logs `logged(step)` in each step and saves after every `every` steps."""
    torch.manual_seed(1)
    model = model or nn.Linear(3, 2)
    keys = {"run": str(run), "every": {"steps": None, "minutes": None}, "keep": dict(keep)} | config
    with Trainer(keys, model=model) as trainer:
        for _ in trainer.steps(steps):
            step = trainer.step + 1
            ruins(step, model)
            trainer.log(**logged(step))
            if step % every == 0:
                trainer.request_save()


def marks(run: Path | str) -> dict[int, tuple[Any, Any, Any]]:
    """By step what the manifests say: the suspect, since when, and all witnesses."""
    found = {}
    for checkpoint in Run(str(run)).checkpoints():
        position = checkpoint.manifest.position
        known = json.loads(position["witnesses"])
        found[checkpoint.step] = position.get("suspect"), position.get("suspect_since"), known
    return found


def suspects_of(run: Path | str) -> dict[int, tuple[Any, Any]]:
    """By step the suspect and since when, of those that are suspect."""
    return {step: (what, since) for step, (what, since, _) in marks(run).items() if what is not None}


def ls(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[int, list[str]]:
    with pytest.raises(SystemExit, match="0"):
        app(["ls", "--json", str(run)])
    return {row["step"]: row["flags"] for row in json.loads(capsys.readouterr().out)["checkpoints"]}


# -- what stays, and what is said -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda value: torch.tensor(value, dtype=torch.bfloat16)])
@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_the_newest_finite_checkpoint_stays_and_one_line_names_it(
    run: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    kind: Callable[[float], Any],
    bad: float,
) -> None:
    train(run, logged=lambda step: {"loss": kind(bad if step >= 8 else 1.0)})
    assert steps_of(run) == [5, 20]
    assert suspects_of(run) == {20: ("loss", 8)}
    assert ls(run, capsys) == {5: [], 20: ["latest", "suspect", "finished"]}
    said = [line for line in warnings_of(caplog) if "not finite" in line]
    assert len(said) == 1
    assert "loss is not finite since step 8: step-000000005.e0000.a0001 is kept" in said[0]
    assert Run(str(run)).finite().step == Run(str(run)).select("finite").step == 5
    with pytest.raises(SystemExit, match="0"):
        app(["verify", "--json", f"{run}@finite"])
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["checkpoints"]] == [
        "step-000000005.e0000.a0001"
    ]
    for target, line in (("", "suspect     loss is not finite since step 8\n"), ("@finite", "step 5 of 20")):
        with pytest.raises(SystemExit, match="0"):
            app(["show", f"{run}{target}"])
        assert line in capsys.readouterr().out


def test_a_run_that_recovers_needs_no_finite_checkpoint_more(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(run, steps=30, logged=lambda step: {"loss": NAN if 8 <= step < 22 else 1.0})
    assert steps_of(run) == [30]
    assert suspects_of(run) == {}
    assert sum("not finite" in line for line in warnings_of(caplog)) == 1


def test_it_is_said_again_when_the_run_becomes_suspect_again(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def logged(step: int) -> dict[str, float]:
        return {"loss": NAN if 8 <= step < 13 else 1.0, "score": NAN if step >= 18 else 1.0}

    train(run, steps=30, logged=logged)
    said = [line for line in warnings_of(caplog) if "not finite" in line]
    assert [re.findall(r"(\w+) is not finite since step (\d+)", line) for line in said] == [
        [("loss", "8")],
        [("score", "18")],
    ]
    assert steps_of(run) == [15, 30]


def test_a_metric_that_is_logged_seldom_is_a_witness_in_every_checkpoint(run: Path) -> None:
    train(
        run,
        steps=40,
        keep=EVERYTHING,
        logged=lambda s: {"val": {3: 1.0, 13: NAN, 33: 2.0}[s]} if s % 10 == 3 and s != 23 else {},
    )
    assert suspects_of(run) == dict.fromkeys((15, 20, 25, 30), ("val", 13))


def test_a_step_that_is_not_saved_is_seen_too(run: Path) -> None:
    train(run, keep=EVERYTHING, every=10, logged=lambda step: {"loss": NAN} if step in (12, 13) else {"loss": 1.0})
    assert marks(run)[20] == (None, None, {"metrics": {"loss": False}, "tensors": {}})


def test_an_undefined_score_and_what_came_back_before_are_no_witnesses(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def logged(step: int) -> dict[str, float]:
        norm = math.inf if step in (1, 2) or step >= 14 else 1.0
        late = NAN if step in (7, 8) or step >= 12 else 1.0  # suspect from 7 to 8, where nothing is saved
        return {"loss": 1.0, "score": NAN, "grad_norm": norm, "late": late}

    train(run, keep=EVERYTHING, logged=logged)
    assert suspects_of(run) == {}
    assert not warnings_of(caplog)


def test_what_is_logged_between_two_passes_or_at_the_head_of_an_epoch_is_seen(run: Path) -> None:
    tiny = Tiny(run, saves=range(1000), keep=EVERYTHING)
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(3):
            trainer.log(head=1.0 if epoch == 0 else NAN)
            for number in range(2):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    tiny.ends(trainer)
                if number == 0:
                    trainer.log(between=1.0 if epoch < 2 else NAN)
    found = suspects_of(run)
    assert found[9] == ("head", 8)
    assert marks(run)[24][2]["metrics"] == {"head": 8, "between": 20}
    assert min(found) == 9


def test_what_is_protected_stays_beside_it(run: Path) -> None:
    def ruins(step: int, model: nn.Module) -> None:
        if step == 1:
            pin(LocalStorage(run), CheckpointName(0, 0, 1))

    train(run, ruins=ruins, logged=lambda step: {"loss": NAN if step >= 13 else 1.0})
    assert steps_of(run) == [0, 10, 20]


def test_prune_by_hand_keeps_it_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run, keep=EVERYTHING, logged=lambda step: {"loss": NAN if step >= 13 else 1.0})
    with pytest.raises(SystemExit, match="0"):
        app(["prune", str(run), "--keep-last", "1"])
    capsys.readouterr()
    assert steps_of(run) == [10, 20]


def test_a_run_of_which_all_is_suspect_says_so(run: Path) -> None:
    train(run, logged=lambda step: {"loss": NAN if step >= 13 else 1.0})
    for path in (run / CHECKPOINTS).glob("step-000000010*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    with pytest.raises(NoCheckpointError, match="every checkpoint is suspect, from step-000000020"):
        Run(str(run)).finite()


# -- where no metric shows it -----------------------------------------------------------------------------------------


def ruin(step: int, model: nn.Module, *, at: int = 8) -> None:
    if step == at:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(NAN)


@pytest.mark.parametrize("staging", [{}, {"max_bytes": 2**20}], ids=["staged", "streamed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_metrics_the_weights_are_witnesses(
    run: Path, caplog: pytest.LogCaptureFixture, staging: dict[str, Any], dtype: torch.dtype
) -> None:
    model = nn.Linear(600, 700).to(dtype)
    train(run, ruins=ruin, model=model, staging=staging)
    assert steps_of(run) == [5, 20]
    assert suspects_of(run) == {20: ("model.weight", 10)}
    said = [line for line in warnings_of(caplog) if "not finite" in line]
    assert len(said) == 1
    assert "model.weight is not finite since step 10: step-000000005.e0000.a0001 is kept" in said[0]


def test_a_buffer_that_begins_infinite_raises_no_alarm(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 2)
    model.register_buffer("smallest", torch.tensor(math.inf))

    def ruins(step: int, model: nn.Module) -> None:
        if step in (4, 12):
            model.smallest.fill_(1.0 if step == 4 else math.inf)  # type: ignore[union-attr, operator]

    train(run, model=model, ruins=ruins, keep=EVERYTHING)
    assert suspects_of(run) == {}
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    "logged",
    [
        lambda step: {"accuracy": 0.5},
        lambda step: {"lr": 0.1, "loss": NAN if step in (1, 8, 9, 10) else 1.0},
        lambda step: {"lr": 0.1, "loss": NAN if step == 3 or step > 7 else 1.0},
    ],
    ids=["never", "from the first step", "after it came back"],
)
def test_where_no_metric_that_shows_it_is_a_witness_the_weights_are(
    run: Path, caplog: pytest.LogCaptureFixture, logged: Callable[[int], Mapping[str, Any]]
) -> None:
    train(run, ruins=ruin, logged=logged)
    assert steps_of(run) == [5, 20]
    assert suspects_of(run) == {20: ("model.weight", 10)}
    assert len([line for line in warnings_of(caplog) if "step-000000005.e0000.a0001 is kept" in line]) == 1


# -- never waiting for a device in a step -----------------------------------------------------------------------------


def test_values_on_a_device_are_read_when_all_must_be_known_and_not_before() -> None:
    watch = FiniteWatch({})
    for step in range(10 * CHUNK):
        watch.see({"loss": torch.empty((), device="meta")}, step=step)  # a device of which nothing can be read
    with pytest.raises(NotImplementedError):
        watch.settled()


class Away(Tensor):
    """A tensor whose device is not the host's, as far as it says."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)


@pytest.mark.parametrize("bad_at", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_of_values_that_waited_each_counts_at_its_step(bad_at: int) -> None:
    watch = FiniteWatch({"loss": True})
    for step in range(4 * CHUNK + 3):
        value = torch.tensor(NAN if step >= bad_at else 1.0)
        watch.see({"loss": value.as_subclass(Away), "host": 1.0}, step=step)
    assert watch.settled() == {"loss": bad_at, "host": True}
    assert watch.settled() == {"loss": bad_at, "host": True}


def test_a_metric_that_moves_between_devices_and_types_is_seen_in_order() -> None:
    watch = FiniteWatch({})
    values = [1.0, torch.tensor(1.0).as_subclass(Away), torch.tensor(NAN, dtype=torch.float64).as_subclass(Away), NAN]
    for step, value in enumerate(values):
        watch.see({"loss": value}, step=step)
    assert watch.settled() == {"loss": 2}
    watch.see({"loss": torch.tensor(1).as_subclass(Away)}, step=4)
    watch.see({"loss": torch.tensor(NAN)}, step=5)
    assert watch.settled() == {"loss": False}


def test_what_waits_is_bounded() -> None:
    watch = FiniteWatch({})
    for step in range(MAX_WAITING + 1):
        watch.see({"loss": torch.tensor(1.0).as_subclass(Away)}, step=step)
    assert [len(waiting.steps) for waiting in watch._waiting.values()] == [1]


# -- across kills -----------------------------------------------------------------------------------------------------

LOGGED = {
    "loss": {str(step): "nan" if step >= 9 else "1" for step in range(1, 21)},
    "val": {"3": "1", "7": "inf", "16": "2"},
    "score": {"2": "nan", "11": "nan"},
    "norm": {"1": "inf", "5": "1", "12": "nan"},
}


def lab(folder: Path, **options: Any) -> Bench:
    config = {"keep": EVERYTHING, "every": {"steps": 2, "minutes": None}}
    return Bench(shared_lab(), folder, "diverging", **{"config": config, **options})


def test_kills_before_in_and_after_the_suspect_time_change_no_mark(folder: Path) -> None:
    bench = lab(folder, logged=LOGGED)
    launches = [
        killed("step:3"),
        killed("save.manifest:8"),
        killed("save.published:10"),
        killed("step:13"),
        signalled("SIGTERM", 14),
        killed("save.capture:18"),
    ]
    bench.crash_and_rerun(launches)
    whole, crashed = marks(bench.path("whole")), marks(bench.path("crashed"))
    crashed.pop(15)  # which the signal asked for
    assert crashed == whole
    assert {step: what for step, (what, _, _) in whole.items() if what} == {
        8: "val",
        10: "val",
        12: "val",
        14: "val",
        16: "loss",
        18: "loss",
        20: "loss",
    }
    assert whole[20] == (
        "loss",
        9,
        {"metrics": {"loss": 9, "val": False, "score": False, "norm": False}, "tensors": {}},
    )


def test_the_last_finite_checkpoint_survives_kills_and_rules(folder: Path) -> None:
    config = {"keep": LAST, "every": {"steps": 2, "minutes": None}}
    bench = lab(folder, logged={"loss": LOGGED["loss"]}, config=config)
    bench.crash_and_rerun(
        [killed("save.published:10"), killed("step:11"), killed("step:15"), killed("save.manifest:18")]
    )
    assert steps_of(bench.path("crashed")) == steps_of(bench.path("whole")) == [8, 20]


def test_after_a_rollback_the_trackers_are_those_of_the_checkpoint(folder: Path) -> None:
    bench = lab(folder, logged=LOGGED)
    bench.launch("whole")
    bench.launch("back", killed("step:13"))
    for path in (bench.path("back") / CHECKPOINTS).iterdir():
        if path.name >= "step-000000006":  # by hand, as one would who goes back before the ruin
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    ended = bench.launch("back")
    assert "RESUME" in ended.output
    assert marks(bench.path("back")) == marks(bench.path("whole"))


def test_weights_as_witnesses_are_exact_across_kills(folder: Path) -> None:
    bench = lab(folder, ruined_at=7)
    bench.crash_and_rerun(
        [killed("step:5"), killed("save.published:8"), killed("save.manifest:12"), Launch(kill="step:15", exit=-9)]
    )
    assert marks(bench.path("crashed")) == marks(bench.path("whole"))
    assert {since for _, since, _ in marks(bench.path("whole")).values()} == {None, 8}


# -- runs of versions that knew no witnesses --------------------------------------------------------------------------


def unmarked(run: Path, step: int) -> None:
    """Take from a manifest what earlier versions did not write."""
    [path] = (run / CHECKPOINTS).glob(f"step-{step:09d}*/manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["position"] = {
        name: value for name, value in manifest["position"].items() if name in ("loop", "pass", "total")
    }
    del manifest["digest"]
    body = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(body[:-1] + b',"digest":"%s"}' % digest(body).encode())


def test_a_run_without_marks_is_judged_by_the_metrics_that_stand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def logged(step: int) -> dict[str, float]:
        return {"loss": NAN if step >= 8 else 1.0, "bad": NAN}

    train(run, keep=EVERYTHING, logged=logged)
    for step in (0, 5, 10, 15, 20):
        unmarked(run, step)
    flags = ls(run, capsys)
    assert [step for step, each in flags.items() if "suspect" in each] == [10, 15, 20]
    train(run, steps=25, keep=LAST, logged=logged)
    assert steps_of(run) == [5, 25]
    last = Run(str(run)).latest().manifest.position
    assert (last["suspect"], last["suspect_since"]) == ("loss", 10)
    assert json.loads(last["witnesses"]) == {"metrics": {"loss": 10, "bad": False}, "tensors": {}}
