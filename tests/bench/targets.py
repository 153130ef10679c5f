"""What is held to what, and to how much of it; knows no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.contestants import DCP_THREAD, EAGER, OVERLAP, TORCH_SAVE
from tests.bench.timing import Summary, ratio


@dataclass(frozen=True)
class Target:
    """`subject`'s `what` must be at most `bound` times that of `reference`; without a reference, `bound` itself."""

    says: str
    figure: str
    what: str
    subject: str
    bound: float
    reference: str | None = None
    reference_what: str | None = None


@dataclass(frozen=True)
class Verdict:
    """How a target stands; `found` is None where it could not be measured, and `why` says why."""

    target: Target
    found: Summary | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.found is None else self.found.median <= self.target.bound


TARGETS = [
    Target("stall, eager / one memcpy", "save-kept", "stall_seconds", EAGER, 1.15, "memcpy", "seconds"),
    Target("stall, overlap / one memcpy", "save-kept", "stall_seconds", OVERLAP, 0.1, "memcpy", "seconds"),
    Target("stall in training, eager / DCP async thread", "train-kept", "stall_seconds", EAGER, 1.2, DCP_THREAD),
    Target("stall in training, overlap / DCP async thread", "train-kept", "stall_seconds", OVERLAP, 0.1, DCP_THREAD),
    Target("whole cost, eager / DCP async thread", "train-kept", "whole_cost_seconds", EAGER, 0.2, DCP_THREAD),
    Target("whole cost, eager / torch.save + fsync", "train-kept", "whole_cost_seconds", EAGER, 0.2, TORCH_SAVE),
    Target("whole cost, overlap / DCP async thread", "train-kept", "whole_cost_seconds", OVERLAP, 0.2, DCP_THREAD),
    Target("whole cost, overlap / torch.save + fsync", "train-kept", "whole_cost_seconds", OVERLAP, 0.2, TORCH_SAVE),
    Target(
        "durable / O_DIRECT write + fsync",
        "save-kept",
        "durable_seconds",
        EAGER,
        1.2,
        "O_DIRECT write + fsync",
        "seconds",
    ),
    Target("durable / torch.save + fsync", "save-blocking", "durable_seconds", EAGER, 0.45, TORCH_SAVE),
    Target(
        "verified load, warm / safetensors + copy",
        "loading",
        "seconds",
        "loading, warm · resumable",
        1.1,
        "loading, warm · safetensors",
    ),
    Target(
        "verified load, cold / safetensors + copy",
        "loading",
        "seconds",
        "loading, cold · resumable",
        1.1,
        "loading, cold · safetensors",
    ),
    Target("restart / torch.load, processor time", "restart", "cpu_seconds", "resumable", 1.3, "torch.load"),
    Target("extra memory, eager, of the state", "memory", "peak_states", EAGER, 1.05),
    Target("extra memory, overlap, of the state", "memory", "peak_states", OVERLAP, 1.05),
    Target("98 % frozen: bytes / a full save", "frozen", "written_bytes", "98 % frozen", 0.03, "a full save"),
    Target("98 % frozen: durable / a full save", "frozen", "durable_seconds", "98 % frozen", 0.15, "a full save"),
    Target("3,000 parameters: stall, CPU s", "many", "stall_cpu_seconds", "3000 parameters", 0.1),
    Target("10,000 parameters: stall, CPU s", "many", "stall_cpu_seconds", "10000 parameters", 0.25),
    Target(
        "3,000 parameters: stall / torch.save, CPU",
        "many",
        "stall_cpu_seconds",
        "3000 parameters",
        0.1,
        "torch.save, 3000 parameters",
        "cpu_seconds",
    ),
    Target(
        "10,000 parameters: stall / torch.save, CPU",
        "many",
        "stall_cpu_seconds",
        "10000 parameters",
        0.1,
        "torch.save, 10000 parameters",
        "cpu_seconds",
    ),
    Target(
        "1,000 bytes of 1 GiB changed: bytes / a full save",
        "buffer",
        "written_bytes",
        "1,000 bytes changed",
        0.2,
        "a full save",
    ),
    Target(
        "first save after a resume / later: stall",
        "first",
        "stall_seconds",
        "the first save after a resume",
        1.3,
        "a later save",
    ),
    Target(
        "first save after a resume / later: durable",
        "first",
        "durable_seconds",
        "the first save after a resume",
        1.3,
        "a later save",
    ),
    Target(
        "step 0 of a fresh run / later: stall",
        "first",
        "stall_seconds",
        "step 0 of a fresh run",
        5,
        "a later save",
    ),
    Target("requests of a save on S3", "requests", "requests_count", "a save", 8),
    Target("lists among them", "requests", "lists_count", "a save", 2),
    Target("requests of a save that deletes one", "requests", "requests_count", "a save that deletes one", 14),
    Target("requests of latest()", "requests", "requests_count", "latest() among 40", 8),
    Target("requests of at(STEP)", "requests", "requests_count", "at() among 40", 8),
    Target("first save among 300 checkpoints, CPU s", "kept", "cpu_seconds", "the first save among 300", 1),
    Target("extra memory of that, MiB", "kept", "extra_mib", "the first save among 300", 10),
    Target("memory of ls of 300, MiB", "kept", "peak_mib", "ls of 300", 60),
    Target("latest() among 150, CPU s", "kept", "cpu_seconds", "latest() among 150", 0.01),
    Target("at(STEP) among 150, CPU s", "kept", "cpu_seconds", "at() among 150", 0.01),
    Target("whole cost with step 0 / DCP async thread, CPU", "with-start", "cpu_seconds", EAGER, 0.2, DCP_THREAD),
    Target("extra memory of step 0, MiB", "first", "extra_mib", "step 0 of a fresh run", 40),
    Target("import resumable, s", "startup", "seconds", "import resumable", 0.3),
    Target("resumable ls, s", "startup", "seconds", "resumable ls", 0.3),
    Target("discovery in 1,000 checkpoints, s", "startup", "seconds", "discovery in 1000", 0.05),
    Target("Trainer(...), fresh run, s", "startup", "seconds", "Trainer, fresh run", 0.05),
    Target("Trainer(...), resumed run, s", "startup", "seconds", "Trainer, resumed run", 0.05),
    Target("batches(), no workers, rushing, µs", "batches", "extra_wall_microseconds", "0 workers, rushing", 200),
    Target("batches(), no workers, training, µs", "batches", "extra_wall_microseconds", "0 workers, training", 200),
    Target("batches(), 2 workers, rushing, µs", "batches", "extra_wall_microseconds", "2 workers, rushing", 50),
    Target("batches(), 2 workers, training, µs", "batches", "extra_wall_microseconds", "2 workers, training", 50),
    Target("Lightning callback, on a step of 5 ms, %", "lightning", "extra_percent", "with Resume", 3),
    Target("the same, over data drawn at random, %", "lightning", "extra_percent", "with Resume, random data", 3),
]


def judge(target: Target, results: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """How a target stands by the results of one size, by the names of the figures."""
    result = results.get(target.figure)
    if result is None or "failed" in result:
        return Verdict(target, None, result["failed"] if result else "not asked for")
    for who in (target.subject, target.reference):
        if who is not None and who in result["absent"]:
            return Verdict(target, None, result["absent"][who])
    try:
        mine = result["samples"][target.subject][target.what]
        if target.reference is None:
            return Verdict(target, Summary.of(mine))
        theirs = result["samples"][target.reference][target.reference_what or target.what]
        return Verdict(target, ratio(mine, theirs))
    except (KeyError, ValueError) as error:
        return Verdict(target, None, f"no samples: {error}")
