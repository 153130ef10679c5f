"""Cells of a notebook: each is compiled by itself and runs in one namespace."""

from resumable import Trainer  # noqa: F401  # in the cells
from tests.patterns.toys import *

CELLS = [
    "model = net(); optimizer = sgd(model)",
    "trainer = Trainer(CONFIG, model=model, optimizer=optimizer)\nweight = 1.0",
    """
if MENDED:
    trainer.carry("weight")
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, weight * loss_of(model, x, y))
        weight *= 0.95
""",
    "finish(model, weight)",
]
names = dict(globals())
for number, cell in enumerate(CELLS):
    exec(compile(cell, f"<cell {number}>", "exec"), names)
