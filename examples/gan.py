"""A GAN learns eight islands of points: two optimizers, of which the generator's steps only every second batch."""

import math

import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer

EPOCHS = 15
NOISE = 2
GENERATOR_EVERY = 2


def network(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


torch.manual_seed(0)
angles = torch.arange(8) * math.pi / 4
islands = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
points = islands.repeat(512, 1) + 0.1 * torch.randn(4096, 2)
loader = DataLoader(TensorDataset(points), batch_size=64, shuffle=True)

generator, critic = network(NOISE, 2), network(2, 1)
generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-3, betas=(0.5, 0.9))
critic_optimizer = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.5, 0.9))

trainer = Trainer(
    {"run": "runs/gan", "every": {"steps": 100}},
    generator=generator,
    critic=critic,
    generator_optimizer=generator_optimizer,
    critic_optimizer=critic_optimizer,
)
for epoch in trainer.epochs(EPOCHS):
    for index, (real,) in trainer.enumerate(loader):
        fake = generator(torch.randn(len(real), NOISE))
        critic_loss = softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        trainer.log(critic_loss=critic_loss)

        if index % GENERATOR_EVERY == 0:
            generator_loss = softplus(-critic(fake)).mean()
            generator_optimizer.zero_grad()
            generator_loss.backward()
            generator_optimizer.step()
            trainer.log(generator_loss=generator_loss)

    with torch.no_grad():
        made = generator(torch.randn(1000, NOISE))
    distance, island = torch.cdist(made, islands).min(dim=1)
    reached = island[distance < 0.5].unique().numel()
    trainer.log(distance=distance.mean(), reached=reached)
    print(f"epoch {epoch}  distance to the nearest island {distance.mean():.3f}  islands reached {reached} of 8")
