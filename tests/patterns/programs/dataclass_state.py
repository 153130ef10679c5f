"""The state of the loop in a dataclass: a running scale of the loss."""

from dataclasses import dataclass

from resumable import Trainer, attributes
from tests.patterns.toys import *


@dataclass
class LoopState:
    scale: float = 1.0
    seen: int = 0


model = net()
optimizer = sgd(model)
state = LoopState()
given = {"state": attributes(state)} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        loss = loss_of(model, x, y)
        update(optimizer, loss / state.scale)
        state.scale = 0.9 * state.scale + 0.1 * loss.item()
        state.seen += 1
finish(model)
