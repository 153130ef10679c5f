"""Golden inputs: what a checkpoint carries of them, and that no bit of a training depends on whether there is one."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable import ConfigError, LoopError, Run, RunMismatchError, StateError, Trainer
from resumable.checkpointing.capture.golden_input import Golden, inputs_of, outputs_of, uninformative_tensors
from resumable.cli import app
from resumable.cli.checkpoint_diff import compare, diff_checkpoints
from resumable.export.proof import comparison as arrays
from resumable.export.proof.golden_file import output_numbers
from resumable.export.proof.schema import GoldenRecord, Port
from resumable.state.tensors.dtypes import TAGS, stored_as
from resumable.state.tensors.facts import DTYPES
from tests.lab.client import Bench, killed, shared_lab
from tests.lab.toys import Restless
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, crashed, steps_of

X = torch.arange(6.0).reshape(3, 2) / 8
NARROW = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


class Sum(nn.Module):
    """Takes two tensors, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scale * (left - right)


class Giving(nn.Module):
    """Gives whatever it was told to make of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self._make = make

    def forward(self, x: Tensor) -> Any:
        return self._make(self.weight * x)


class Restive(Tiny):
    """The smallest training with a model that counts its calls and draws in each of them, also in eval mode."""

    def __init__(self, run: Path | str, **options: Any) -> None:
        super().__init__(run, keep={"last": 100}, **options)
        self.model = nn.Sequential(*self.model[:3], Restless(), self.model[3])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)

    def train(self, epochs: int = 2, *, golden: Any = X) -> None:
        with self.trainer() as trainer:
            if golden is not None:
                trainer.golden(golden)
            for _ in trainer.epochs(epochs):
                for batch in trainer.batches(self.loader):
                    loss = self.backward(batch)
                    if trainer.step % 3 == 2:
                        self.optimizer.step()
                        self.optimizer.zero_grad()
                    trainer.log(loss=loss)
                    self.ends(trainer)


def exactly(one: Tensor, other: Tensor) -> bool:
    return one.dtype is other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def golden_of(run: Path) -> Golden:
    return Golden.from_tree(Run(str(run)).latest().tree("golden"))


# -- what an input may be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "arguments"),
    [
        ((X, X / 2), None),
        ([X, X / 2], None),
        ({"left": X, "right": X / 2}, ("left", "right")),
        ({"right": X / 2, "left": X}, ("right", "left")),
        (collections.UserDict({"left": X, "right": X / 2}), ("left", "right")),
    ],
)
def test_several_tensors_go_by_place_or_by_name(batch: Any, arguments: tuple[str, ...] | None) -> None:
    golden = inputs_of(batch)
    assert (golden.arguments, golden.outputs) == (arguments, ())
    [output] = outputs_of(Sum(), golden).outputs
    assert exactly(output, 2 * (X - X / 2))


def test_one_tensor_is_the_only_input() -> None:
    golden = outputs_of(nn.Identity(), inputs_of(X))
    assert golden.arguments is None
    assert exactly(golden.inputs[0], X)
    assert exactly(golden.outputs[0], X)


def test_an_input_is_copied_when_it_is_given() -> None:
    mine = X.clone()
    golden = inputs_of((mine, mine))
    mine.zero_()
    assert all(exactly(tensor, X) for tensor in golden.inputs)


def test_inputs_and_outputs_are_plain_contiguous_tensors_of_their_own() -> None:
    given = nn.Parameter(X.t())
    golden = outputs_of(Giving(lambda x: (x.t(), x.t(), x.expand(2, 2, 3))), inputs_of(given))
    for tensor in (*golden.inputs, *golden.outputs):
        assert type(tensor) is Tensor
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
    assert len({tensor.data_ptr() for tensor in golden.outputs}) == 3
    assert exactly(golden.inputs[0], X.t().contiguous())


def test_a_forward_that_writes_to_its_input_does_not_change_the_golden_one() -> None:
    golden = inputs_of(X)
    for _ in range(2):
        taken = outputs_of(nn.Threshold(0.2, 5.0, inplace=True), golden)
    assert exactly(taken.inputs[0], X)
    assert exactly(taken.outputs[0], torch.where(X > 0.2, X, 5.0))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (3, "golden: int, expected tensors"),
        ("text", "golden: str, expected tensors"),
        ((), "golden: holds no tensor"),
        ({}, "golden: holds no tensor"),
        ((X, 2), r"golden\[1\]: int, expected a tensor"),
        ({"x": {"y": X}}, r"golden\['x'\]: dict, expected a tensor"),
        ({1: X}, r"golden\[1\]: expected the name of an argument"),
        (X.to_sparse(), "golden: a sparse_coo tensor cannot be stored"),
        ((X, torch.ones(2, device="meta")), r"golden\[1\]: a tensor on the meta device has no values"),
    ],
)
def test_what_is_no_tensor_is_refused_with_its_place(batch: Any, said: str) -> None:
    with pytest.raises(StateError, match=said) as caught:
        inputs_of(batch)
    assert caught.value.hint


# -- as a tree --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [X, (X, X), {"left": X, "right": X}])
def test_a_golden_input_comes_back_from_its_tree(batch: Any) -> None:
    module = Sum() if not isinstance(batch, Tensor) else nn.Identity()
    golden = outputs_of(module, inputs_of(batch))
    tree = golden.tree("net")
    assert tree["model"] == "net"
    back = Golden.from_tree(tree)
    assert back.arguments == golden.arguments
    assert all(map(exactly, (*back.inputs, *back.outputs), (*golden.inputs, *golden.outputs)))


WHOLE = {"model": "m", "inputs": [X], "arguments": None, "outputs": [X]}


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [X],
        {key: value for key, value in WHOLE.items() if key != "outputs"},
        {**WHOLE, "more": 1},
        {**WHOLE, "model": None},
        {**WHOLE, "inputs": []},
        {**WHOLE, "inputs": (X,)},
        {**WHOLE, "inputs": [1]},
        {**WHOLE, "outputs": [None]},
        {**WHOLE, "arguments": "x"},
        {**WHOLE, "arguments": [1]},
        {**WHOLE, "arguments": []},
        {**WHOLE, "inputs": [X, X], "arguments": ["x", "x"]},
    ],
)
def test_a_tree_that_no_golden_input_made_is_refused(tree: Any) -> None:
    assert Golden.from_tree(WHOLE).inputs == (X,)
    with pytest.raises(ValueError, match="golden input"):
        Golden.from_tree(tree)


# -- how a module is run ----------------------------------------------------------------------------------------------


def test_outputs_are_those_of_eval_mode_whatever_the_mode_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module(torch.randn(8, 2))
    golden = outputs_of(module, inputs_of(X))
    assert module.training
    assert module[2].training
    with torch.no_grad():
        assert exactly(golden.outputs[0], module.eval()(X))


def test_the_mode_is_set_without_the_modules_own_train() -> None:
    class Merging(nn.Linear):
        """As adapters of low rank that merge their weights for eval mode, which does not come back bit for bit."""

        def train(self, mode: bool = True) -> nn.Module:
            self.weight.data.add_(0.1 if mode else -0.1)
            return super().train(mode)

    module = Merging(2, 2)
    before = module.weight.detach().clone()
    outputs_of(module, inputs_of(X))
    assert exactly(module.weight.detach(), before)


@dataclasses.dataclass
class Answer:
    logits: Tensor


def test_nested_outputs_are_flattened_in_order_and_what_is_none_is_left_out() -> None:
    module = Giving(lambda x: {"b": x, "a": (x + 1, None, [x + 2]), "c": collections.OrderedDict(z=x + 3)})
    assert [float(each[0, 0]) for each in outputs_of(module, inputs_of(X)).outputs] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: (x, 3.0), "output 1 of the model: float, expected a tensor"),
        (lambda x: Answer(x), "output 0 of the model: Answer, expected a tensor"),
        (lambda x: x.to_sparse(), "output 0 of the model: a sparse_coo tensor cannot be stored"),
        (lambda x: None, "the model returned no tensor"),
        (lambda x: [], "the model returned no tensor"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(StateError, match=said) as caught:
        outputs_of(Giving(make), inputs_of(X))
    assert caught.value.hint


def test_an_error_of_the_forward_names_the_input_and_keeps_its_cause() -> None:
    with pytest.raises(
        StateError, match=r"Linear failed on the input \(float32\[3, 2\]\): RuntimeError: mat1"
    ) as caught:
        outputs_of(nn.Linear(5, 2), inputs_of(X))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "such as labels" in str(caught.value.hint)


def test_an_error_of_the_forward_names_the_arguments() -> None:
    with pytest.raises(
        StateError, match=r"Sum failed on the input \(left=float32\[3, 2\], rihgt=int64\[2\]\): TypeError"
    ):
        outputs_of(Sum(), inputs_of({"left": X, "rihgt": torch.ones(2, dtype=torch.int64)}))


def test_lazy_layers_are_refused_and_stay_lazy() -> None:
    module = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(StateError, match=r"0\.weight, 0\.bias has no shape yet"):
        outputs_of(module, inputs_of(X))
    assert nn.parameter.is_lazy(module[0].weight)


def test_autocast_around_it_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    plain = outputs_of(module, inputs_of(X))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = outputs_of(module, inputs_of(X))
        assert torch.is_autocast_enabled("cpu")
        assert module(X).dtype is torch.bfloat16
    assert exactly(plain.outputs[0], around.outputs[0])


def test_inference_mode_around_it_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    with torch.inference_mode():
        golden = outputs_of(module, inputs_of(X * 2))
    assert not any(tensor.is_inference() for tensor in (*golden.inputs, *golden.outputs))


def test_the_forward_sees_none_of_the_modes_around_it() -> None:
    def modes(_: Tensor) -> Tensor:
        inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        return torch.tensor([torch.is_grad_enabled(), inference, autocast])

    module = Giving(modes)
    for around in (torch.enable_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with around:
            assert outputs_of(module, inputs_of(X)).outputs[0].tolist() == [False, False, False]


def test_gradients_and_graphs_are_left_alone() -> None:
    module = nn.Linear(2, 2)
    loss = module(X).sum()
    outputs_of(module, inputs_of(X))
    assert module.weight.grad is None
    loss.backward()  # what it holds was not written to
    held, bits = module.weight.grad, module.weight.grad.clone()
    outputs_of(module, inputs_of(X))
    assert module.weight.grad is held
    assert exactly(held, bits)


def test_a_compiled_module_is_run_as_it_was_written_and_stays_compiled() -> None:
    compiled: list[str] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append("graph")
        return graph.forward

    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    module = nn.Sequential(torch.compile(inner, backend=backend), nn.Linear(2, 2))
    module(X)
    before = list(compiled)
    for each in (module, torch.compile(module, backend=backend)):
        outputs_of(each, inputs_of(X))
    module(X)
    assert compiled == before == ["graph"]


def test_a_wrapped_module_is_the_one_inside() -> None:
    for wrapped in (torch.compile(nn.Linear(5, 2), backend="eager"), nn.DataParallel(nn.Linear(5, 2))):
        with pytest.raises(StateError, match="golden: Linear failed"):
            outputs_of(wrapped, inputs_of(X))


def test_a_bfloat16_module_gives_bfloat16() -> None:
    golden = outputs_of(nn.Linear(2, 2).bfloat16(), inputs_of(X.bfloat16()))
    assert [tensor.dtype for tensor in (*golden.inputs, *golden.outputs)] == [torch.bfloat16] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_device_inputs_go_there_and_outputs_come_back() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5)).cuda()
    stream = torch.cuda.get_rng_state()
    with torch.autocast("cuda", dtype=torch.float16):
        golden = outputs_of(module, inputs_of(X))
    assert {tensor.device.type for tensor in (*golden.inputs, *golden.outputs)} == {"cpu"}
    assert golden.outputs[0].dtype is torch.float32
    assert torch.equal(torch.cuda.get_rng_state(), stream)


# -- in a training ----------------------------------------------------------------------------------------------------


def test_every_checkpoint_carries_the_input_and_what_its_own_weights_give(run: Path) -> None:
    tiny = Tiny(run, keep={"last": 100})
    with tiny.trainer() as trainer:
        trainer.golden(X)
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                tiny.ends(trainer)
    checkpoints = Run(str(run)).checkpoints()
    assert [checkpoint.step for checkpoint in checkpoints] == [0, 2, 4, 6, 8, 8]
    for checkpoint in checkpoints:
        record = checkpoint.manifest.objects["golden"]
        assert (record.kind, [*checkpoint.inline_records("golden").records], checkpoint.blobs_of("golden")) == (
            "golden",
            ["inputs.0", "outputs.0"],  # small enough for the document
            [],
        )
        golden = Golden.from_tree(checkpoint.tree("golden"))
        checkpoint.load_into(tiny.model)
        with torch.no_grad():
            assert exactly(golden.outputs[0], tiny.model.eval()(X))
        assert exactly(golden.inputs[0], X)


def test_it_costs_one_forward_now_and_one_for_each_save(run: Path) -> None:
    tiny = Tiny(run, saves=[1, 3], keep={"last": 100})
    calls: list[bool] = []
    tiny.model.register_forward_hook(lambda module, *_: calls.append(module.training))
    with tiny.trainer() as trainer:
        trainer.golden(X)
        assert calls == [False]
        for _ in trainer.epochs(1):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                tiny.ends(trainer)
    assert steps_of(run) == [0, 2, 4, 4]  # the very beginning, two that were asked for, and the end
    assert (calls.count(False), calls.count(True)) == (1 + 4, BATCHES)


def test_a_second_call_replaces_the_input(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        trainer.golden(X)
        trainer.golden({"input": X[:1]})
        for _ in trainer.steps(1):
            pass
    golden = golden_of(run)
    assert golden.arguments == ("input",)
    assert exactly(golden.inputs[0], X[:1])


def test_a_refused_input_leaves_the_one_before(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        trainer.golden(X)
        with pytest.raises(StateError):
            trainer.golden(torch.ones(3, 5))
        for _ in trainer.steps(1):
            pass
    assert exactly(golden_of(run).inputs[0], X)


def test_between_two_loops_it_holds_from_the_next_save_on(run: Path) -> None:
    tiny = Tiny(run, keep={"last": 100})
    with tiny.trainer() as trainer:
        for epoch in range(2):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
            if epoch == 0:
                trainer.golden(X)
    assert ["golden" in checkpoint.manifest.objects for checkpoint in Run(str(run)).checkpoints()] == [
        False,
        False,
        True,
    ]


def test_a_save_that_is_copied_meanwhile_is_not_torn_by_it(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = nn.Embedding(4, 2, max_norm=0.1)  # whose weights a forward scales, and which are then put back
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    config = {"run": str(run), "staging": {"mode": "overlap"}}
    with Trainer(config, table=table, optimizer=optimizer) as trainer:
        for step in trainer.steps(3):
            if step == 1:
                trainer.golden(torch.tensor([1, 2]))
            table.weight.sum().backward()
            optimizer.step()
            trainer.request_save()
    assert "torn" not in caplog.text
    assert len(golden_of(run).outputs) == 1


def test_of_several_modules_one_has_to_be_named(run: Path) -> None:
    modules = {"student": nn.Linear(2, 1), "teacher": nn.Linear(2, 3)}
    with Trainer({"run": str(run)}, **modules) as trainer:
        with pytest.raises(ConfigError, match=r"expected one module, found 2 \(student, teacher\)") as caught:
            trainer.golden(X)
        assert "model=" in str(caught.value.hint)
        with pytest.raises(ConfigError, match=r"model='pupil'\): no such module") as caught:
            trainer.golden(X, model="pupil")
        assert caught.value.hint == "the modules are: student, teacher"
        trainer.golden(X, model="teacher")
        for _ in trainer.steps(1):
            pass
    assert Run(str(run)).latest().tree("golden")["model"] == "teacher"
    assert golden_of(run).outputs[0].shape == (3, 3)


def test_without_a_module_there_is_nothing_to_run_it_on(run: Path) -> None:
    nothing = pytest.raises(ConfigError, match=r"expected one module, found 0 \(none\)")
    with Trainer({"run": str(run)}, notes={"n": 1}) as trainer, nothing:
        trainer.golden(X)


def test_a_closed_trainer_takes_none(run: Path) -> None:
    with Tiny(run).trainer() as trainer:
        pass
    with pytest.raises(LoopError, match="this trainer is closed"):
        trainer.golden(X)


def test_a_forward_that_fails_later_ends_the_training_with_its_reason(run: Path) -> None:
    tiny = Tiny(run)

    def breaks(trainer: Trainer) -> None:
        if trainer.step == 0:
            trainer.golden(X)
        tiny.model[0] = nn.Linear(9, 4)

    with pytest.raises(StateError, match="Sequential failed on the input"):
        tiny.turn(2, breaks)
    assert steps_of(run) == [0]


NOTHING: dict[str, tuple[Tensor, str]] = {
    "NaN": (torch.full((3, 2), torch.nan), "no finite number among the 3, so that any model would pass"),
    "infinite": (torch.full((3, 2), torch.inf), "no finite number among the 3, so that any model would pass"),
    "empty": (torch.zeros(0, 2), "no number at all, so that any model would pass"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_an_input_for_which_any_model_would_pass_is_refused_at_once(run: Path, name: str) -> None:
    batch, said = NOTHING[name]
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        with pytest.raises(StateError, match=f"golden: the outputs of Sequential hold {said}") as caught:
            trainer.golden(batch)
        assert "pass an input" in str(caught.value.hint)
        for _ in trainer.steps(1):
            pass
    assert "golden" not in Run(str(run)).latest().manifest.objects


def test_a_training_that_diverges_goes_on_and_saves_what_the_model_gives(run: Path) -> None:
    tiny = Tiny(run)

    def diverges(trainer: Trainer) -> None:
        if trainer.step == 0:
            trainer.golden(X)
        with torch.no_grad():
            tiny.model[3].weight.fill_(torch.nan)
        trainer.request_save()

    tiny.turn(3, diverges)
    assert steps_of(run)[-1] == 3
    assert golden_of(run).outputs[0].isnan().all()


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([], "no number at all"),
        ([torch.zeros(0, 3), torch.zeros(2, 0)], "no number at all"),
        ([torch.full((2,), torch.nan), torch.full((3,), -torch.inf)], "no finite number among the 5"),
        ([torch.full((2,), torch.nan), torch.tensor(0.0)], None),
        ([torch.zeros(0), torch.tensor(7)], None),
        ([torch.tensor(False)], None),
        ([torch.tensor(complex(torch.nan, 1.0))], "no finite number among the 1"),
        ([torch.tensor(1j)], None),
        *[([torch.tensor([torch.nan]).to(dtype)], "no finite number among the 1") for dtype in NARROW],
        *[([torch.tensor([1.0]).to(dtype)], None) for dtype in NARROW],
    ],
)
def test_one_finite_number_is_something_to_compare_with(outputs: list[Tensor], said: str | None) -> None:
    assert uninformative_tensors(outputs) == said


@pytest.mark.parametrize("name", sorted(TAGS))
def test_numbers_of_any_dtype_can_be_looked_at(name: str, tmp_path: Path) -> None:
    value = torch.ones(16, dtype=torch.uint8).view(DTYPES[name])
    assert uninformative_tensors([value]) is None
    assert uninformative_tensors([value[:0]]) == "no number at all"
    port = Port(key="output.0", name=None, argument=None, dtype=name, shape=list(value.shape))
    tag, shape = stored_as(name, list(value.shape))
    header = json.dumps({"output.0": {"dtype": tag, "shape": list(shape), "data_offsets": [0, 16]}}).encode()
    (tmp_path / "golden").write_bytes(len(header).to_bytes(8, "little") + header + bytes([1] * 16))
    golden = GoldenRecord.model_construct(file="golden", outputs=[port])
    [numbers] = output_numbers(tmp_path, golden)
    assert arrays.uninformative_arrays([numbers]) is None


# -- no bit depends on it ---------------------------------------------------------------------------------------------

MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "overlap": {"staging": {"mode": "overlap"}},
    "all gradients": {"gradients": "always"},
    "streamed": {"staging": {"max_bytes": 2**20}},
    "overlap, streamed": {"staging": {"mode": "overlap", "max_bytes": 2**20}},
}


def input_for(mode: str) -> Tensor:
    """One that is larger than `max_bytes` where something is to be streamed."""
    return torch.linspace(-1, 1, 2**18).reshape(-1, 2) if "streamed" in mode else X


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_crashed_ends_with_the_bits_of_one_that_knew_no_golden_input(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    golden, config = input_for(mode), MODES[mode]
    Restive(whole, **config).train(golden=golden)
    for step in (1, 3, 5, 6):
        run = tmp_path / f"crashed-at-{step}"
        with pytest.raises(Crash):
            Restive(run, crash_at=step, **config).train(golden=golden)
        Restive(run, **config).train(golden=golden)
        assert_equal_ends(run, whole)  # the golden outputs, too
    Restive(tmp_path / "without", **config).train(golden=None)
    assert compare(*(Run(str(folder)).latest() for folder in (whole, tmp_path / "without"))) == []
    assert "torn" not in caplog.text


def test_every_checkpoint_on_the_way_is_that_of_a_run_without(run: Path, whole: Path) -> None:
    Restive(run).train()
    Restive(whole).train(golden=None)
    pairs = zip(Run(str(run)).checkpoints(), Run(str(whole)).checkpoints(), strict=True)
    assert [compare(one, other) for one, other in pairs] == [[]] * 6


def test_a_run_without_has_nothing_of_it(run: Path, whole: Path) -> None:
    Restive(run).train(golden=None)
    Restive(whole).train(golden=X.repeat(20, 1))
    without, with_one = (Run(str(folder)).latest() for folder in (run, whole))
    assert [*without.manifest.objects] == ["model", "optimizer", "notes", "gradients"]
    assert [*with_one.manifest.objects] == ["model", "optimizer", "notes", "gradients", "golden"]
    assert "golden" not in without.document["objects"]
    assert with_one.manifest.blobs.keys() - without.manifest.blobs.keys() == {"golden.safetensors"}
    assert without.manifest.format_version == with_one.manifest.format_version


@pytest.mark.parametrize(("before", "after"), [(X, None), (None, X), (X, X[:1])])
def test_a_resumed_attempt_may_give_another_or_none(run: Path, whole: Path, before: Any, after: Any) -> None:
    with pytest.raises(Crash):
        Restive(run, crash_at=5).train(golden=before)
    Restive(run).train(golden=after)
    Restive(whole).train(golden=None)
    last = Run(str(run)).latest()
    assert compare(last, Run(str(whole)).latest()) == []
    assert ("golden" in last.manifest.objects) == (after is not None)


def test_on_a_resume_what_does_not_fit_shows_before_anything_is_restored(run: Path) -> None:
    crashed(run, step=5)
    with Tiny(run).trainer() as trainer, pytest.raises(StateError, match=r"failed on the input \(float32\[3, 5\]\)"):
        trainer.golden(torch.ones(3, 5))


def test_kills_of_a_real_program_change_no_bit_with_a_golden_input_or_without(tmp_path: Path) -> None:
    bench = Bench(shared_lab(), tmp_path, "golden_input", config={"staging": {"mode": "overlap"}})
    places = ["save.capture:2", "step:5+0.001", "save.blob:8", "fetch:13", "save.manifest:16", "step:25"]
    ended = bench.crash_and_rerun([killed(place) for place in places])
    unknown = Bench(shared_lab(), tmp_path, "golden_input", golden=False)
    without = unknown.launch("without")
    with_one = bench.open("whole").latest()
    assert with_one.manifest.objects["golden"].kind == "golden"
    assert compare(with_one, unknown.open("without").latest()) == []
    assert {where: line for each in ended for where, line in each.batches.items()} == without.batches


# -- beside the user's objects ----------------------------------------------------------------------------------------


def test_an_object_may_no_longer_be_named_golden(run: Path) -> None:
    with pytest.raises(StateError, match="golden: cannot be the name of an object"):
        Trainer({"run": str(run)}, golden={"n": 1})


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a version in which `golden` was a name like any other, with an object of that name."""
    folder = tmp_path / "old"
    with monkeypatch.context() as then:
        then.setattr("resumable.state.objects.choose_adapter.RESERVED", ("gradients",))
        with Trainer({"run": str(folder), "data_seed": 1}, golden={"retriever": 7}) as trainer:
            for _ in trainer.steps(1):
                pass
    return folder


def test_an_old_object_of_that_name_is_read_and_compared(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = Run(str(old)).latest()
    assert last.load("golden") == {"retriever": 7}
    assert last.manifest.objects["golden"].kind == "container"
    assert diff_checkpoints(last, last).values > diff_checkpoints(last, last).tensors
    first = Run(str(old)).checkpoints()[0]
    assert "golden" not in [each.path for each in compare(first, last)]


def test_an_old_object_of_that_name_is_not_dropped_by_a_resume(old: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"not passed: golden; not in the checkpoint: other"):
        Trainer({"run": str(old)}, other={"n": 1})


def test_a_golden_input_differs_from_an_old_object_of_that_name(old: Path, run: Path) -> None:
    with Trainer({"run": str(run), "data_seed": 1}, model=nn.Linear(2, 1)) as trainer:
        trainer.golden(X)
        for _ in trainer.steps(1):
            pass
    found = {each.path: (each.a, each.b) for each in compare(Run(str(old)).latest(), Run(str(run)).latest())}
    assert found["golden"] == ("builtins.dict", "(absent)")


def test_show_lists_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Restive(run).train(1)
    with pytest.raises(SystemExit, match="0"):
        app(["show", str(run)])
    assert any(line.split()[:2] == ["golden", "golden"] for line in capsys.readouterr().out.splitlines())


def test_it_is_loaded_as_any_object(run: Path) -> None:
    Restive(run).train(1)
    loaded = Run(str(run)).latest().load("golden")
    assert [*loaded] == ["model", "inputs", "arguments", "outputs"]
