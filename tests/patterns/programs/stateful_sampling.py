"""A sampler of the program's own draws by the losses so far, and has a state."""

from resumable import Trainer
from tests.patterns.toys import *


class Hard(torch.utils.data.Sampler):
    def __init__(self, count):
        self.weights = torch.ones(count, dtype=torch.double)

    def __len__(self):
        return len(self.weights)

    def __iter__(self):
        return iter(torch.multinomial(self.weights, len(self.weights), True).tolist())

    def state_dict(self):
        return {"weights": self.weights.clone()}

    def load_state_dict(self, state):
        self.weights.copy_(state["weights"])


model = net()
optimizer = sgd(model)
sampler = Hard(64)
data = TensorDataset(INPUTS, LABELS, torch.arange(64))
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(4):
    for x, y, at in trainer.batches(DataLoader(data, 8, sampler=sampler)):
        update(optimizer, loss_of(model, x, y))
        with torch.no_grad():
            losses = nn.functional.cross_entropy(model.eval()(x), y, reduction="none")
        model.train()
        sampler.weights[at] = losses.double() + 0.01
finish(model)
