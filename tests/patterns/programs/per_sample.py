"""The loss of each sample, written by index into an array, weights the next epoch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
seen = numpy.ones(64, numpy.float32)
given = {"seen": seen} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
data = TensorDataset(INPUTS, LABELS, torch.arange(64))
for _ in trainer.epochs(3):
    for x, y, at in trainer.batches(batches(data)):
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        update(optimizer, (losses * torch.as_tensor(seen[at.numpy()])).mean())
        seen[at.numpy()] = losses.detach().numpy()
finish(model, seen)
