"""The learning rate in the script is another one at the relaunch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model, 0.01 if LATER else 0.1)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
