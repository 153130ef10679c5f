"""Hard examples: the weights of torch's sampler follow the losses."""

from torch.utils.data import WeightedRandomSampler

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
sampler = WeightedRandomSampler(torch.ones(64, dtype=torch.double), 64)
data = TensorDataset(INPUTS, LABELS, torch.arange(64))
given = {"weights": sampler.weights} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(4):
    for x, y, at in trainer.batches(DataLoader(data, 8, sampler=sampler)):
        update(optimizer, loss_of(model, x, y))
        with torch.no_grad():
            losses = nn.functional.cross_entropy(model.eval()(x), y, reduction="none")
        model.train()
        sampler.weights[at] = losses.double() + 0.01
finish(model)
