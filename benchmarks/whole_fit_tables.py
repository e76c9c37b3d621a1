"""Record trials beside whole fits: what a tenth of a training shows, and what the training came to.

    python benchmarks/whole_fit_tables.py [--records FOLDER] [--tasks NAME ...] [--seeds N ...]

One line per batch size and learning rate: the curve of a trial, which is a tenth of the fit's samples with the schedule
run through, and that of the whole fit. With them a judge of trials is tried in milliseconds: it sees the trials of a
few pairs, and what it chooses is looked up among the fits.

The tasks need nothing but scikit-learn and Python itself. All pairs of a task and seed start from the same weights and
see the same samples in the same order. Seconds are those that one core was at work on training, without validation. A
curve ends where the loss leaves the finite numbers, with a null.

Every line is written as soon as its fit has ended. What is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DATA = Path(__file__).parent / "data"
TRIAL = 0.1  # share of the fit's samples
FIRST, MARKS = 1 / 64, 10  # validations: the first one's share of the budget; evenly in the logarithm from there
EVENLY = 16  # further ones of a fit, evenly spaced
ROOT_10 = math.sqrt(10)

Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Data:
    train: tuple[Tensor, ...]
    val: tuple[Tensor, ...]

    @classmethod
    def split(cls, *tensors: Tensor, val: int) -> Data:
        order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(0))
        return cls(tuple(t[order[val:]] for t in tensors), tuple(t[order[:val]] for t in tensors))


@cache
def digits() -> Data:
    """8 x 8 pixels each; every fifth is kept for validation."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Data.split(
        torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels), val=len(labels) // 5
    )


@cache
def patches() -> Data:
    """Overlapping 8 x 8 patches of scikit-learn's two photos in colour, and which of the two."""
    from sklearn.datasets import load_sample_images

    cut, labels = [], []
    for label, image in enumerate(load_sample_images().images):
        pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1) / 255 - 0.5
        cut.append(pixels.unfold(1, 8, 6).unfold(2, 8, 6).permute(1, 2, 0, 3, 4).flatten(0, 1))
        labels.append(torch.full((len(cut[-1]),), label))
    return Data.split(torch.cat(cut), torch.cat(labels), val=800)


@cache
def noisy_patches() -> Data:
    clean = torch.cat([patches().train[0], patches().val[0]])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)) * 0.15
    return Data.split(clean + noise, clean, val=800)


@cache
def surrounded() -> Data:
    """Predict the 4 x 4 pixels in the middle of a patch from those around them."""
    images = torch.cat([patches().train[0], patches().val[0]])
    middle = torch.zeros(8, 8, dtype=torch.bool)
    middle[2:6, 2:6] = True
    return Data.split(images[:, :, ~middle].flatten(1), images[:, :, middle].flatten(1), val=800)


@cache
def library() -> tuple[bytes, list[bytes]]:
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [module.read_bytes() for module in modules]
    return b"".join(texts)[: 2**21], sorted(texts, key=len)[-16:]


def pieces(text: bytes, length: int, step: int) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).unfold(0, length, step).long()


@cache
def next_byte() -> Data:
    """The byte after eight."""
    cut = pieces(library()[0], 9, 16)
    return Data.split(cut[:, :8], cut[:, 8], val=2000)


@cache
def sequences() -> Data:
    return Data.split(pieces(library()[0], 33, 32), val=400)


@cache
def which_module() -> Data:
    """Which of the sixteen longest modules 48 bytes are from."""
    cut = [pieces(text, 48, 48)[:1500] for text in library()[1]]
    labels = torch.cat([torch.full((len(part),), label) for label, part in enumerate(cut)])
    return Data.split(torch.cat(cut), labels, val=1500)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def cnn(norm: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16, 10),
    )  # fmt: skip


def photo_net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2),
    )  # fmt: skip


def denoiser() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 3, 3, padding=1),
    )  # fmt: skip


def painter() -> nn.Module:
    return nn.Sequential(nn.Linear(144, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 48))


def context_net() -> nn.Module:
    return nn.Sequential(nn.Embedding(256, 12), nn.Flatten(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 256))


class Bag(nn.Module):
    """The mean of embedded pairs of bytes, into a small net."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.EmbeddingBag(4096, 32)
        self.net = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.pairs((x[:, :-1] * 31 + x[:, 1:] * 257) % 4096))


class TinyGPT(nn.Module):
    def __init__(self, width: int = 32, heads: int = 2, context: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.token, self.position = nn.Embedding(256, width), nn.Parameter(torch.randn(context, width) * 0.02)
        self.before_attention, self.before_mlp, self.last = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token(x) + self.position
        qkv = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).flatten(-2))
        return self.head(self.last(x + self.mlp(self.before_mlp(x))))


def classify(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    logits = model(batch[0])
    return F.cross_entropy(logits, batch[1]), (logits.argmax(1) == batch[1]).float().mean()


def predict(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, None]:
    return F.mse_loss(model(batch[0]), batch[1]), None


def continue_text(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, None]:
    return F.cross_entropy(model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten()), None


OPTIMIZERS = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "adamw": lambda parameters, lr: torch.optim.AdamW(parameters, lr),
}
SCHEDULES: dict[str, Callable[[float], float]] = {  # the learning rate's factor by the share of the fit that is done
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "steps": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
}
LOW_BATCHES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Task:
    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    loss: Callable[..., tuple[Tensor, Tensor | None]]
    optimizer: str
    schedule: str
    samples: int
    lowest_lr: float
    batches: tuple[int, ...] = LOW_BATCHES
    lrs: int = 7

    @property
    def pairs(self) -> Iterator[tuple[int, float]]:
        return product(self.batches, [float(f"{self.lowest_lr * ROOT_10**step:.4g}") for step in range(self.lrs)])


TASKS = {
    "digits-mlp": Task(digits, mlp, classify, "sgd", "cosine", 43_000, 1e-3),
    "digits-cnn-norm": Task(digits, lambda: cnn(True), classify, "sgd", "steps", 28_800, 1e-3, lrs=8),
    "digits-cnn": Task(digits, lambda: cnn(False), classify, "adamw", "constant", 28_800, 1e-4),
    "next-byte": Task(next_byte, context_net, classify, "sgd", "constant", 100_000, 3.162e-3),
    "tiny-gpt": Task(sequences, TinyGPT, continue_text, "adamw", "cosine", 24_000, 1e-4),
    "denoise": Task(noisy_patches, denoiser, predict, "adamw", "steps", 24_000, 1e-4),
    "inpaint": Task(surrounded, painter, predict, "sgd", "cosine", 60_000, 3.162e-3),
    "which-photo": Task(patches, photo_net, classify, "adamw", "cosine", 48_000, 1e-4),
    "which-module": Task(which_module, Bag, classify, "adamw", "steps", 60_000, 1e-4),
    "which-module-sgd": Task(which_module, Bag, classify, "sgd", "constant", 60_000, 1e-2),
}


def order(length: int, samples: int, seed: int) -> Tensor:
    """Sample after sample, each epoch shuffled anew."""
    generator = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(length, generator=generator) for _ in range(math.ceil(samples / length))]
    return torch.cat(epochs)[:samples]


def marks(steps: int, more: int) -> list[int]:
    """The steps to validate after."""
    shares = [FIRST ** (1 - i / (MARKS - 1)) for i in range(MARKS)] + [i / more for i in range(1, more + 1)]
    return sorted({max(1, round(steps * share)) for share in shares})


def curves(task: Task, batch: int, lr: float, seed: int, share: float, more: int) -> tuple[list[Any], list[float]]:
    """Train, and return samples, seconds and loss at each mark, and what was classified right."""
    data, samples = task.data(), round(task.samples * share)
    torch.manual_seed(seed)
    model = task.model()
    optimizer = OPTIMIZERS[task.optimizer](model.parameters(), lr)
    steps = max(1, samples // batch)
    seen = order(len(data.train[0]), steps * batch, seed)
    validated, curve, right, spent = set(marks(steps, more)), [], [], 0.0
    started = time.thread_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * SCHEDULES[task.schedule](step / steps)
        which = seen[step * batch : (step + 1) * batch]
        loss, _ = task.loss(model, tuple(tensor[which] for tensor in data.train))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in validated:
            spent += time.thread_time() - started
            model.eval()
            with torch.no_grad():
                val_loss, accuracy = task.loss(model, data.val)
            model.train()
            finite = math.isfinite(float(val_loss))
            curve.append([(step + 1) * batch, round(spent, 4), float(f"{val_loss:.5g}") if finite else None])
            if accuracy is not None:
                right.append(round(float(accuracy), 4))
            if not finite:
                break
            started = time.thread_time()
    return curve, right


def record(name: str, batch: int, lr: float, seed: int) -> dict[str, Any]:
    task = TASKS[name]
    settings = {"task": name, "optimizer": task.optimizer, "schedule": task.schedule, "total": task.samples}
    settings |= {"batch": batch, "lr": lr, "seed": seed}
    trial, trial_right = curves(task, batch, lr, seed, TRIAL, 1)
    fit, fit_right = curves(task, batch, lr, seed, 1, EVENLY)
    accuracies = {"trial_accuracy": trial_right, "fit_accuracy": fit_right} if fit_right else {}
    return {**settings, "trial": trial, "fit": fit, **accuracies}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=DATA, help="folder of the tables: read, and added to")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, seed in product(arguments.tasks, arguments.seeds):
        path = arguments.records / f"whole_fit_{name}_{seed}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        known = {(row["batch"], row["lr"]) for row in map(json.loads, lines)}
        for batch, lr in TASKS[name].pairs:
            if (batch, lr) not in known:
                row = record(name, batch, lr, seed)
                print(name, seed, batch, lr, *row["fit"][-1], file=sys.stderr, flush=True)
                with path.open("a") as file:
                    print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
