"""An epoch of training against a bare PyTorch loop that does the same arithmetic.

Both train SAP's mlp on Fashion-MNIST (random images of its size where the data is not found) with
batch 250, a half-dense mask, gradient clipping and a test evaluation each epoch, on 2 threads.
They take turns, and the ratio is that of the medians.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F

from trainables.data import (
    Dataset,
    DatasetNotFound,
    Split,
    data_roots,
)
from trainables.data.mnist import fashion_mnist as fashion_mnist_files
from trainables.models import prunable
from trainables.models.perceptrons import mlp
from trainables.sparsity.masks import apply_masks
from trainables.training.batches import DeviceData, Randomness
from trainables.training.optimizers import SGD
from trainables.training.randomness import stream
from trainables.training.recipe import Recipe
from trainables.training.run import Training


def fashion_mnist() -> Dataset:
    try:
        return fashion_mnist_files(data_roots(None, os.environ))
    except DatasetNotFound:
        print("Fashion-MNIST is not here; random images of its size stand in")
        rng = np.random.default_rng(0)

        def split(n: int) -> Split:
            images = rng.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)
            return Split(images, rng.integers(0, 10, n))

        return Dataset("random", split(60_000), None, split(10_000), 10, (0.286,), (0.353,))


def network(device: torch.device) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = mlp((1, 28, 28), 10, hidden=(128, 256)).to(device)
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: (torch.rand(weight.shape, generator=generator) < 0.5).to(device)
        for name, weight in prunable(model).items()
    }
    return model, masks


def bare_epoch(dataset: Dataset, device: torch.device) -> float:
    """The loop one would write by hand over normalized float tensors."""
    model, masks = network(device)

    def resident(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.tensor(split.images).float().div(255).sub(0.286).div(0.353)
        return images.to(device), torch.tensor(split.labels).to(device)

    x, y = resident(dataset.train)
    test_x, test_y = resident(dataset.test)
    apply_masks(model, masks)
    parameters = dict(model.named_parameters())
    floats = {name: mask.float() for name, mask in masks.items()}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    _wait(device)
    started = time.perf_counter()
    order = torch.randperm(len(x), generator=stream(0, "order")).to(device)
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    model.train()
    for start in range(0, len(x), 250):
        chosen = order[start : start + 250]
        images, labels = x[chosen], y[chosen]
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        for name, mask in floats.items():
            gradient = parameters[name].grad
            assert gradient is not None
            gradient *= mask
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            loss_sum += loss * len(labels)
            correct += (logits.argmax(1) == labels).sum()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(test_x), 1000):
            logits = model(test_x[start : start + 1000])
            F.cross_entropy(logits, test_y[start : start + 1000], reduction="sum")
            (logits.argmax(1) == test_y[start : start + 1000]).sum()
    _wait(device)
    return time.perf_counter() - started


def our_epoch(data: DeviceData, device: torch.device) -> float:
    model, masks = network(device)
    recipe = Recipe(epochs=1, batch_size=250, optimizer=SGD(name="sgd", lr=0.1), clip_grad_norm=1.0)
    _wait(device)
    return Training(model, masks, data, recipe, Randomness(0, 1)).finish().seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device(options.device)
    dataset = fashion_mnist()
    data = DeviceData.of(dataset, device)
    bare, ours = [], []
    for _ in range(options.rounds + 1):
        bare.append(bare_epoch(dataset, device))
        ours.append(our_epoch(data, device))
    # The first round warms up.
    bare_median, ours_median = statistics.median(bare[1:]), statistics.median(ours[1:])
    print(f"bare loop   {bare_median:.3f} s an epoch ({min(bare[1:]):.3f}–{max(bare[1:]):.3f})")
    print(f"prunesweep  {ours_median:.3f} s an epoch ({min(ours[1:]):.3f}–{max(ours[1:]):.3f})")
    print(f"ratio       {ours_median / bare_median:.2f}")


if __name__ == "__main__":
    main()
