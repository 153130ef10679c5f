"""Epochs over a shuffled loader, dropout, a scheduler: what every tutorial has."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.9)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, scheduler=scheduler)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
        scheduler.step()
finish(model)
