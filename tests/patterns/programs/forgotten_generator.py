"""Noise from a generator of the program's own."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
noise = torch.Generator().manual_seed(11)
given = {"noise": noise} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        x = x + 0.1 * torch.randn(x.shape, generator=noise)
        update(optimizer, loss_of(model, x, y))
finish(model)
