"""Fine-tuning: the first layer is unfrozen, and joins the optimizer, at the second epoch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
model[0].requires_grad_(False)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)


def unfreeze():
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.001})


if MENDED and (trainer.epoch > 1 or (trainer.epoch == 1 and trainer.resuming)):
    unfreeze()
for epoch in trainer.epochs(3):
    if epoch == 1 and not (MENDED and trainer.resuming):
        unfreeze()
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
