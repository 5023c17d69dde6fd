"""The tokenizer, and the Hugging Face folder that the server loads."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from model import Llama
from samples import (
    BOS, CITIES, END, OTHER_TOOLS, PAD, SPECIAL_TOKENS, TEXT_END, TOOL_ANSWER, TOOL_CALL_TOKENS, WEATHER_QUESTIONS,
    WEATHER_TOOLS, ChatTemplate, held_out_wordings,
)
from texts import Entry, draw_question, read_system_prompts

VOCAB_SIZE = 2048


def train_tokenizer(entries: list[Entry], seed: int) -> Tokenizer:
    """Byte-level BPE on the project's own texts: any text can be encoded, these texts briefly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TOOL_CALL_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_texts(entries, seed), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TOOL_CALL_TOKENS])
    return tokenizer


def tokenizer_texts(entries: list[Entry], seed: int) -> list[str]:
    rng = random.Random(seed)
    held_out = held_out_wordings(entries)
    texts = read_system_prompts() * 2 + [TOOL_ANSWER] + list(WEATHER_QUESTIONS) + list(CITIES)
    texts += [json.dumps(tool) for tool in OTHER_TOOLS] + [json.dumps(tool) for tool, _ in WEATHER_TOOLS]
    for entry in entries:
        texts += entry.answers * 3
        # The one big entry of unknown subjects has many more questions than any other.
        texts += [draw_question(entry, held_out, rng) for _ in range(1500 if entry.is_elsewhere else 10)]
    return texts


def write_folder(folder: Path, model: Llama, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # The library writes for the owner alone; the folder is to be read by everyone.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    end_ids = [tokenizer.token_to_id(END), tokenizer.token_to_id(TEXT_END)]
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "pad_token_id": tokenizer.token_to_id(PAD), "eos_token_id": end_ids}
    write_json(folder / "config.json", model_config(model) | ids | {"eos_token_id": end_ids[0]})
    # Low enough that a drawn answer stays sensible, high enough that sampling can be seen to work.
    write_json(folder / "generation_config.json", ids | {"do_sample": True, "temperature": 0.2, "top_p": 0.9})
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))


def model_config(model: Llama) -> dict[str, Any]:
    shape = model.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_positions,
        "mlp_bias": False,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token in SPECIAL_TOKENS + TOOL_CALL_TOKENS
    }
    return {
        # The template writes the BOS itself; encoding must not add a second one.
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": added,
        "bos_token": BOS,
        "chat_template": ChatTemplate().source,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": 2048,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
