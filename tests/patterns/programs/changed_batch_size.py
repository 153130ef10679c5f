"""The batch size in the script is another one at the relaunch, in the middle of an epoch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches(size=4 if LATER else 8)):
        update(optimizer, loss_of(model, x, y))
finish(model)
