"""Write tiny random checkpoints whose projections are quantised, in every format of the Hub that is read.

Every format becomes a folder `quantized/<format>/` with a checkpoint, and `quantized/<format>/dense/` with the same model
in f32: its projections are what this script says the codes stand for. Nothing is trained and nothing is rounded on the
way: codes, zeros and scales are random, and both files are written from them. So a reader of the format must compute, bit
for bit, what it computes from the dense file.

The orders are those of the libraries that write such files: AutoAWQ (`gemm`), AutoGPTQ and GPTQModel (`gptq`,
`gptq_v2`), compressed-tensors (`pack-quantized`, `float-quantized`, `int-quantized`), and fp8 checkpoints with scales of
tensors or blocks. fp8 is ml_dtypes' float8_e4m3fn.

Usage: pip install numpy==2.4.6 ml_dtypes==0.6.0 && python make_quantized.py
"""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 32, 160, 2, 1, 16, 48
GROUP = 16
# Uneven on purpose: neither side of any projection is a multiple.
BLOCK = (24, 24)
INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)

SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}

DTYPES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype(np.int8): "I8",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
}


def save(path, tensors):
    """A safetensors file: length of the header, header, bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = dict(dtype=DTYPES[tensor.dtype], shape=list(tensor.shape), data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def words(codes, axis, bits, order=None):
    """Packs codes into 32-bit words along an axis, the first into the lowest bits."""
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1)
    count = 32 // bits
    codes = codes.reshape(*codes.shape[:-1], -1, count)
    packed = np.zeros(codes.shape[:-1], np.uint32)
    for place in range(count):
        packed |= codes[..., order[place] if order else place] << np.uint32(bits * place)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


class Format:
    """Draws a projection, and says how it is stored and what it stands for."""

    def __init__(self, config, draw, dtype=ml_dtypes.bfloat16):
        self.config, self.draw, self.dtype = config, draw, dtype


def scales(random, shape, size, dtype):
    """Of a size that makes activations neither vanish nor explode, each its own."""
    return (size * random.uniform(0.5, 1.5, shape)).astype(dtype)


def fp8(scale_shape, scale_name="weight_scale", scale_dtype=np.float32, left_alone=(), extra=()):
    def draw(random, name, shape):
        if name in left_alone:
            weight = (random.standard_normal(shape) / shape[1] ** 0.5).astype(ml_dtypes.bfloat16)
            return {"weight": weight}, weight.astype(np.float32)
        codes = (random.standard_normal(shape) * 100).astype(ml_dtypes.float8_e4m3fn)
        scale = scales(random, scale_shape(shape), 0.01 / shape[1] ** 0.5, scale_dtype)
        wide = scale.astype(np.float32)
        if wide.ndim == 2 and wide.shape[1] > 1:
            wide = np.repeat(np.repeat(wide, BLOCK[0], 0), BLOCK[1], 1)[: shape[0], : shape[1]]
        stored = {"weight": codes, scale_name: scale}
        stored |= {part: np.full((1,), 0.5, np.float32) for part in extra}
        return stored, codes.astype(np.float32) * wide

    return draw


def int8_rows(random, _name, shape):
    codes = random.integers(-128, 128, shape, dtype=np.int8)
    scale = scales(random, (shape[0], 1), 1 / (70 * shape[1] ** 0.5), np.float32)
    return {"weight": codes, "weight_scale": scale}, codes.astype(np.float32) * scale


def per_input(values, groups):
    """`[outputs, groups]` → `[outputs, inputs]`."""
    return values[:, groups]


def packed_rows(asymmetric):
    def draw(random, _name, shape):
        outputs, inputs = shape
        count = inputs // GROUP
        codes = random.integers(-8, 8, shape)
        scale = scales(random, (outputs, count), 1 / (4 * inputs**0.5), ml_dtypes.bfloat16)
        groups = np.arange(inputs) // GROUP
        stored = {
            "weight_packed": words(codes + 8, 1, 4),
            "weight_scale": scale,
            "weight_shape": np.array(shape, np.int64),
        }
        zeros = np.zeros((outputs, count), np.int64)
        if asymmetric:
            groups = random.permutation(groups)
            zeros = random.integers(-8, 8, (outputs, count))
            stored["weight_zero_point"] = words(zeros + 8, 0, 4)
            stored["weight_g_idx"] = groups.astype(np.int32)
        counted = (codes - per_input(zeros, groups)).astype(np.float32)
        return stored, counted * per_input(scale.astype(np.float32), groups)

    return draw


def awq(random, _name, shape):
    outputs, inputs = shape
    count = inputs // GROUP
    codes, zeros = random.integers(0, 16, (inputs, outputs)), random.integers(0, 16, (count, outputs))
    scale = scales(random, (count, outputs), 1 / (6 * inputs**0.5), np.float16)
    groups = np.arange(inputs) // GROUP
    stored = {
        "qweight": words(codes, 1, 4, INTERLEAVED),
        "qzeros": words(zeros, 1, 4, INTERLEAVED),
        "scales": scale,
    }
    return stored, ((codes - zeros[groups]).astype(np.float32) * scale[groups].astype(np.float32)).T


def gptq(bits, group, lack, shuffled):
    def draw(random, _name, shape):
        outputs, inputs = shape
        size = inputs if group is None else group
        count, most = inputs // size, 1 << bits
        codes = random.integers(0, most, (inputs, outputs))
        zeros = random.integers(0, most, (count, outputs))
        scale = scales(random, (count, outputs), 1 / (most * 0.4 * inputs**0.5), np.float16)
        groups = np.arange(inputs) // size
        if shuffled:
            groups = random.permutation(groups)
        stored = {
            "qweight": words(codes, 0, bits),
            "qzeros": words((zeros - lack) % most, 1, bits),
            "scales": scale,
            "g_idx": groups.astype(np.int32),
        }
        return stored, ((codes - zeros[groups]).astype(np.float32) * scale[groups].astype(np.float32)).T

    return draw


def compressed(name, weights):
    group = dict(targets=["Linear"], weights=weights, input_activations=None)
    return dict(quant_method="compressed-tensors", format=name, config_groups=dict(group_0=group), ignore=["lm_head"])


FORMATS = {
    "fp8-tensor": Format(
        dict(quant_method="fp8", activation_scheme="static"),
        fp8(lambda shape: (1,), left_alone=("self_attn.o_proj",), extra=("input_scale", "k_scale")),
    ),
    "fp8-channel": Format(
        compressed("float-quantized", dict(num_bits=8, type="float", strategy="channel")),
        fp8(lambda shape: (shape[0], 1), scale_dtype=ml_dtypes.bfloat16),
    ),
    "fp8-block": Format(
        dict(quant_method="fp8", fmt="e4m3", weight_block_size=list(BLOCK)),
        fp8(lambda shape: (-(-shape[0] // BLOCK[0]), -(-shape[1] // BLOCK[1])), "weight_scale_inv"),
    ),
    "int8-channel": Format(
        compressed("int-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=True)), int8_rows
    ),
    "int4-group": Format(
        compressed("pack-quantized", dict(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=True)),
        packed_rows(asymmetric=False),
    ),
    "int4-asymmetric": Format(
        compressed(
            "pack-quantized",
            dict(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=False, actorder="group"),
        ),
        packed_rows(asymmetric=True),
    ),
    "awq": Format(
        dict(quant_method="awq", bits=4, group_size=GROUP, zero_point=True, version="gemm"), awq, np.float16
    ),
    "gptq": Format(
        dict(quant_method="gptq", bits=4, group_size=GROUP, desc_act=True, sym=False),
        gptq(4, GROUP, 1, shuffled=True),
        np.float16,
    ),
    "gptq-8-bits": Format(
        dict(quant_method="gptq", bits=8, group_size=-1, desc_act=False, checkpoint_format="gptq_v2"),
        gptq(8, None, 0, shuffled=False),
        np.float16,
    ),
}


def config(dtype_name, quantization):
    values = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        torch_dtype=dtype_name,
    )
    if quantization:
        values["quantization_config"] = quantization
    return json.dumps(values, indent=2) + "\n"


def make(name, format, seed, out):
    random = np.random.default_rng(seed)
    whole = {
        "model.embed_tokens.weight": random.standard_normal((VOCABULARY, HIDDEN)),
        "model.layers.0.input_layernorm.weight": 1 + 0.25 * random.standard_normal(HIDDEN),
        "model.layers.0.post_attention_layernorm.weight": 1 + 0.25 * random.standard_normal(HIDDEN),
        "model.norm.weight": 1 + 0.25 * random.standard_normal(HIDDEN),
        "lm_head.weight": random.standard_normal((VOCABULARY, HIDDEN)) / HIDDEN**0.5,
    }
    stored = {tensor: values.astype(format.dtype) for tensor, values in whole.items()}
    dense = {tensor: values.astype(np.float32) for tensor, values in stored.items()}
    for projection, shape in SHAPES.items():
        parts, wide = format.draw(random, projection, shape)
        assert wide.shape == shape and np.isfinite(wide).all() and 0.5 < wide.std() * shape[1] ** 0.5 < 2, (name, projection)
        prefix = f"model.layers.0.{projection}"
        stored |= {f"{prefix}.{part}": values for part, values in parts.items()}
        dense[f"{prefix}.weight"] = np.ascontiguousarray(wide, np.float32)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dense").mkdir(parents=True)
    dtype_name = "float16" if format.dtype is np.float16 else "bfloat16"
    (folder / "config.json").write_text(config(dtype_name, format.config))
    (folder / "dense" / "config.json").write_text(config("float32", None))
    save(folder / "model.safetensors", stored)
    save(folder / "dense" / "model.safetensors", dense)


if __name__ == "__main__":
    for index, (name, format) in enumerate(FORMATS.items()):
        make(name, format, 100 + index, Path(__file__).resolve().parent / "quantized")
