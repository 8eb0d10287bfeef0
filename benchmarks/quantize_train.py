"""Train and export the models that no package ships: a mobile CNN and a small language model.

    python benchmarks/quantize_train.py mobile OUT.onnx --cifar FOLDER
    python benchmarks/quantize_train.py gpt OUT.onnx

Both are seeded; they take some minutes on one core. What another machine trains differs in the
last digits, so that metrics are to be compared within one run. torch's exporter writes the files
with its optimizations off, as users' own exports often are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SEED = 0
CONTEXT = 128
"""Tokens that the language model sees at most."""
VOCABULARY = 2048


class SqueezeExcite(nn.Module):
    """Scale channels by what a global pooling says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(8, channels // 4), 1)
        self.expand = nn.Conv2d(max(8, channels // 4), channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        return x * functional.hardsigmoid(self.expand(scale))


class InvertedResidual(nn.Module):
    """The block of MobileNetV3 (Howard et al., 2019): expand, depthwise, squeeze, project."""

    def __init__(self, width: int, expanded: int, out: int, kernel: int, stride: int, se: bool):
        super().__init__()
        self.residual = stride == 1 and width == out
        self.body = nn.Sequential(
            nn.Conv2d(width, expanded, 1, bias=False),
            nn.BatchNorm2d(expanded),
            nn.Hardswish(),
            nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.Hardswish(),
            SqueezeExcite(expanded) if se else nn.Identity(),
            nn.Conv2d(expanded, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobile() -> nn.Module:
    """A MobileNetV3 for images of 32 x 32: 9 million multiplications, 0.6 million weights."""
    blocks = [
        (16, 32, 16, 3, 1, False),
        (16, 72, 24, 3, 1, False),
        (24, 88, 24, 3, 1, False),
        (24, 96, 40, 5, 2, True),
        (40, 160, 40, 5, 1, True),
        (40, 160, 48, 5, 1, True),
        (48, 288, 96, 5, 2, True),
        (96, 384, 96, 5, 1, True),
    ]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        *(InvertedResidual(*block) for block in blocks),
        nn.Conv2d(96, 384, 1, bias=False),
        nn.BatchNorm2d(384),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(384, 512),
        nn.Hardswish(),
        nn.Linear(512, 10),
    )


def train_mobile(cifar: Path, out: Path, epochs: int) -> None:
    """Train on `cifar10_train15k.npz` with crops and flips."""
    from quantize_vision import normalized

    torch.manual_seed(SEED)
    with np.load(cifar / "cifar10_train15k.npz") as data:
        images = torch.from_numpy(normalized(data["images"]))
        labels = torch.from_numpy(data["labels"].astype(np.int64))
    model = mobile().to(memory_format=torch.channels_last)
    batch, steps = 64, len(images) // 64
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        losses = []
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            inputs = _augmented(images[chosen]).to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(inputs), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}", file=sys.stderr)
    model = model.to(memory_format=torch.contiguous_format).eval()
    _export(model, (images[:2],), out, ["image"], ["logits"], ({0: torch.export.Dim("batch")},))


def _augmented(images: torch.Tensor) -> torch.Tensor:
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    padded = functional.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2,)).tolist()
    return padded[:, :, top : top + 32, left : left + 32]


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.join = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        normed = self.before_attention(x)
        query, key, value = (
            layer(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.join(mixed)
        return x + self.down(functional.gelu(self.up(self.before_mlp(x))))


class Gpt(nn.Module):
    """A small decoder; the head reads the table of the embedding, transposed."""

    def __init__(self, width: int = 192, heads: int = 6, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        mask = torch.full((CONTEXT, CONTEXT), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions(torch.arange(length))
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        return functional.linear(self.last(x), self.tokens.weight)


def train_gpt(out: Path, steps: int) -> None:
    """Train a byte-pair encoder, then the network; the encoder lies beside it as JSON."""
    from quantize_text import stdlib_text
    from tokenizers import ByteLevelBPETokenizer

    torch.manual_seed(SEED)
    train, _ = stdlib_text()
    encoder = ByteLevelBPETokenizer()
    encoder.train_from_iterator(_lines(train), vocab_size=VOCABULARY, show_progress=False)
    encoder.save(str(out.with_suffix(".json")))
    tokens = torch.tensor([t for e in encoder.encode_batch(list(_lines(train))) for t in e.ids])
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    losses: list[float] = []
    for step in range(steps):
        starts = torch.randint(0, len(tokens) - CONTEXT - 1, (16,)).tolist()
        windows = torch.stack([tokens[start : start + CONTEXT + 1] for start in starts])
        logits = model(windows[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: {np.mean(losses[-50:]):.3f}", file=sys.stderr)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("sequence", max=CONTEXT)
    example = tokens[: 4 * 16].view(4, 16)
    _export(model.eval(), (example,), out, ["input_ids"], ["logits"], ({0: batch, 1: length},))


def _lines(text: str) -> Iterator[str]:
    """Pieces of a thousand characters or so, cut at line ends."""
    piece: list[str] = []
    for line in text.splitlines(keepends=True):
        piece.append(line)
        if sum(map(len, piece)) > 1000:
            yield "".join(piece)
            piece = []
    yield "".join(piece)


def _export(
    model: nn.Module,
    example: tuple[Any, ...],
    out: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic: Any,
) -> None:
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        optimize=False,
        opset_version=20,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    part = out.with_suffix(".part.onnx")
    program.save(str(part))
    part.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["mobile", "gpt"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cifar", type=Path, help="the folder of cifar10_train15k.npz")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=450)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.model == "gpt":
        train_gpt(options.out, options.steps)
    elif options.cifar is None:
        parser.error("mobile needs --cifar")
    else:
        train_mobile(options.cifar, options.out, options.epochs)


if __name__ == "__main__":
    main()
