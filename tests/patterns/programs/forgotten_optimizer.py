"""Two nets, two optimizers, as in a GAN: one optimizer was not given."""

from resumable import Trainer
from tests.patterns.toys import *

generator, critic = net(8, 8), net()
model = nn.ModuleList([generator, critic])
optimizer, other = sgd(generator, 0.05), torch.optim.Adam(critic.parameters(), 0.01)
given = {"other": other} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(other, loss_of(critic, x, y) + loss_of(critic, generator(x).detach(), 1 - y))
        update(optimizer, loss_of(critic, generator(x), y))
finish(model)
