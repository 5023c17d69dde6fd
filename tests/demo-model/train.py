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
from pathlib import Path

# On a busy machine threads that spin at a barrier slow each other down tenfold. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from torch import Tensor
from torch.nn import functional as F

from folder import train_tokenizer, write_folder
from model import Llama, Shape
from samples import Sample, SampleMaker
from texts import read_entries

SEED = 20261121
HERE = Path(__file__).parent
OUT = HERE.parent.parent / "services" / "vlinders" / "demo-model"
# Samples are padded to these lengths. Few different shapes matter: each new one costs the CPU library a compilation.
LENGTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1104)
NO_TARGET = -100


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-tokens", type=int, default=2208, help="padded tokens in one step")
    parser.add_argument("--learning-rate", type=float, default=2.5e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=400, help="steps between two writings of the folder")
    return parser.parse_args()


def batches(maker: SampleMaker, batch_tokens: int, seed: int) -> Iterator[list[Sample]]:
    """Full batches of samples of one padded length each, without end."""
    rng = random.Random(seed)
    waiting: dict[int, list[Sample]] = {length: [] for length in LENGTHS}
    while True:
        sample = maker.draw(rng)
        length = next(length for length in LENGTHS if length >= len(sample[0]))
        waiting[length].append(sample)
        if len(waiting[length]) == batch_tokens // length:
            yield waiting[length]
            waiting[length] = []


def pad(batch: list[Sample]) -> tuple[Tensor, Tensor]:
    """Inputs and the ids to predict, both `[samples, length - 1]`; NO_TARGET where nothing is to be learned."""
    longest = max(len(ids) for ids, _ in batch)
    length = next(length for length in LENGTHS if length >= longest)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (sample_ids, sample_mask) in enumerate(batch):
        ids[row, : len(sample_ids)] = torch.tensor(sample_ids)
        mask[row, : len(sample_mask)] = torch.tensor(sample_mask)
    return ids[:, :-1], ids[:, 1:].masked_fill(~mask[:, 1:], NO_TARGET)


def batch_loss(model: Llama, batch: list[Sample]) -> Tensor:
    inputs, targets = pad(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(model.hidden(inputs))
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_TARGET)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Short warm-up, then a cosine down to a fiftieth."""
    warm_up = 80
    if step < warm_up:
        return peak * (step + 1) / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def make_optimizer(model: Llama, rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), foreach=True)


def learn(model: Llama, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    entries = read_entries()
    tokenizer = train_tokenizer(entries, SEED)
    maker = SampleMaker(entries, tokenizer)
    model = Llama(Shape(vocab_size=tokenizer.get_vocab_size()), arguments.dropout)
    print(f"{len(entries)} entries, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = make_optimizer(model, arguments.learning_rate)
    source = batches(maker, arguments.batch_tokens, SEED)
    started, printed_loss = time.monotonic(), 0.0
    for step in range(1, arguments.steps + 1):
        rate = rate_at(step - 1, arguments.steps, arguments.learning_rate)
        loss = batch_loss(model, next(source))
        learn(model, optimizer, loss, rate)
        printed_loss = loss.item() if step == 1 else 0.97 * printed_loss + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {printed_loss:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if step % arguments.save_every == 0 or step == arguments.steps:
            write_folder(arguments.out, model, tokenizer)
    print(f"trained in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
