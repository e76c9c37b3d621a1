"""The cases of `find_vs_lightning.py`: training scripts as users write them, on data made from seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

Sample = tuple[Tensor, Tensor]


@dataclass
class Work:
    """What a process has done so far. It lives outside the model, where no finder puts it back."""

    samples: int = 0
    steps: int = 0
    reads: int = 0
    loaders: int = 0
    sizes: set[int] = field(default_factory=set)


WORK = Work()


class Data(Dataset[Sample]):
    """Samples made from their index alone; `largest` is the index of one that no other exceeds."""

    def __init__(self, length: int, make: Callable[[int], Sample], largest: int = 0) -> None:
        self.length, self.make, self.largest = length, make, largest

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        WORK.reads += 1
        return self.make(index)


class Script(L.LightningModule):
    """A classifier with its loaders. Validation may look at several views of each sample.

    Its own batch size is the `init_val` of both finders: Lightning runs its first trial at the script's own size.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        views: int = 1,
        drop_last: bool = False,
        collate: Callable[[list[Sample]], Sample] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.data, self.views, self.drop_last, self.collate = net, data, views, drop_last, collate
        self.batch_size = 2

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        x, y = batch
        WORK.steps += 1
        WORK.samples += len(x)
        WORK.sizes.add(self.batch_size)
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        x, y = batch
        WORK.samples += len(x)
        logits = self.net(x.repeat_interleave(self.views, 0)).unflatten(0, (len(x), self.views))
        self.log("val_loss", F.cross_entropy(logits.mean(1), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._loader(shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._loader(shuffle=False, drop_last=False)

    def _loader(self, **kwargs: Any) -> DataLoader[Sample]:
        WORK.loaders += 1
        return DataLoader(self.data, batch_size=self.batch_size, collate_fn=self.collate, **kwargs)


@dataclass(frozen=True)
class Case:
    """One script, the memory it may use, and the largest batch size both finders may return."""

    about: str
    build: Callable[[], Script]
    memory_limit: str | None = None
    max_val: int = 8192
    device: str = "cpu"
    precision: Any = "32-true"


def vectors(length: int, width: int) -> Data:
    def make(index: int) -> Sample:
        x = torch.randn(width, generator=torch.Generator().manual_seed(index))
        return x, torch.tensor(index % 10)

    return Data(length, make)


def images(length: int, side: int, classes: int, kept: int = 64) -> Data:
    """Random images; few different ones, kept, because reading them is not what is measured."""
    generator = torch.Generator().manual_seed(0)
    pool = [torch.randn(3, side, side, generator=generator) for _ in range(kept)]
    return Data(length, lambda index: (pool[index % kept], torch.tensor(index % classes)))


def texts(length: int, longest: int, one_off: int | None = None) -> Data:
    """Token sequences of long-tailed lengths cut at `longest`; `one_off` is one document of twice that."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(length).log_normal_(3.0, 0.7, generator=generator).int().clamp(4, longest)
    if one_off is not None:
        lengths[one_off] = 2 * longest

    def make(index: int) -> Sample:
        return torch.arange(int(lengths[index])) % 100, torch.tensor(index % 10)

    return Data(length, make, largest=int(lengths.argmax()))


def pad(samples: list[Sample]) -> Sample:
    tokens = nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)
    return tokens, torch.stack([y for _, y in samples])


def mlp(width: int, depth: int) -> nn.Module:
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


class Bottleneck(nn.Module):
    """A residual block of ResNet-50."""

    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            convolution(into, width, 1), nn.ReLU(), convolution(width, width, 3, stride), nn.ReLU(),
            convolution(width, out, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if into == out and stride == 1 else convolution(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def convolution(into: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))


def resnet(stem: int, blocks: list[int], classes: int) -> nn.Module:
    """`resnet(64, [3, 4, 6, 3], 1000)` is ResNet-50."""
    layers: list[nn.Module] = [convolution(3, stem, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    into = stem
    for stage, count in enumerate(blocks):
        width = stem * 2**stage
        for block in range(count):
            layers.append(Bottleneck(into, width, stride=2 if stage and not block else 1))
            into = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes))


def encoder(width: int, heads: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class Mean(nn.Module):
    """The mean over a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def text_classifier(width: int = 64, depth: int = 2) -> nn.Module:
    return nn.Sequential(nn.Embedding(100, width), encoder(width, 4, depth), Mean(), nn.Linear(width, 10))


class VisionTransformer(nn.Module):
    """ViT-B/16, with the mean over the patches in place of a class token."""

    def __init__(self, width: int = 768, depth: int = 12, patches: int = 196, classes: int = 1000) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.position = nn.Parameter(torch.zeros(1, patches, width))
        self.body = nn.Sequential(encoder(width, width // 64, depth), nn.LayerNorm(width), Mean())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patch(x).flatten(2).mT + self.position))


CASES = {
    "tiny": Case("a linear model whose steps take microseconds", lambda: Script(mlp(16, 0), vectors(512, 16)), "1GiB"),
    "mlp": Case("a deep MLP", lambda: Script(mlp(256, 16), vectors(20_000, 256)), "128MiB"),
    "big-mlp": Case("weights fill most of the memory", lambda: Script(mlp(1024, 6), vectors(5000, 1024)), "144MiB"),
    "cnn": Case(
        "a residual net with BatchNorm",
        lambda: Script(resnet(16, [1, 1, 1], 10), images(5000, 64, 10)), "192MiB",
    ),
    "text": Case(
        "a transformer on text cut at 128 tokens, as 0.5 % of it is",
        lambda: Script(text_classifier(), texts(5000, 128), collate=pad), "192MiB",
    ),
    "one-long-text": Case(
        "the same with a single document of 256 tokens among 5000",
        lambda: Script(text_classifier(), texts(5000, 128, one_off=1234), collate=pad), "192MiB",
    ),
    "small-data": Case(
        "1000 samples, drop_last, memory for more",
        lambda: Script(mlp(256, 8), vectors(1000, 256), drop_last=True), "1GiB",
    ),
    "heavy-validation": Case(
        "validation takes more memory than training",
        lambda: Script(mlp(128, 8), vectors(20_000, 128), views=64), "96MiB",
    ),
    "large-input": Case(
        "a linear model of large inputs: the batch itself fills the memory",
        lambda: Script(mlp(49_152, 0), vectors(5000, 49_152)), "96MiB",
    ),
    "resnet50": Case(
        "ResNet-50, 224 pixels", lambda: Script(resnet(64, [3, 4, 6, 3], 1000), images(50_000, 224, 1000)),
        device="cuda", precision="bf16-mixed",
    ),
    "vit": Case(
        "ViT-B/16, 224 pixels", lambda: Script(VisionTransformer(), images(50_000, 224, 1000)),
        device="cuda", precision="bf16-mixed",
    ),
}  # fmt: skip
