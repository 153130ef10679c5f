"""Trains on handwritten digits, crashes, resumes, and carries the model to three formats, each with its proof.

Run it as it is. At its end there are three folders, and a picture of what the live model and the exported one see.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resumable import Config, Run, Trainer
from resumable.export import export

EPOCHS = 6
FORMATS = ["safetensors", "pt2", "onnx"]
CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"


def build():
    """The model; in this folder, `resumable export --model deploy_digits:build` calls this."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(256, 10),
    )


def samples():
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
    return TensorDataset(images[:1500], labels[:1500]), TensorDataset(images[1500:], labels[1500:])


def train(run, crash_at):
    torch.manual_seed(0)
    seen, unseen = samples()
    loader = DataLoader(seen, batch_size=50, shuffle=True)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    trainer = Trainer(Config.load(CONFIG, run=run), model=model, optimizer=optimizer)
    trainer.golden(unseen[:8][0])  # every checkpoint now carries what the model gives for these eight images
    for _ in trainer.epochs(EPOCHS):
        for images, labels in trainer.batches(loader):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if trainer.step == crash_at and trainer.resumed_from is None:
                os.kill(os.getpid(), signal.SIGKILL)
        trainer.log(val_loss=validate(model, unseen))


def validate(model, unseen):
    images, labels = unseen[:]
    model.eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(images), labels).item()
    model.train()
    return loss


def draw(run, artifact, picture):
    """What the live model gives for unseen images, beside what ONNX Runtime gives with the exported one."""
    import matplotlib.pyplot as plt
    import onnxruntime

    images = samples()[1][:8][0]
    model = build().eval()
    Run(run).best().load_into(model)
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        live = model(images).softmax(1).numpy()
    exported = torch.tensor(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]).softmax(1).numpy()
    figure, axes = plt.subplots(2, 8, figsize=(12, 4), layout="constrained")
    for number, (above, below) in enumerate(axes.T):
        above.imshow(images[number], cmap="gray_r")
        above.set(xticks=[], yticks=[], title=f"live: {live[number].argmax()}\nexported: {exported[number].argmax()}")
        below.bar([digit - 0.2 for digit in range(10)], live[number], 0.4, label="live: PyTorch")
        below.bar([digit + 0.2 for digit in range(10)], exported[number], 0.4, label="exported: ONNX Runtime")
        below.set(xticks=range(10), yticks=[0, 1], ylim=(0, 1.05), xlabel="digit")
        below.label_outer()
    axes[1, 0].set_ylabel("probability")
    figure.suptitle(f"eight unseen digits: largest difference of a probability {abs(live - exported).max():.1e}")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(picture, dpi=100)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="runs/deploy", help="where everything goes")
    parser.add_argument("--train", action="store_true", help="only train: what the two launches below run")
    parser.add_argument("--crash-at", type=int, help="the step at which to be killed")
    arguments = parser.parse_args()
    folder = Path(arguments.folder)
    run = str(folder / "run")
    if arguments.train:
        return train(run, arguments.crash_at)
    if folder.exists():
        sys.exit(f"{folder} exists already: remove it, or name another folder")
    for crash, expected in ((["--crash-at", "100"], -signal.SIGKILL), ([], 0)):
        ended = subprocess.run([sys.executable, __file__, str(folder), "--train", *crash])
        print(f"training ended with {ended.returncode}{' (killed)' if ended.returncode < 0 else ''}")
        if ended.returncode != expected:
            sys.exit(f"expected {expected}")
    for format in FORMATS:
        model = None if format == "safetensors" else "deploy_digits:build"
        export(f"{run}@best", folder / format, format=format, model=model)
        # On the machine where it serves, and without this file:
        subprocess.run([sys.executable, "-m", "resumable", "verify", str(folder / format)], check=True)
    draw(run, folder / "onnx", folder / "predictions.png")
    print(f"picture: {folder / 'predictions.png'}")


if __name__ == "__main__":
    main()
