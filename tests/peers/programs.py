"""The rows of the table: what trains, and how it resumes. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Program:
    """A function of a module of this package that trains, and resumes by one of the ways."""

    framework: str
    way: str
    function: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module of the framework."""
        return f"tests.peers.{MODULES[self.framework]}"


MODULES = {
    "PyTorch": "plain",
    "Lightning": "lightning",
    "Hugging Face": "huggingface",
    "Accelerate": "accelerated",
    "Fabric": "fabric",
}
STATEFUL, BY_HAND = {"kind": "stateful"}, {"kind": "by hand"}

PROGRAMS = (
    Program("PyTorch", "`torch.save`, the epoch from its start", "own"),
    Program("PyTorch", "`torch.save` at the ends of epochs", "own", {"inside": False}),
    Program("PyTorch", "`torch.save` and `StatefulDataLoader`", "own", STATEFUL),
    Program("PyTorch", "the same and by hand", "own", BY_HAND),
    Program("PyTorch", "**resumable**", "resumable"),
    Program("Lightning", '`ModelCheckpoint`, `ckpt_path="last"`', "own"),
    Program("Lightning", "`ModelCheckpoint` at the ends of epochs", "own", {"inside": False}),
    Program("Lightning", "`ModelCheckpoint` and `StatefulDataLoader`", "own", STATEFUL),
    Program("Lightning", "the same and by hand", "own", BY_HAND),
    Program("Lightning", "**resumable**", "resumable"),
    Program("Hugging Face", "`save_steps`, `resume_from_checkpoint`", "own"),
    Program("Hugging Face", '`save_strategy="epoch"`, `resume_from_checkpoint`', "own", {"inside": False}),
    Program("Hugging Face", "**resumable**", "resumable"),
    Program("Accelerate", "`save_state`, `skip_first_batches`", "own"),
    Program("Accelerate", "`save_state` at the ends of epochs", "own", {"inside": False}),
    Program("Accelerate", "`skip_first_batches`, `use_seedable_sampler`", "own", {"seedable": True}),
    Program("Accelerate", "`save_state`, `use_stateful_dataloader`", "own", STATEFUL),
    Program("Accelerate", "the same and by hand", "own", BY_HAND),
    Program("Accelerate", "**resumable**", "resumable"),
    Program("Fabric", "`fabric.save`, the epoch from its start", "own"),
    Program("Fabric", "`fabric.save` at the ends of epochs", "own", {"inside": False}),
    Program("Fabric", "`fabric.save` and `StatefulDataLoader`", "own", STATEFUL),
    Program("Fabric", "the same and by hand", "own", BY_HAND),
    Program("Fabric", "**resumable**", "resumable"),
)
