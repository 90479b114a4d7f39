"""Checkpoints of a small transformer, which is trained here: weights in bfloat16, from master weights in float32.

The model predicts the next byte of a made text: words of a vocabulary, by Zipf's law. It has 3.8 million weights in 2 layers,
so that all but 1 % of its bytes are in tensors above 64 KiB, as in larger models: a store keeps smaller ones by themselves.
AdamW trains it, first with a learning rate of 1e-3 until the loss falls slowly, and then with one of those that are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from torch import nn

from common.values import Array

__all__ = ["Checkpoint", "Trained", "train"]

BYTES = 256
WIDTH = 384
HEADS = 8
LAYERS = 2
CONTEXT = 32
BATCH = 8

WARM_UP_LEARNING_RATE = 1e-3
SETTLING_STEPS = 10
"""With the new learning rate, before the first checkpoint."""
LATER_STEPS = (1, 10)
"""Steps between the first checkpoint and the later ones."""

Checkpoint = dict[str, Array]
"""Weights by name, bfloat16."""


@dataclass(frozen=True)
class Trained:
    """Checkpoints of one training."""

    learning_rate: float
    first: Checkpoint
    later: dict[int, Checkpoint]
    """By the number of steps after the first."""


def train(learning_rates: tuple[float, ...], warm_up_steps: int, report: Callable[[str], None]) -> Iterator[Trained]:
    """Train the model, and from there go on with each of the learning rates."""
    torch.manual_seed(0)
    # Its threads wait busily: on a machine with other work, two take many times as long as one.
    torch.set_num_threads(1)
    training = _Training()
    for step in range(warm_up_steps):
        report(f"training, step {step + 1} of {warm_up_steps}")
        training.step()
    for learning_rate in learning_rates:
        report(f"training with a learning rate of {learning_rate:g}")
        continued = copy.deepcopy(training)
        continued.set_learning_rate(learning_rate)
        for _ in range(SETTLING_STEPS):
            continued.step()
        first, later = continued.checkpoint(), {}
        for step in range(1, max(LATER_STEPS) + 1):
            continued.step()
            if step in LATER_STEPS:
                later[step] = continued.checkpoint()
        yield Trained(learning_rate, first, later)


class _Training:
    """Model, optimizer and text."""

    def __init__(self) -> None:
        self._model = _Model()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=WARM_UP_LEARNING_RATE)
        self._text = torch.from_numpy(_text())
        self._random = np.random.default_rng(1)

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self) -> None:
        starts = self._random.integers(0, len(self._text) - CONTEXT - 1, BATCH)
        rows = torch.stack([self._text[start : start + CONTEXT + 1] for start in starts])
        predicted = self._model(rows[:, :-1])
        loss = nn.functional.cross_entropy(predicted.reshape(-1, BYTES), rows[:, 1:].reshape(-1))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self._optimizer.step()

    def checkpoint(self) -> Checkpoint:
        weights = self._model.state_dict()
        return {name: tensor.numpy().astype(ml_dtypes.bfloat16).ravel() for name, tensor in weights.items()}


class _Model(nn.Module):
    """A decoder of a few layers, with weights of N(0, 0.02) to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, BYTES, bias=False)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        hidden = self.bytes(rows) + self.positions(torch.arange(CONTEXT))
        predicted: torch.Tensor = self.out(self.norm(self.layers(hidden, mask=mask, is_causal=True)))
        return predicted


def _text() -> Array:
    """Return a text of about a million bytes, as int64."""
    random = np.random.default_rng(0)
    vocabulary = [bytes(random.integers(97, 123, random.integers(2, 9), np.uint8)) + b" " for _ in range(2000)]
    shares = 1 / np.arange(1, len(vocabulary) + 1)
    words = random.choice(len(vocabulary), 200_000, p=shares / shares.sum())
    return np.frombuffer(b"".join(vocabulary[word] for word in words), np.uint8).astype(np.int64)
