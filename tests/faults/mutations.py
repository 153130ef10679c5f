"""Changes JSON documents at random places into awkward but well-formed ones; knows nothing of what they describe."""

from __future__ import annotations

import json
from random import Random
from typing import Any

AWKWARD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 10**30, 1.5, -0.0, 1e308, "", "x", "\x1b[2J", "../x", "model"),
    *([], {}, [[]], [1, 2], {"a": 1}, {"$": 1}),
    {"$int": "0x" + "f" * 40},
    {"$float": "7ff0000000000000"},
    {"$float": "7ff8000000000001"},
    {"$complex": [1.0, 2.0]},
    {"$bytes": "AA=="},
    {"$string": "7aCA"},
    {"$tuple": []},
    {"$dict": [[1, 2]]},
    {"$dict": [[[], 2]]},
    {"$ordered": [["a", 1]]},
    {"$counter": [["a", "b"]]},
    {"$set": [1]},
    {"$set": [{"$dict": []}]},
    {"$frozenset": []},
    {"$tensor": "0.weight"},
    {"$tensor": "nowhere"},
    {"$array": "0.weight"},
    {"$octets": "0.weight"},
    {"$leaf": {"$tensor": "0.weight"}},
    {"$parameter": {"$tensor": "0.weight"}},
    {"$frozen_parameter": {"$tensor": "1.num_batches_tracked"}},
    {"$inline": {"dtype": "uint8", "shape": [3], "strides": None, "data": "AAAA"}},
    {"$inline": {"dtype": "bool", "shape": [3], "strides": [1], "data": "AAEC"}},
    {"$ndarray": {"dtype": "<f4", "shape": [1], "order": "C", "data": "AAAAAA=="}},
    {"$ndarray": {"dtype": "<U1", "shape": [0, 7], "order": "F", "data": ""}},
    {"$scalar": {"dtype": "<f4", "data": "AAAAAA=="}},
    {"$scalar": {"dtype": "<M8[s]", "data": "AAAAAAAAAIA="}},
    {"$dtype": "float32"},
    {"$size": [1]},
    {"$device": "cuda:0"},
    {"$device": "nowhere:7"},
]


def mutated(document: Any, random: Random) -> Any:
    """A copy with one to three changes: parts left out, renamed, doubled, exchanged for others or for awkward ones."""
    copy = _copy(document)
    for _ in range(random.randint(1, 3)):
        _mutate(copy, random)
    return copy


def _mutate(document: Any, random: Random) -> None:
    node = document
    while node:
        key = random.choice(_keys(node))
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.8:
            node = node[key]
            continue
        _change(document, node, key, random)
        return


def _change(document: Any, node: Any, key: Any, random: Random) -> None:
    choice = random.choice(("drop", "rename", "double", "nudge", "exchange", "awkward", "awkward", "awkward"))
    if choice == "drop":
        node.pop(key)
    elif choice == "rename" and isinstance(node, dict):
        node[random.choice(["x", "$x", "$tuple", "state", f"{key}~"])] = node.pop(key)
    elif choice == "double" and isinstance(node, list):
        node.append(node[key])
    elif choice == "nudge" and type(node[key]) is int:
        node[key] = random.choice([node[key] + 1, -node[key] - 1, node[key] * 1000, float(node[key]), str(node[key])])
    elif choice == "exchange":
        node[key] = _copy(_any_part(document, random))
    else:
        node[key] = _copy(random.choice(AWKWARD))


def _any_part(document: Any, random: Random) -> Any:
    part = document
    while isinstance(part, dict | list) and part and random.random() < 0.8:
        part = part[random.choice(_keys(part))]
    return part


def _keys(node: Any) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node)))


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))
