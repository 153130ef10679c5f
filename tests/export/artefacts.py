"""Small artefacts for programs in other languages to check; knows the layout, and of `resumable.export` nothing yet."""

from __future__ import annotations

import platform
import time
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from resumable import strictjson
from resumable.store.manifest import digest

BATCH = 4
NAMES = {"input.0": "tokens", "input.1": "shift", "output.0": "scores", "output.1": "tags"}
ENTRIES = {"safetensors": "model.safetensors", "onnx": "model.onnx", "aoti": "model.aoti.pt2"}


class Tagger(nn.Module):
    """Token numbers in, one score per token and the best tag out: inputs and outputs of more than one dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("seen", torch.tensor(7, dtype=torch.int64))
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(torch.tanh(self.mix(self.embed(tokens) + shift))) * self.scale
        return scores, scores.argmax(-1)


def artefact(folder: Path, format: str) -> Path:
    """An artefact of a tagger with seeded weights in a new `folder`, its proof as an export would write it."""
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Tagger().eval()
        inputs = (torch.randint(16, (BATCH, 5)), torch.randn(BATCH, 5, 8))
    with torch.no_grad():
        outputs = model(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of exporters, about themselves
        _write_model(folder / ENTRIES[format], format, model, inputs)
    golden = {f"input.{i}": value for i, value in enumerate(inputs)}
    golden |= {f"output.{i}": value for i, value in enumerate(outputs)}
    safetensors.torch.save_file(golden, folder / "golden.safetensors")
    document = _proof(folder, format, model, golden)
    body = strictjson.dumps(document)
    (folder / "proof.json").write_bytes(body[:-1] + b',"digest":"%s"}' % digest(body).encode())
    return folder


def _write_model(path: Path, format: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if format == "safetensors":
        safetensors.torch.save_file(_stored(model), path)
        return
    batch = torch.export.Dim("batch")
    if format == "onnx":
        torch.onnx.export(
            model,
            inputs,
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            dynamic_shapes=({0: batch}, {0: batch}),
            input_names=["tokens", "shift"],
            output_names=["scores", "tags"],
        )
        return
    program = torch.export.export(model, inputs, dynamic_shapes=({0: batch}, {0: batch}))
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _stored(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name != "head.weight"}


def _proof(folder: Path, format: str, model: nn.Module, golden: dict[str, Tensor]) -> dict[str, Any]:
    bits = format == "safetensors"
    return {
        "proof_version": 1,
        "format": format,
        "grade": "weights-identical" if bits else "outputs-within-tolerance",
        "source": {
            "run_id": "0" * 32,
            "checkpoint": "step-000000003.e0001.a0001",
            "step": 3,
            "epoch": 1,
            "object": "model",
        },
        "entry": ENTRIES[format],
        "files": {path.name: _file(path) for path in sorted(folder.iterdir())},
        "weights": {
            "cast_to": None,
            "identical": True if bits else None,
            "tensors": {name: _tensor(value) for name, value in _stored(model).items()},
            "tied": {"head.weight": "embed.weight"},
        },
        "golden": _golden(golden, names=NAMES if format == "onnx" else {}),
        "tolerance": None if bits else {"absolute": 1e-4},
        "difference": None if bits else {"absolute": 3e-8, "relative": 1e-6},
        "checked": {"runtime": "none", "environment": _environment()},
        "notes": [],
        "versions": {"torch": torch.__version__},
        "created": int(time.time()),
    }


def _golden(tensors: dict[str, Tensor], *, names: dict[str, str]) -> dict[str, Any]:
    each = [
        {"key": key, "name": names.get(key), "argument": None, "dtype": _dtype(value), "shape": list(value.shape)}
        for key, value in tensors.items()
    ]
    return {
        "file": "golden.safetensors",
        "made_by": "export",
        "batch_size": BATCH,
        "dynamic_batch": True,
        "inputs": [port for port in each if port["key"].startswith("input")],
        "outputs": [port for port in each if port["key"].startswith("output")],
        "environment": _environment(),
    }


def _environment() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"size": len(content), "digest": digest(content)}


def _tensor(value: Tensor) -> dict[str, Any]:
    flat = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {"dtype": _dtype(value), "shape": list(value.shape), "digest": digest(flat)}


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
