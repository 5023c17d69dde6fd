"""Write tiny random checkpoints and the logits Hugging Face transformers computes from them.

Every family below becomes a folder `<family>/` with the checkpoints `f32/` and `bf16/` (llama also `f16/`) in the
usual Hugging Face layout, and one `golden.safetensors` with what a correct engine must reproduce. README.md lists the
tensors. The script checks its own premises before it writes anything: that the sliding window, the rope scaling, the
biases and the norms really act, that greedy tokens do not depend on rounding, and that the files read back the same.

Usage: pip install -r requirements.txt && python make_goldens.py [--out DIR]
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT_TOKENS = 48
GREEDY_TOKENS = 64
VOCABULARY = 320
WINDOW = 24
# A greedy choice closer than this (in logits, whose spread is about 1) could flip on rounding alone.
SMALLEST_GAP = 1e-2
# How far bf16 arithmetic alone may move the logits (relative L2): engines are tested with a tolerance of 2e-2.
MOST_BF16_NOISE = 1.4e-2
# Fewer different greedy tokens than this would mean that the model repeats itself whatever its context is.
FEWEST_DISTINCT = 24

SHARED = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=VOCABULARY,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    tie_word_embeddings=True,
)

# family -> (model_type, what differs from SHARED, whether config.json is rewritten with the older key names)
FAMILIES = {
    "llama": (
        "llama",
        dict(tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
        True,
    ),
    "llama31": (
        "llama",
        dict(
            eos_token_id=[2, 5],
            # An original length of 32 puts the eight frequencies in all three regions of the scaling rule.
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        True,
    ),
    "mistral": (
        "mistral",
        dict(
            head_dim=32,
            sliding_window=WINDOW,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        False,
    ),
    "qwen2": (
        "qwen2",
        dict(rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
        True,
    ),
    "qwen3": (
        "qwen3",
        dict(head_dim=32, rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
        False,
    ),
}


def random_model(model_type, overrides, seed):
    """A model whose every parameter is random, biases and norm weights included."""
    config = AutoConfig.for_model(model_type, **{**SHARED, **overrides})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.25 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                normal(parameter, 0.3)
            elif "embed_tokens" in name:
                # Small beside what the layers add, or a tied head would only repeat its input token.
                normal(parameter, 0.15)
            elif "lm_head" in name:
                normal(parameter, 0.15)
            elif "q_proj" in name or "k_proj" in name:
                # Sharp enough that a wrong position or mask shows in the logits, soft enough that bf16 does not.
                normal(parameter, 0.9 / parameter.shape[1] ** 0.5)
            else:
                normal(parameter, 1.2 / parameter.shape[1] ** 0.5)
    return model


def all_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def greedy(model, prompt):
    """Greedy continuation, the whole sequence recomputed for each token; also the smallest gap to the runner-up."""
    ids, gap = list(prompt), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = torch.topk(all_logits(model, ids)[-1], 2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    return ids[len(prompt):], gap


def find_model(model_type, overrides, first_seed):
    """The first seed whose greedy tokens are varied, safe against rounding, and agree with double precision."""
    for seed in range(first_seed, first_seed + 400):
        model = random_model(model_type, overrides, seed)
        prompt = torch.randint(6, VOCABULARY, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
        tokens, gap = greedy(model, prompt)
        if gap < SMALLEST_GAP or len(set(tokens)) < FEWEST_DISTINCT:
            continue
        if bf16_noise(model, prompt) > MOST_BF16_NOISE:
            continue
        exact = random_model(model_type, overrides, seed).double()
        if greedy(exact, prompt)[0] == tokens:
            return model, prompt, tokens, gap, seed
    raise SystemExit(f"no seed gives usable greedy tokens for {model_type}")


def cast_copy(model, dtype):
    """A new model with the weights of `model` rounded to `dtype`, computing in `dtype`.

    Only the parameters: `Module.to` would also round the rotary frequencies, which a loaded model keeps in f32.
    """
    rounded = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager", dtype=torch.float32).eval()
    rounded.load_state_dict(model.state_dict())
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(dtype)
    rounded.config.dtype = dtype
    return rounded


def relative(left, right):
    return ((left.double() - right.double()).norm() / right.double().norm()).item()


def bf16_noise(model, prompt):
    """What bf16 arithmetic adds beside the rounding of the weights. Sums kept in f32 should stay below it."""
    rounded = cast_copy(model, torch.bfloat16)
    return relative(all_logits(rounded, prompt), all_logits(cast_copy(rounded, torch.float32), prompt))


def check_premises(family, model, prompt, logits):
    """Each feature a family is here for must change the logits when it is taken away."""

    def without(change, expect_same_before=0):
        config = copy.deepcopy(model.config)
        change(config)
        other = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        other.load_state_dict(model.state_dict(), strict=False)
        found = all_logits(other, prompt)
        if expect_same_before:
            assert relative(found[:expect_same_before], logits[:expect_same_before]) < 1e-6, family
        difference = relative(found[expect_same_before:], logits[expect_same_before:])
        assert difference > 0.05, (family, difference)
        return difference

    def plain_rope(config):
        config.rope_parameters = dict(rope_type="default", rope_theta=config.rope_parameters["rope_theta"])

    def no_window(config):
        config.sliding_window = None

    shown = {}
    if family == "llama31":
        shown["rope scaling"] = without(plain_rope)
    if family == "mistral":
        shown["window"] = without(no_window, expect_same_before=WINDOW)
        weights = model(torch.tensor([prompt]), output_attentions=True).attentions[0][0]
        distance = torch.arange(PROMPT_TOKENS)[:, None] - torch.arange(PROMPT_TOKENS)[None, :]
        visible = (distance >= 0) & (distance < WINDOW)
        assert torch.equal((weights > 0).any(0), visible), "the window is the token itself and WINDOW - 1 before it"
    for kind, belongs in [("bias", "qwen2"), ("q_norm.weight", "qwen3"), ("k_norm.weight", "qwen3")]:
        names = [name for name, _ in model.named_parameters() if name.endswith(kind)]
        assert bool(names) == (family == belongs), (family, kind, names)
        if not names:
            continue
        flat = cast_copy(model, torch.float32)
        with torch.no_grad():
            for name, parameter in flat.named_parameters():
                if name in names:
                    parameter.fill_(0.0 if kind == "bias" else 1.0)
        shown[kind] = relative(all_logits(flat, prompt), logits)
        assert shown[kind] > 0.02, (family, kind, shown[kind])
    return shown


def use_older_keys(folder, dtype_name):
    """Rewrites config.json with the key names used before transformers 5, which most published checkpoints have."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.pop("dtype", None)
    config["torch_dtype"] = dtype_name
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_checkpoint(model, folder, family, dtype_name, older_keys):
    shutil.rmtree(folder, ignore_errors=True)
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    shards = {"max_shard_size": weight_bytes * 6 // 10} if family == "llama31" else {}
    model.save_pretrained(folder, **shards)
    if family == "llama31":
        assert (folder / "model.safetensors.index.json").exists() and len(list(folder.glob("*.safetensors"))) == 2, family
    if older_keys:
        use_older_keys(folder, dtype_name)
    back = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, attn_implementation="eager").eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), (family, name)
    probe = list(range(10, 40))
    assert torch.equal(all_logits(back, probe), all_logits(model, probe)), f"{folder} reads back differently"


def make_family(family, out, first_seed):
    model_type, overrides, older_keys = FAMILIES[family]
    model, prompt, tokens, gap, seed = find_model(model_type, overrides, first_seed)
    logits = all_logits(model, prompt)
    shown = check_premises(family, model, prompt, logits)
    golden = {
        "prompt": torch.tensor(prompt, dtype=torch.int32),
        "greedy": torch.tensor(tokens, dtype=torch.int32),
        "logits": logits,
    }
    write_checkpoint(model, out / family / "f32", family, "float32", older_keys)
    bf16 = cast_copy(model, torch.bfloat16)
    write_checkpoint(bf16, out / family / "bf16", family, "bfloat16", older_keys)
    in_f32 = all_logits(cast_copy(bf16, torch.float32), prompt)
    golden["bf16.logits"] = in_f32.half()
    spread = bf16_noise(model, prompt)
    if family == "llama":
        f16 = cast_copy(model, torch.float16)
        write_checkpoint(f16, out / family / "f16", family, "float16", older_keys)
        golden["f16.logits"] = all_logits(cast_copy(f16, torch.float32), prompt).half()
    save_file(golden, out / family / "golden.safetensors")
    for path in (out / family).rglob("*.safetensors"):
        path.chmod(0o644)
    assert load_file(out / family / "golden.safetensors").keys() == golden.keys()
    print(
        f"{family}: seed {seed}, logits std {logits.std():.2f}, smallest greedy gap {gap:.4f}, "
        f"{len(set(tokens))} different tokens, bf16 arithmetic differs by {spread:.4f}; without: "
        + ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only these families")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for index, family in enumerate(FAMILIES):
        if not options.family or family in options.family:
            make_family(family, options.out, 1000 * (index + 1))


if __name__ == "__main__":
    main()
