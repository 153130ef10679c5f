"""Folders as Hugging Face lays them out, written with the safetensors library; knows no test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"


def shards(folder: Path, state: Mapping[str, Tensor], *, count: int = 3, **metadata: str) -> Path:
    """`state` in `count` shards with an index, the tensors dealt out in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    homes = {key: names[number % count] for number, key in enumerate(state)}
    for name in names:
        part = {key: value for key, value in state.items() if homes[key] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    size = sum(value.numel() * value.element_size() for value in state.values())
    index(folder, {"metadata": {"total_size": size, **metadata}, "weight_map": homes})
    return folder


def index(folder: Path, content: object) -> None:
    (folder / INDEX).write_text(json.dumps(content))
