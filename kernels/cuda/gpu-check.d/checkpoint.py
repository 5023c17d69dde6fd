"""A checkpoint of random weights: checkpoint.py SHAPE FOLDER TOKENIZER_FOLDER. What the weights are changes no time."""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file

from shapes import SHAPES

shape, folder, tokenizer = SHAPES[sys.argv[1]], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
folder.mkdir(parents=True)
hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head


def random(*sizes: int) -> torch.Tensor:
    return (torch.randn(*sizes, device="cuda") / sizes[-1] ** 0.5).bfloat16().cpu()


tables = {"model.embed_tokens.weight": random(shape["vocab_size"], hidden), "model.norm.weight": torch.ones(hidden).bfloat16()}
if not shape["tie_word_embeddings"]:
    tables["lm_head.weight"] = random(shape["vocab_size"], hidden)
names = {name: "model-tables.safetensors" for name in tables}
save_file(tables, folder / "model-tables.safetensors")
total = sum(tensor.numel() * 2 for tensor in tables.values())
del tables
for layer in range(shape["num_hidden_layers"]):
    part = {
        "input_layernorm": torch.ones(hidden).bfloat16(),
        "post_attention_layernorm": torch.ones(hidden).bfloat16(),
        "self_attn.q_proj": random(queries, hidden),
        "self_attn.k_proj": random(keys, hidden),
        "self_attn.v_proj": random(keys, hidden),
        "self_attn.o_proj": random(hidden, queries),
        "mlp.gate_proj": random(inner, hidden),
        "mlp.up_proj": random(inner, hidden),
        "mlp.down_proj": random(hidden, inner),
    }
    file = f"model-{layer:05}.safetensors"
    part = {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in part.items()}
    names.update({name: file for name in part})
    total += sum(tensor.numel() * 2 for tensor in part.values())
    save_file(part, folder / file)
config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    **shape,
}
(folder / "config.json").write_text(json.dumps(config))
index = {"metadata": {"total_size": total}, "weight_map": names}
(folder / "model.safetensors.index.json").write_text(json.dumps(index))
for name in ["tokenizer.json", "tokenizer_config.json"]:
    if (tokenizer / name).exists():
        shutil.copy(tokenizer / name, folder / name)
print(f"{total / 1e9:.1f} GB of random weights in {folder}")
