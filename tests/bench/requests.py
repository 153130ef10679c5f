"""How many requests an object store gets for saves and reads, on a server of this machine; knows no clock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from resumable.run.run import Run
from tests.faults.http_proxy import FaultProxy
from tests.faults.servers import shared_moto
from tests.faults.test_object_stores import Place
from tests.faults.test_request_counts import counted, saves

KEPT, MANY = 3, 40


def measure() -> dict[str, Any]:
    """Requests by what was done. A checkpoint has three blobs, and parts of large ones are not counted."""
    logging.getLogger("resumable").setLevel(logging.ERROR)
    with FaultProxy(shared_moto().port) as proxy:
        pruned, many = Place(shared_moto(), proxy), Place(shared_moto(), proxy)
        deleting = [*saves(pruned, KEPT, KEPT + 4)][-1]
        steady = [*saves(many, MANY, MANY)][-1]
        [_, first, *_] = saves(many, 2 * MANY, MANY + 2)
        url, options = f"s3://{many.bucket}/run", many.server.options(proxy.endpoint)
        reads: dict[str, Callable[[Run], object]] = {
            f"latest() among {MANY}": lambda run: run.latest(),
            f"at() among {MANY}": lambda run: run.at(2),
            f"checkpoints() among {MANY}": lambda run: run.checkpoints(),
        }
        found = {name: counted(many, partial(read, Run(url, storage_options=options))) for name, read in reads.items()}
    found = {"a save": steady, "a save that deletes one": deleting, f"the first save among {MANY}": first, **found}
    return {name: {"requests_count": sum(each.values()), "lists_count": each["LIST"]} for name, each in found.items()}
