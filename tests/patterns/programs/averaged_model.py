"""torch's own average, which begins with the second epoch."""

from torch.optim.swa_utils import AveragedModel

from resumable import Trainer
from tests.patterns.toys import *

model = net()
averaged = AveragedModel(model)
optimizer = sgd(model)
given = {"averaged": averaged} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for epoch in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
        if epoch >= 1:
            averaged.update_parameters(model)
finish(averaged)
