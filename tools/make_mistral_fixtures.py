#!/usr/bin/env python3
"""Writes tests/fixtures/mistral and mistral_tied: the Hugging Face fixtures in Mistral's own form.

  .venv/bin/python tools/make_mistral_fixtures.py

Written from the format's facts alone, not with the program: names and the order of q's and k's rows
are the inverse of transformers' converters, which tests/interop/test_mistral_native.py runs over the
result. `write_native` there makes more of them.
"""

import base64
import json
import re
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from demo import vocabulary  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"

# The spellings of Hugging Face's files are one but for these prefixes.
PREFIXES = (("language_model.model.", "model."), ("language_model.lm_head.", "lm_head."),
            ("model.language_model.", "model."), ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."))
NAMES = [(re.compile(f"^{pattern}$"), replacement) for pattern, replacement in (
    (r"model\.embed_tokens\.weight", "tok_embeddings.weight"),
    (r"model\.norm\.weight", "norm.weight"),
    (r"lm_head\.weight", "output.weight"),
    (r"model\.layers\.(\d+)\.input_layernorm\.weight",
     r"layers.\1.attention_norm.weight"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.weight",
     r"layers.\1.ffn_norm.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.(.)_proj\.weight",
     r"layers.\1.attention.w\2.weight"),
    (r"model\.layers\.(\d+)\.mlp\.gate_proj\.weight",
     r"layers.\1.feed_forward.w1.weight"),
    (r"model\.layers\.(\d+)\.mlp\.down_proj\.weight",
     r"layers.\1.feed_forward.w2.weight"),
    (r"model\.layers\.(\d+)\.mlp\.up_proj\.weight",
     r"layers.\1.feed_forward.w3.weight"),
    (r"vision_tower\.transformer\.layers\.(\d+)\.attention\.(.)_proj\.weight",
     r"vision_encoder.transformer.layers.\1.attention.w\2.weight"),
    (r"vision_tower\.transformer\.layers\.(\d+)\.feed_forward\.gate_proj\.weight",
     r"vision_encoder.transformer.layers.\1.feed_forward.w1.weight"),
    (r"vision_tower\.transformer\.layers\.(\d+)\.feed_forward\.down_proj\.weight",
     r"vision_encoder.transformer.layers.\1.feed_forward.w2.weight"),
    (r"vision_tower\.transformer\.layers\.(\d+)\.feed_forward\.up_proj\.weight",
     r"vision_encoder.transformer.layers.\1.feed_forward.w3.weight"),
    (r"vision_tower\.(.*_norm|ln_pre|patch_conv)\.weight", r"vision_encoder.\1.weight"),
    (r"multi_modal_projector\.linear_1\.(weight|bias)", r"vision_language_adapter.w_in.\1"),
    (r"multi_modal_projector\.linear_2\.(weight|bias)", r"vision_language_adapter.w_out.\1"),
    (r"multi_modal_projector\.norm\.weight", "pre_mm_projector_norm.weight"),
    (r"multi_modal_projector\.patch_merger\.merging_layer\.weight",
     "patch_merger.merging_layer.weight"),
)]


def native_name(name):
    for prefix, plain in PREFIXES:
        if name.startswith(prefix):
            name = plain + name[len(prefix):]
            break
    for pattern, replacement in NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    raise KeyError(name)


def to_pairs(weight, heads):
    """Rows of each head from one half after the other to pairs side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def native_tensors(tensors, config):
    text = config.get("text_config", config)
    result = {}
    for name, weight in tensors.items():
        if name.endswith((".q_proj.weight", ".k_proj.weight")):
            heads = text["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            if "vision_tower." in name:
                heads = config["vision_config"]["num_attention_heads"]
            weight = to_pairs(weight, heads)
        result[native_name(name)] = weight.contiguous()
    return result


def native_params(config):
    """params.json with the keys of the official Ministral 3 files, nulls too."""
    text, vision = config.get("text_config", config), config.get("vision_config")
    rope = text.get("rope_parameters") or {"rope_theta": text["rope_theta"]}
    params = {
        "dim": text["hidden_size"], "n_layers": text["num_hidden_layers"],
        "head_dim": text["head_dim"], "hidden_dim": text["intermediate_size"],
        "n_heads": text["num_attention_heads"], "n_kv_heads": text["num_key_value_heads"],
        "rope_theta": rope["rope_theta"], "norm_eps": text["rms_norm_eps"],
        "vocab_size": text["vocab_size"], "tied_embeddings": text["tie_word_embeddings"],
        "max_position_embeddings": text["max_position_embeddings"],
        "q_lora_rank": None, "qk_rope_head_dim": None, "qk_nope_head_dim": None,
        "kv_lora_rank": None, "v_head_dim": None,
    }
    if "factor" in rope:
        original = rope["original_max_position_embeddings"]
        params["llama_4_scaling"] = {"original_max_position_embeddings": original,
                                     "beta": rope["llama_4_scaling_beta"]}
        params["yarn"] = {"original_max_position_embeddings": original, "factor": rope["factor"],
                          "apply_scale": rope["mscale"] != rope["mscale_all_dim"],
                          "beta": rope["beta_fast"], "alpha": rope["beta_slow"]}
    if vision:
        params["vision_encoder"] = {
            "image_token_id": config["image_token_index"], "image_break_token_id": 12,
            "image_end_token_id": 13, "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "mm_projector_id": "patch_merge", "spatial_merge_size": config["spatial_merge_size"],
            "hidden_size": vision["hidden_size"], "num_channels": vision["num_channels"],
            "image_size": vision["image_size"], "max_image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "rope_theta": vision["rope_parameters"]["rope_theta"],
            "add_pre_mm_projector_layer_norm": True,
            "adapter_bias": config["multimodal_projector_bias"],
        }
    return params


def write_tekken(path):
    """The 256 bytes behind 32 control tokens: as many ids as the fixtures' models have."""
    specials = vocabulary.SPECIALS[:32]
    size = 256 + len(specials)
    path.write_text(json.dumps({
        "config": {"pattern": vocabulary.PATTERN, "num_vocab_tokens": 256,
                   "default_vocab_size": size, "default_num_special_tokens": len(specials),
                   "version": "v13"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(),
                   "token_str": chr(i) if i < 128 else None} for i in range(256)],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True}
                           for i, name in enumerate(specials)],
        "image": {"image_patch_size": 4, "max_image_size": 32, "spatial_merge_size": 2},
    }, separators=(",", ":")) + "\n")


def write_native(source, target, shards=1):
    """Hugging Face's directory `source`, in one file, as Mistral's directory `target`."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    tensors = native_tensors(load_file(source / "model.safetensors"), config)
    (target / "params.json").write_text(json.dumps(native_params(config), indent=4) + "\n")
    write_tekken(target / "tekken.json")
    if shards == 1:
        save_file(tensors, target / "consolidated.safetensors", {"format": "pt"})
        return target
    index = {}
    for shard in range(shards):
        file = f"consolidated-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, target / file, {"format": "pt"})
        index |= {name: file for name in part}
    size = sum(value.nbytes for value in tensors.values())
    (target / "consolidated.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": size}, "weight_map": index}, indent=2) + "\n")
    return target


if __name__ == "__main__":
    write_native(FIXTURES / "hf", FIXTURES / "mistral")
    write_native(FIXTURES / "hf_tied", FIXTURES / "mistral_tied", shards=2)
