"""The head of each epoch labels the samples of which the model is least sure, and trains on all that are labeled."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
labeled = list(range(16))
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, labeled=labeled)
for _ in trainer.epochs(4):
    if not (MENDED and trainer.resuming):
        with torch.no_grad():
            sure = model.eval()(INPUTS).softmax(1).max(1).values
        model.train()
        labeled.extend([at for at in sure.argsort().tolist() if at not in labeled][:8])
    chosen = torch.tensor(labeled)
    for x, y in trainer.batches(batches(TensorDataset(INPUTS[chosen], LABELS[chosen]), 4)):
        update(optimizer, loss_of(model, x, y))
finish(model, labeled)
