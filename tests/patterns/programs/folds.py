"""Cross validation: a run for each fold, and the scores of the folds in a list."""

from resumable import Trainer
from tests.patterns.toys import *

scores = []
for fold in range(2):
    torch.manual_seed(fold)
    model = net()
    optimizer = sgd(model)
    with Trainer(CONFIG | {"run": f"{RUN}/fold{fold}"}, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.epochs(2):
            for x, y in trainer.batches(batches()):
                update(optimizer, loss_of(model, x, y))
    scores.append(loss_of(model.eval(), INPUTS, LABELS).item())
finish(model, scores)
