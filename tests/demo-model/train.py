"""Trains the built-in demo model and writes its Hugging Face folder. See README.md.

    python train.py [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# On a busy machine threads that spin at a barrier slow each other down tenfold. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from folder import train_tokenizer, write_folder
from model import Llama, Shape
from samples import Sample, SampleMaker
from texts import read_entries

SEED = 20261121
HERE = Path(__file__).parent
OUT = HERE.parent.parent / "services" / "vlinders" / "demo-model"
# Samples are padded to these lengths. Few different shapes matter: each new one costs the CPU library a compilation.
LENGTHS = (24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1104)
NO_TARGET = -100
SUBJECT_WEIGHT = 0.3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-tokens", type=int, default=2208, help="padded tokens in one step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=500, help="steps between two writings of the folder")
    return parser.parse_args()


def batches(maker: SampleMaker, batch_tokens: int, seed: int) -> Iterator[list[Sample]]:
    """Full batches of samples of one padded length each, without end."""
    rng = random.Random(seed)
    waiting: dict[int, list[Sample]] = {length: [] for length in LENGTHS}
    while True:
        sample = maker.draw(rng)
        length = next(length for length in LENGTHS if length >= len(sample.ids))
        waiting[length].append(sample)
        if len(waiting[length]) == batch_tokens // length:
            yield waiting[length]
            waiting[length] = []


class SubjectHeads(nn.Module):
    """Tells from the middle layers, at the place where an answer begins, which entry was asked about. Only training has it:
    so the model decides what was asked before it chooses words, and the answer's later tokens can look that up."""

    AFTER_LAYERS = (1, 2)

    def __init__(self, hidden_size: int, subjects: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, subjects) for _ in self.AFTER_LAYERS)

    def loss(self, states: list[Tensor], places: Tensor, subjects: Tensor, dropout: float) -> Tensor:
        losses = []
        for layer, head in zip(self.AFTER_LAYERS, self.heads, strict=True):
            chosen = states[layer].flatten(0, 1)[places].float()
            normed = F.dropout(F.rms_norm(chosen, chosen.shape[-1:]), dropout)
            losses.append(F.cross_entropy(head(normed), subjects))
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Batch:
    """Padded inputs `[samples, length - 1]`; places count in the flattened inputs."""

    inputs: Tensor
    learned_places: Tensor
    targets: Tensor
    subject_places: Tensor
    subjects: Tensor


def collate(samples: list[Sample]) -> Batch:
    longest = max(len(sample.ids) for sample in samples)
    length = next(length for length in LENGTHS if length >= longest)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    mask = torch.zeros(len(samples), length, dtype=torch.bool)
    places, subjects = [], []
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        mask[row, : len(sample.learned)] = torch.tensor(sample.learned)
        for place, subject in sample.subjects.items():
            if place < length - 1:
                places.append(row * (length - 1) + place)
                subjects.append(subject)
    learned = mask[:, 1:].flatten().nonzero().squeeze(1)
    targets = ids[:, 1:].flatten()[learned]
    # Few different shapes, as with the lengths.
    missing = -len(learned) % 128
    learned = F.pad(learned, (0, missing))
    targets = F.pad(targets, (0, missing), value=NO_TARGET)
    return Batch(ids[:, :-1], learned, targets, torch.tensor(places, dtype=torch.long), torch.tensor(subjects, dtype=torch.long))


def batch_loss(model: Llama, heads: SubjectHeads, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of the words, and of the subjects asked about."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.states(batch.inputs)
        logits = model.logits(states[-1].flatten(0, 1)[batch.learned_places])
    words = F.cross_entropy(logits.float(), batch.targets, ignore_index=NO_TARGET)
    if len(batch.subjects) == 0:
        return words, torch.zeros(())
    return words, heads.loss(states, batch.subject_places, batch.subjects, model.dropout)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Short warm-up, a steady part, and a straight way down to a fiftieth over the last half."""
    warm_up = 100
    if step < warm_up:
        return peak * (step + 1) / warm_up
    left = (steps - step) / (0.5 * steps)
    return peak * (0.02 + 0.98 * min(1.0, left))


def make_optimizer(model: Llama, heads: SubjectHeads, rate: float) -> torch.optim.AdamW:
    parameters = [*model.parameters(), *heads.parameters()]
    matrices = [p for p in parameters if p.dim() == 2]
    vectors = [p for p in parameters if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), foreach=True)


def learn(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    entries = read_entries()
    tokenizer = train_tokenizer(entries, SEED)
    maker = SampleMaker(entries, tokenizer)
    model = Llama(Shape(vocab_size=tokenizer.get_vocab_size()), arguments.dropout)
    heads = SubjectHeads(model.shape.hidden_size, len(entries))
    print(f"{len(entries)} entries, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = make_optimizer(model, heads, arguments.learning_rate)
    source = batches(maker, arguments.batch_tokens, SEED)
    started, drawn, printed = time.monotonic(), 0, [0.0, 0.0]
    for step in range(1, arguments.steps + 1):
        samples = next(source)
        drawn += len(samples)
        words, subjects = batch_loss(model, heads, collate(samples))
        learn(optimizer, words + SUBJECT_WEIGHT * subjects, rate_at(step - 1, arguments.steps, arguments.learning_rate))
        now = [words.item(), subjects.item()]
        printed = now if step == 1 else [0.97 * old + 0.03 * new for old, new in zip(printed, now, strict=True)]
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step} loss {printed[0]:.4f} subject {printed[1]:.4f}, {drawn} samples, {seconds:.0f} s", flush=True)
        if step % arguments.save_every == 0 or step == arguments.steps:
            write_folder(arguments.out, model, tokenizer)
    print(f"trained in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
