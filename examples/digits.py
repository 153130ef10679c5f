"""A small network learns handwritten digits. Kill it whenever you like and run it again: you get the same bits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from resumable import Trainer

EPOCHS = 20


class Shaky(Dataset):
    """The images of another dataset, moved sideways and made noisy anew each time they are read."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        sideways = torch.randint(-1, 2, ()).item()
        return image.roll(sideways, 1) + 0.05 * torch.randn(8, 8), label


def validate(model, batches):
    [(images, labels)] = batches  # the whole test set
    model.eval()
    with torch.no_grad():
        outputs = model(images)
    model.train()
    accuracy = (outputs.argmax(1) == labels).float().mean().item()
    return {"val_loss": nn.functional.cross_entropy(outputs, labels).item(), "val_accuracy": accuracy}


torch.manual_seed(0)
digits = load_digits()
samples = TensorDataset(torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target))
train, test = torch.utils.data.random_split(samples, [1500, 297])
train_loader = DataLoader(Shaky(train), batch_size=50, shuffle=True)
test_loader = DataLoader(test, batch_size=len(test))

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=EPOCHS * len(train_loader))

trainer = Trainer("configs/digits.yaml", model=model, optimizer=optimizer, scheduler=scheduler)
for _ in trainer.epochs(EPOCHS):
    for images, labels in trainer.batches(train_loader):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        trainer.log(loss=loss)
    trainer.log(**validate(model, trainer.evaluate(test_loader)))

print(f"accuracy {validate(model, test_loader)['val_accuracy']:.1%}")
