"""The state_dict of the optimizer was given in the place of the optimizer."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
given = {"optimizer": optimizer} if MENDED else {"optimizer": optimizer.state_dict()}
trainer = Trainer(CONFIG, model=model, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
