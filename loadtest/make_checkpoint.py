"""Write a random-weight bf16 checkpoint of a real model's shape, for measuring speed.

The folder has the Hugging Face layout: config.json, generation_config.json, model.safetensors, tokenizer.json and
tokenizer_config.json. The text such a model writes means nothing; its arithmetic costs what the real one's does.
Needs numpy only, and writes row by row, so that memory stays small whatever the shape is.

Usage: python make_checkpoint.py --shape llama-3.2-1b --out /tmp/llama-1b
"""

import argparse
import json
import struct
import sys
from pathlib import Path

import numpy

WEIGHT_STD = 0.02
CHUNK_ELEMENTS = 1 << 22

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES = {
    # 1.24 B parameters.
    "llama-3.2-1b": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE,
        tie_word_embeddings=True,
    ),
    # 8.03 B parameters; about 16 GB on disk.
    "llama-3.1-8b": dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0,
        rope_scaling={**LLAMA3_ROPE, "factor": 8.0}, tie_word_embeddings=False,
    ),
    # 7.2 M parameters: small enough that a server's own overhead shows.
    "llama-7m": dict(
        hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
        head_dim=48, vocab_size=4096, max_position_embeddings=2048, rope_theta=10000.0, rope_scaling=None,
        tie_word_embeddings=True,
    ),
}
SPECIAL_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def tensor_shapes(shape):
    """Name and shape of every tensor, in the order in which they are written."""
    hidden, intermediate = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    key_values = shape["num_key_value_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (key_values, hidden)
        yield prefix + "self_attn.v_proj.weight", (key_values, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", (intermediate, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (shape["vocab_size"], hidden)


def to_bf16(values):
    """f32 to the bits of bf16, rounded to nearest even; `values` holds no NaN."""
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_weights(shape, path, seed):
    tensors = list(tensor_shapes(shape))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dimensions in tensors:
        end = offset + 2 * int(numpy.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    generator, written = numpy.random.default_rng(seed), 0
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dimensions in tensors:
            left = int(numpy.prod(dimensions))
            while left:
                count = min(left, CHUNK_ELEMENTS)
                values = generator.standard_normal(count, dtype=numpy.float32)
                values *= numpy.float32(WEIGHT_STD)
                if name.endswith("norm.weight"):
                    values += numpy.float32(1.0)
                file.write(to_bf16(values).tobytes())
                left -= count
                written += 2 * count
                print(f"\r{path.name}: {written / 1e6:.0f} of {offset / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def byte_alphabet():
    """The printable character byte-level BPE writes for each of the 256 bytes, by byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def merge_pairs(alphabet, count):
    """`count` different merges of two known tokens: the pairs of printable ASCII first, then longer pieces.

    Real text meets many of them, so that a prompt has fewer tokens than bytes, as with a trained tokenizer.
    """
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    space = alphabet[0x20]
    known, merges = set(alphabet), []

    def add(left, right):
        if len(merges) < count and left in known and right in known and left + right not in known:
            known.add(left + right)
            merges.append((left, right))

    pieces = [left + right for left in letters for right in letters]
    for letter in letters:
        add(space, letter)
    for piece in pieces:
        add(piece[0], piece[1])
    for suffixes in (letters, pieces):
        for piece in pieces:
            add(space, piece)
            for suffix in suffixes:
                add(piece, suffix)
    for left in alphabet[0x21:0x7F]:
        for right in alphabet[0x21:0x7F]:
            add(left, right)
    if len(merges) < count:
        raise SystemExit(f"only {len(merges)} of {count} filler tokens can be made")
    return merges


def write_tokenizer(shape, folder):
    alphabet = byte_alphabet()
    merges = merge_pairs(alphabet, shape["vocab_size"] - len(alphabet) - len(SPECIAL_TOKENS))
    tokens = alphabet + [left + right for left, right in merges]
    special_start = len(tokens)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": special_start + index, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for index, text in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[4],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": shape["max_position_embeddings"],
    })
    return special_start


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape, folder = SHAPES[options.shape], options.out
    folder.mkdir(parents=True, exist_ok=True)
    special_start = write_tokenizer(shape, folder)
    ids = {"bos_token_id": special_start, "eos_token_id": [special_start + 1, special_start + 4]}
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        **shape,
        **ids,
    })
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9, **ids})
    write_weights(shape, folder / "model.safetensors", options.seed)


if __name__ == "__main__":
    main()
