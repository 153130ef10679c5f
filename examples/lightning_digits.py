"""A small LightningModule learns handwritten digits; one line makes it exact to resume. Kill it, and run it again."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from resumable.lightning import Resume

EPOCHS = 6


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


class Digits(pl.LightningDataModule):
    def setup(self, stage):
        digits = load_digits()
        samples = TensorDataset(torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target))
        self.train, self.test = random_split(samples, [1500, 297], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(Shaky(self.train), batch_size=50, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.test, batch_size=100)


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))

    def training_step(self, batch):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layers(images), labels)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch):
        images, labels = batch
        outputs = self.layers(images)
        self.log("val_loss", nn.functional.cross_entropy(outputs, labels))
        self.log("val_accuracy", (outputs.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


if __name__ == "__main__":
    pl.seed_everything(0)
    resume = Resume("configs/lightning_digits.yaml")
    trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[resume], logger=False, enable_checkpointing=False)
    trainer.fit(Classifier(), Digits())
    print(f"accuracy {trainer.callback_metrics['val_accuracy']:.1%}")
