"""A net that gets a layer at the second epoch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)


def grow():
    model.append(nn.Linear(2, 2))
    optimizer.add_param_group({"params": model[-1].parameters()})


if MENDED and (trainer.epoch > 1 or (trainer.epoch == 1 and trainer.resuming)):
    grow()
for epoch in trainer.epochs(3):
    if epoch == 1 and not (MENDED and trainer.resuming):
        grow()
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
