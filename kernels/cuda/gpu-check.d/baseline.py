"""The same shapes in torch, to stand beside: baseline.py SHAPE. Decode with a static cache, scaled_dot_product_attention and a recorded
graph; prefill eagerly. Random weights; rotation is left out, which favours this side by a little.
"""

import sys
import time

import torch
import torch.nn.functional as F

from shapes import SHAPES

shape = SHAPES[sys.argv[1]]
hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
query_heads, kv_heads, layers = shape["num_attention_heads"], shape["num_key_value_heads"], shape["num_hidden_layers"]
torch.manual_seed(1)


def random(*sizes: int) -> torch.Tensor:
    return (torch.randn(*sizes, device="cuda") / sizes[-1] ** 0.5).bfloat16()


weights = [
    (random((query_heads + 2 * kv_heads) * head, hidden), random(hidden, query_heads * head), random(2 * inner, hidden), random(hidden, inner))
    for _ in range(layers)
]
embedding = random(shape["vocab_size"], hidden)
output = embedding if shape["tie_word_embeddings"] else random(shape["vocab_size"], hidden)
ones = torch.ones(hidden, device="cuda", dtype=torch.bfloat16)


def forward(tokens: torch.Tensor, caches: list, start: int, causal: bool) -> torch.Tensor:
    batch, count = tokens.shape
    x = embedding[tokens]
    for (qkv, back, gate_up, down), (keys, values) in zip(weights, caches, strict=True):
        projected = F.linear(F.rms_norm(x, (hidden,), ones), qkv).view(batch, count, -1, head).transpose(1, 2)
        query, key, value = projected.split([query_heads, kv_heads, kv_heads], dim=1)
        keys[:, :, start : start + count] = key
        values[:, :, start : start + count] = value
        seen = (keys[:, :, : start + count], values[:, :, : start + count])
        context = F.scaled_dot_product_attention(query, *seen, is_causal=causal, enable_gqa=True)
        x = x + F.linear(context.transpose(1, 2).reshape(batch, count, -1), back)
        gate, up = F.linear(F.rms_norm(x, (hidden,), ones), gate_up).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, down)
    return F.linear(F.rms_norm(x[:, -1], (hidden,), ones), output).argmax(dim=-1)


def caches(batch: int, length: int) -> list:
    size = (batch, kv_heads, length, head)
    return [tuple(torch.randn(size, device="cuda").bfloat16() for _ in range(2)) for _ in range(layers)]


@torch.inference_mode()
def decode(batch: int, context: int) -> float:
    tokens, cache = torch.ones(batch, 1, dtype=torch.long, device="cuda"), caches(batch, context + 1)
    for _ in range(3):
        forward(tokens, cache, context, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward(tokens, cache, context, False)
    torch.cuda.synchronize()
    started, steps = time.perf_counter(), 30
    for _ in range(steps):
        graph.replay()
    torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - started)


@torch.inference_mode()
def prefill(length: int) -> float:
    tokens, cache = torch.ones(1, length, dtype=torch.long, device="cuda"), caches(1, length)
    for _ in range(2):
        forward(tokens, cache, 0, True)
    torch.cuda.synchronize()
    started, steps = time.perf_counter(), 5
    for _ in range(steps):
        forward(tokens, cache, 0, True)
    torch.cuda.synchronize()
    return length * steps / (time.perf_counter() - started)


print(f"torch {torch.__version__}, {sys.argv[1]} bf16, tokens/s:")
for batch, context in [(1, 192), (256, 192), (1, 1056), (32, 1056)]:
    print(f"  decode, batch {batch:>3} at {context:>4} tokens: {decode(batch, context):>10.0f}")
    torch.cuda.empty_cache()
print(f"  prefill of 2048 tokens: {prefill(2048):>10.0f}")
