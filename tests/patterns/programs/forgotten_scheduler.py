"""A scheduler of the given optimizer was not given."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=24)
given = {"scheduler": scheduler} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
        scheduler.step()
finish(model)
