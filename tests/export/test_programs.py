"""Programs: each gives what the model gives, for any size of batch, whatever it takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from resumable import Trainer
from resumable.errors import CorruptCheckpointError, ExportError
from resumable.export import Exported, export, verify
from resumable.export.formats.programs import ModelCall, to_float32, write_program
from resumable.export.request import Batch
from tests.export.conftest import Train, Trained, exported_as
from tests.export.models import CASES, SMALL, assert_close, of_size, outputs

QUICK = ["pt2", "onnx"]


def programmed(
    model: nn.Module, known: Any, folder: Path, format: str, *, batch: Batch = "dynamic"
) -> Callable[[Any], list[Tensor]]:
    """The program of a model as a function of batches, run by its own runtime; `known` is the golden input."""
    call = ModelCall((), known) if isinstance(known, dict) else ModelCall((known,), {})
    written = write_program(model, call, folder, format=format, batch=batch)
    return _RUNS[format](folder / written.entry, written.input_names)


def _onnx(path: Path, names: list[str | None]) -> Callable[[Any], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(batch: Any) -> list[Tensor]:
        values = list(batch.values()) if isinstance(batch, dict) else [batch]
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(np.asarray(each)) for each in session.run(None, feed)]

    return run


def _pt2(path: Path, names: list[str | None]) -> Callable[[Any], list[Tensor]]:
    program = torch.export.load(path).module()
    return lambda batch: outputs(program, batch)


_RUNS = {"onnx": _onnx, "pt2": _pt2}


# -- every kind of model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", QUICK)
def test_a_program_gives_what_the_live_model_gives_for_batches_of_other_sizes(
    train: Train, tmp_path: Path, name: str, format: str
) -> None:
    trained = train(CASES[name])
    model, batch = trained.model, trained.case.batch()
    if format == "onnx" and "bfloat16" in name:
        model, batch = to_float32(model), batch.float()
    program = programmed(model, batch, tmp_path, format)
    for size in (4, 1, 7):
        other = of_size(batch, size)
        with torch.no_grad():
            assert_close(program(other), outputs(model, other))


@pytest.mark.parametrize("format", QUICK)
def test_a_golden_input_of_one_still_makes_a_program_for_any_number(tmp_path: Path, format: str) -> None:
    model, batch = SMALL.build().eval(), SMALL.batch()
    program = programmed(model, batch[:1], tmp_path, format)
    for size in (1, 3):
        with torch.no_grad():
            assert_close(program(batch[:size]), outputs(model, batch[:size]))


@pytest.mark.parametrize("format", QUICK)
def test_a_fixed_batch_takes_no_other(tmp_path: Path, format: str) -> None:
    model, batch = SMALL.build().eval(), SMALL.batch()
    program = programmed(model, batch, tmp_path, format, batch="fixed")
    with torch.no_grad():
        assert_close(program(batch), outputs(model, batch))
    with pytest.raises(Exception, match=r"(?i)batch|shape|dimension|guard"):
        program(batch[:2])


class Odd(nn.Module):
    """Inputs whose order matters, one of them of no dimension; one that is not used."""

    def forward(self, x: Tensor, weight: Tensor, unused: Tensor) -> tuple[Tensor, None, Tensor]:
        y = x - weight
        return y, None, y


def test_an_output_that_is_none_is_not_counted(tmp_path: Path) -> None:
    call = ModelCall((torch.ones(3, 2), torch.tensor(1.0), torch.ones(3)), {})
    assert write_program(Odd(), call, tmp_path, format="pt2", batch="dynamic").output_names == [None, None]


@pytest.mark.parametrize("format", QUICK)
def test_arguments_may_come_in_any_order_and_need_not_be_used(tmp_path: Path, format: str) -> None:
    batch = {"unused": torch.ones(3, 1), "weight": torch.tensor(2.0), "x": SMALL.batch()[:3]}
    program = programmed(Odd(), batch, tmp_path, format)
    assert_close(program(batch), [batch["x"] - 2, batch["x"] - 2])


class Table(nn.Module):
    """A batch beside a table, which has another first dimension."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return x @ table


@pytest.mark.parametrize("format", QUICK)
def test_inputs_of_different_sizes_go_together(tmp_path: Path, format: str) -> None:
    batch, table = SMALL.batch()[:3], torch.arange(8.0).view(4, 2)
    program = programmed(Table(), {"x": batch, "table": table}, tmp_path, format, batch="fixed")
    assert_close(program({"x": batch, "table": table}), [batch @ table])


class Branches(nn.Module):
    """What no tracer can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


class Settled(nn.Module):
    """Made for batches of four."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, 4) * 2


@pytest.mark.parametrize("format", QUICK)
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
def test_a_model_that_cannot_be_traced_is_told_with_what_to_do(tmp_path: Path, format: str) -> None:
    with pytest.raises(ExportError, match=f"Branches cannot be exported as {format}: ") as caught:
        programmed(Branches(), SMALL.batch(), tmp_path, format)
    assert "--batch fixed" in str(caught.value.hint)


@pytest.mark.parametrize("format", QUICK)
def test_a_model_that_is_settled_on_a_size_is_told_and_can_be_exported_for_it(tmp_path: Path, format: str) -> None:
    with pytest.raises(ExportError, match="batch"):
        programmed(Settled(), SMALL.batch(), tmp_path, format)
    program = programmed(Settled(), SMALL.batch(), tmp_path, format, batch="fixed")
    assert_close(program(SMALL.batch()), [SMALL.batch() * 2])


class Flat(nn.Module):
    """Attention without heads, which the ONNX exporter lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def test_what_the_onnx_exporter_lacks_is_told_by_its_reason_and_not_by_its_advice(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        programmed(Flat(), torch.randn(2, 3, 4), tmp_path, "onnx")
    assert caught.value.message == (
        "Flat cannot be exported as onnx: AssertionError: only 4D query, key, and value are supported"
    )


# -- what is published ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", QUICK)
def test_the_proof_says_what_was_run_and_what_came_out(
    exported: Callable[[str], Exported], small: Trained, format: str
) -> None:
    made = exported(format)
    proof, known = made.proof, made.proof.golden
    assert proof.grade == {"pt2": "outputs-identical", "onnx": "outputs-within-tolerance"}[format]
    assert known is not None
    assert (known.made_by, known.batch_size, known.dynamic_batch) == ("export", 4, True)
    assert [(port.key, port.dtype, port.shape) for port in known.inputs] == [("input.0", "float32", [4, 4])]
    assert [(port.key, port.dtype, port.shape) for port in known.outputs] == [("output.0", "float32", [4, 2])]
    assert proof.tolerance is not None
    assert proof.difference is not None
    assert proof.difference.absolute <= proof.tolerance.absolute == 1e-4
    assert proof.checked is not None
    assert str(proof.checked.runtime).startswith({"pt2": "torch ", "onnx": "onnxruntime "}[format])
    assert proof.weights.identical is {"pt2": True, "onnx": None}[format]
    assert proof.versions["torch"] == torch.__version__


@pytest.mark.parametrize("format", QUICK)
def test_golden_outputs_in_the_file_are_the_live_model_s_bits(
    exported: Callable[[str], Exported], small: Trained, format: str
) -> None:
    found = load_file(exported(format).folder / "golden.safetensors")
    assert found.keys() == {"input.0", "output.0"}
    assert found["input.0"].equal(small.case.batch())
    with torch.no_grad():
        assert found["output.0"].equal(small.model(small.case.batch()))


@pytest.mark.parametrize("format", QUICK)
def test_what_is_published_is_proved_again_with_the_same_numbers(
    exported: Callable[[str], Exported], format: str
) -> None:
    made = exported(format)
    proof, measured = verify(made.folder)
    assert proof == made.proof
    assert measured.outputs is not None
    assert proof.difference is not None
    assert measured.outputs.absolute == proof.difference.absolute


def test_a_program_for_one_size_says_so(small: Trained, tmp_path: Path) -> None:
    made = exported_as(small, tmp_path / "made", "onnx", batch="fixed")
    assert made.proof.golden is not None
    assert (made.proof.golden.dynamic_batch, made.proof.golden.batch_size) == (False, 4)


def test_the_names_in_an_onnx_graph_are_those_of_the_proof_and_its_size_is_the_batch(
    exported: Callable[[str], Exported],
) -> None:
    import onnx

    made = exported("onnx")
    graph = onnx.load(made.folder / "model.onnx").graph
    assert made.proof.golden is not None
    assert [each.name for each in graph.input] == [port.name for port in made.proof.golden.inputs]
    assert [each.name for each in graph.output] == [port.name for port in made.proof.golden.outputs]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_pt2_holds_no_pickle(exported: Callable[[str], Exported]) -> None:
    import zipfile

    with zipfile.ZipFile(exported("pt2").folder / "model.pt2") as archive:
        assert not [name for name in archive.namelist() if archive.read(name)[:2] in (b"\x80\x02", b"PK")]


def test_large_onnx_weights_lie_in_a_file_beside_it_which_is_proved_too(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resumable.export.formats.programs.MAX_ONNX_BYTES", 100_000)
    made = exported_as(train(CASES["MLP"]), tmp_path / "made", "onnx")
    assert made.proof.files.keys() == {"model.onnx", "model.onnx.data", "golden.safetensors"}
    (made.folder / "model.onnx.data").write_bytes(b"")
    with pytest.raises(CorruptCheckpointError, match=r"model\.onnx\.data: 0 bytes, expected"):
        verify(made.folder)


def test_a_bfloat16_model_is_an_onnx_in_float32_and_says_how_far_the_live_one_is(train: Train, tmp_path: Path) -> None:
    made = exported_as(train(CASES["MLP in bfloat16"]), tmp_path / "made", "onnx")
    known = made.proof.golden
    assert known is not None
    assert [port.dtype for port in (*known.inputs, *known.outputs)] == ["float32", "float32"]
    assert made.proof.weights.tensors["0.weight"].dtype == "bfloat16"
    [said] = [note for note in made.proof.notes if "bfloat16" in note]
    assert 1e-5 < float(said.rpartition(" ")[2]) < 1e-2


class Extra(nn.Module):
    """Has a state that is no tensor, and matters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SMALL.build()
        self.calls = 3

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) * self.calls
        return result

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def test_a_module_with_an_extra_state_is_exported_too(tmp_path: Path) -> None:
    live = Extra()
    with Trainer({"run": str(tmp_path / "run")}, model=live) as trainer:
        for _ in trainer.steps(1):
            live.calls = 7
    model = "tests.export.test_programs:Extra"
    made = export(str(tmp_path / "run"), tmp_path / "made", format="onnx", model=model, golden=SMALL.batch())
    with torch.no_grad():
        assert load_file(made.folder / "golden.safetensors")["output.0"].equal(live.eval()(SMALL.batch()))


class Waves(nn.Module):
    """Complex numbers, which safetensors files hold in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SMALL.build()

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(self.inner(x).double())


@pytest.mark.matrix
def test_complex_outputs_are_compared_and_published(tmp_path: Path) -> None:
    with Trainer({"run": str(tmp_path / "run")}, model=Waves()) as trainer:
        list(trainer.steps(1))
    model = "tests.export.test_programs:Waves"
    made = export(str(tmp_path / "run"), tmp_path / "made", format="pt2", model=model, golden=SMALL.batch())
    assert made.proof.golden is not None
    assert made.proof.golden.outputs[0].dtype == "complex128"
    assert made.proof.grade == "outputs-identical"


@pytest.mark.matrix
def test_several_outputs_of_which_one_is_none_are_published(train: Train, tmp_path: Path) -> None:
    made = exported_as(train(CASES["dict and tuple outputs"]), tmp_path / "made", "pt2")
    assert made.proof.golden is not None
    assert [port.argument for port in made.proof.golden.inputs] == ["left", "right"]
    assert [port.dtype for port in made.proof.golden.outputs] == ["float32", "float32", "int64"]
    verify(made.folder)
