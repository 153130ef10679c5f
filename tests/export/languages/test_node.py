"""The Node program alone: weights by their digests, its reader of safetensors files, and what it installs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.export.languages.programs import Program, proof_of, refused, sign

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_node"

# Building takes the time, once per session: the first test that asks waits for it.
pytestmark = pytest.mark.timeout(300)


def test_node_finds_each_tensor_of_a_file_by_its_digest(
    node: Callable[[str], Program], fresh: Callable[[str], Path]
) -> None:
    ended = node("safetensors")(fresh("safetensors"))
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^weights +5 tensors, 812 bytes, each with the digest of the proof$", ended.out, re.M), ended.out
    assert re.search(r"^here +weights-identical, with Node ", ended.out, re.M), ended.out


def test_node_finds_the_tensor_that_differs(node: Callable[[str], Program], fresh: Callable[[str], Path]) -> None:
    folder = fresh("safetensors")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["mix.bias"][2] += 1
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    sign(folder, proof_of(folder))
    wanted = proof_of(folder)["weights"]["tensors"]["mix.bias"]["digest"]
    refused(node("safetensors")(folder), "model.safetensors: mix.bias: digest ", f"expected {wanted}")


def test_node_refuses_tensors_that_are_missing_unknown_or_of_another_kind(
    node: Callable[[str], Program], fresh: Callable[[str], Path]
) -> None:
    folder = fresh("safetensors")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    cases = {
        "tensors of proof.json are in no file: mix.bias": {k: v for k, v in tensors.items() if k != "mix.bias"},
        "model.safetensors: extra is no tensor of proof.json": tensors | {"extra": torch.ones(2)},
        "mix.bias is float64 [8], expected float32 [8]": tensors | {"mix.bias": tensors["mix.bias"].double()},
        "mix.bias is float32 [2,4], expected float32 [8]": tensors | {"mix.bias": tensors["mix.bias"].view(2, 4)},
    }
    for words, changed in cases.items():
        safetensors.torch.save_file(changed, folder / "model.safetensors")
        sign(folder, proof_of(folder))
        refused(node("safetensors")(folder), words)


def test_node_takes_a_tied_tensor_that_is_stored_twice_if_both_are_the_same(
    node: Callable[[str], Program], fresh: Callable[[str], Path]
) -> None:
    folder = fresh("safetensors")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for head, code in ((tensors["embed.weight"].clone(), 0), (tensors["embed.weight"] + 1, 1)):
        safetensors.torch.save_file(tensors | {"head.weight": head}, folder / "model.safetensors")
        sign(folder, proof_of(folder))
        ended = node("safetensors")(folder)
        assert ended.code == code, ended
    assert "model.safetensors: head.weight: digest" in ended.err


def sharded(folder: Path) -> dict[str, str]:
    """Lay a safetensors artifact out in two files and an index; returns tensor -> file."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {name: shards[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in shards:
        safetensors.torch.save_file({n: tensors[n] for n in tensors if places[n] == shard}, folder / shard)
    return places


def sign_shards(folder: Path, places: dict[str, str]) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 812}, "weight_map": places}), "utf-8")
    document = proof_of(folder) | {"entry": index.name}
    document["files"] = {path.name: {} for path in folder.iterdir() if path.name != "proof.json"}
    sign(folder, document)


def test_node_finds_each_tensor_in_the_file_that_the_index_names(
    node: Callable[[str], Program], fresh: Callable[[str], Path]
) -> None:
    folder = fresh("safetensors")
    places = sharded(folder)
    sign_shards(folder, places)
    ended = node("safetensors")(folder)
    assert ended.code == 0, ended
    assert "5 tensors, 812 bytes" in ended.out
    sign_shards(folder, places | {"mix.bias": places["embed.weight"], "embed.weight": places["mix.bias"]})
    refused(node("safetensors")(folder), "which the index does not place there")
    sign_shards(folder, places | {"mix.bias": "model-00003-of-00002.safetensors"})
    refused(
        node("safetensors")(folder), "mix.bias is in model-00003-of-00002.safetensors, which proof.json does not name"
    )


def test_node_names_the_inputs_of_a_model_that_the_proof_is_not_of(
    node: Callable[[str], Program], fresh: Callable[[str], Path]
) -> None:
    folder = fresh("onnx")
    document = proof_of(folder)
    document["golden"]["inputs"][1]["name"] = "pixels"
    sign(folder, document)
    refused(
        node("onnx")(folder), "the model's inputs are tokens, shift; proof.json names tokens, pixels", "export again"
    )


VALUES = [0.0, -0.0, 1.0, -1.5, 2.0**-24, 2.0**-14, 65504.0, 0.333251953125]
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
)  # fmt: skip


def test_the_reader_of_node_widens_every_dtype_to_the_numbers_that_torch_sees(
    node_folder: Path, tmp_path: Path
) -> None:
    floats = torch.tensor([*VALUES, float("inf"), -float("inf"), float("nan")], dtype=torch.float64)
    whole = torch.tensor([0, 1, 2, 100, 127])
    tensors = {str(d): (floats if d.is_floating_point else whole).to(d) for d in DTYPES}
    tensors |= {"large": torch.tensor([2**63 - 1, -(2**63), 2**53 + 1]), "scalar": torch.tensor(2.5)}
    tensors |= {"none": torch.empty(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "all.safetensors")
    script = """
        import { TensorFile, numbers } from "./safetensors.mjs";
        const file = new TensorFile(process.argv[1]);
        const text = (each) => (Object.is(each, -0) ? "-0" : String(each));
        const all = [...file.entries.keys()].map((name) => {
          const tensor = file.read(name);
          return [name, [tensor.dtype, tensor.shape, Array.from(numbers(tensor), text)]];
        });
        console.log(JSON.stringify(Object.fromEntries(all)));
    """
    command = ["node", "--input-type=module", "--eval", script, str(tmp_path / "all.safetensors")]
    ended = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        dtype, shape, numbers = found[name]
        assert (dtype, shape) == (str(tensor.dtype).removeprefix("torch."), list(tensor.shape)), name
        parse = float if tensor.is_floating_point() else int
        assert [repr(parse(each.replace("Infinity", "inf"))) for each in numbers] == [
            repr(parse(each)) for each in tensor.flatten().tolist()
        ], name


def test_the_readme_of_node_runs_the_model(node_folder: Path, fresh: Callable[[str], Path]) -> None:
    block = re.search(r"```js\n(.*?)```", (node_folder / "README.md").read_text("utf-8"), re.S)
    assert block
    (node_folder / "serve.mjs").write_text(block[1], "utf-8")
    ended = subprocess.run(["node", "serve.mjs", fresh("onnx")], cwd=node_folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "dims: [ 4, 5, 16 ]" in ended.stdout


def test_the_packages_of_node_are_pinned_and_name_no_registry() -> None:
    package = json.loads((EXAMPLE / "package.json").read_bytes())
    lock = json.loads((EXAMPLE / "package-lock.json").read_bytes())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert {name: packages[f"node_modules/{name}"]["version"] for name in package["dependencies"]} == package[
        "dependencies"
    ]
    assert all(each["integrity"].startswith("sha512-") and "resolved" not in each for each in packages.values())
