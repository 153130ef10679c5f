"""Magnitude pruning at the second epoch: a weight becomes a weight and a mask."""

from torch.nn.utils import prune

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
if MENDED and (trainer.epoch > 1 or (trainer.epoch == 1 and trainer.resuming)):
    prune.l1_unstructured(model[0], "weight", 0.5)
for epoch in trainer.epochs(3):
    if epoch == 1 and not (MENDED and trainer.resuming):
        prune.l1_unstructured(model[0], "weight", 0.5)
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
