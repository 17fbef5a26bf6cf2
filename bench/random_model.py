#!/usr/bin/env python3
"""Writes a Hugging Face directory with the shapes of a Ministral 3 model and random weights.

  random_model.py OUT --size 3b [--fp8] [--layers N] [--side-files DIR [--words N]]

The weights are noise of the right scale (bf16, or FP8 e4m3 with one scale a matrix as the official
Instruct files have it): for measuring conversion, loading and training without a download. Nothing
but one tensor is held in memory.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

SIZES = {
    "small": dict(layers=4, hidden=1024, ffn=4096, theta=1e6, tied=True),  # of no model: for ranks
    "3b": dict(layers=26, hidden=3072, ffn=9216, theta=1e6, tied=True),
    "8b": dict(layers=34, hidden=4096, ffn=14336, theta=1e6, tied=False),
    "14b": dict(layers=40, hidden=5120, ffn=16384, theta=1e9, tied=False),
}
HEADS, GROUPS, HEAD_DIM, VOCAB = 32, 8, 128, 131072
VISION_LAYERS, VISION, VISION_FFN = 24, 1024, 4096
SHARD_BYTES = 5_000_000_000


def config_of(size, layers, vision_layers, fp8):
    text = dict(
        model_type="ministral3", hidden_size=size["hidden"], intermediate_size=size["ffn"],
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=GROUPS,
        head_dim=HEAD_DIM, vocab_size=VOCAB, max_position_embeddings=262144, rms_norm_eps=1e-5,
        hidden_act="silu", tie_word_embeddings=size["tied"], attention_dropout=0.0,
        rope_parameters=dict(
            rope_type="yarn", type="yarn", rope_theta=size["theta"], factor=16.0, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=16384,
            llama_4_scaling_beta=0.1, max_position_embeddings=262144),
    )
    vision = dict(
        model_type="pixtral", hidden_size=VISION, intermediate_size=VISION_FFN,
        num_hidden_layers=vision_layers, num_attention_heads=16, head_dim=64, num_channels=3,
        patch_size=14, image_size=1540, hidden_act="silu",
        rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    config = dict(
        architectures=["Mistral3ForConditionalGeneration"], model_type="mistral3", dtype="bfloat16",
        image_token_index=10, multimodal_projector_bias=False, projector_hidden_act="gelu",
        spatial_merge_size=2, vision_feature_layer=-1, tie_word_embeddings=size["tied"],
        text_config=text, vision_config=vision)
    if fp8:
        config["quantization_config"] = dict(
            quant_method="fp8", activation_scheme="static", weight_block_size=None,
            modules_to_not_convert=["vision_tower", "multi_modal_projector", "lm_head"])
    return config


def tensors_of(size, layers, vision_layers):
    """(name, shape, is a language matrix) in the order of the files."""
    hidden, ffn = size["hidden"], size["ffn"]
    text = "language_model.model."
    yield text + "embed_tokens.weight", (VOCAB, hidden), False
    for layer in range(layers):
        base = f"{text}layers.{layer}."
        yield base + "input_layernorm.weight", (hidden,), False
        for name, shape in (
            ("self_attn.q_proj", (HEADS * HEAD_DIM, hidden)),
            ("self_attn.k_proj", (GROUPS * HEAD_DIM, hidden)),
            ("self_attn.v_proj", (GROUPS * HEAD_DIM, hidden)),
            ("self_attn.o_proj", (hidden, HEADS * HEAD_DIM)),
            ("mlp.gate_proj", (ffn, hidden)),
            ("mlp.up_proj", (ffn, hidden)),
            ("mlp.down_proj", (hidden, ffn)),
        ):
            yield f"{base}{name}.weight", shape, True
        yield base + "post_attention_layernorm.weight", (hidden,), False
    yield text + "norm.weight", (hidden,), False
    if not size["tied"]:
        yield "language_model.lm_head.weight", (VOCAB, hidden), False
    yield "vision_tower.patch_conv.weight", (VISION, 3, 14, 14), False
    yield "vision_tower.ln_pre.weight", (VISION,), False
    for layer in range(vision_layers):
        base = f"vision_tower.transformer.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{base}attention.{name}.weight", (VISION, VISION), False
        for name, shape in (("gate_proj", (VISION_FFN, VISION)), ("up_proj", (VISION_FFN, VISION)),
                            ("down_proj", (VISION, VISION_FFN))):
            yield f"{base}feed_forward.{name}.weight", shape, False
        yield base + "attention_norm.weight", (VISION,), False
        yield base + "ffn_norm.weight", (VISION,), False
    yield "multi_modal_projector.norm.weight", (VISION,), False
    yield "multi_modal_projector.patch_merger.merging_layer.weight", (VISION, 4 * VISION), False
    yield "multi_modal_projector.linear_1.weight", (hidden, VISION), False
    yield "multi_modal_projector.linear_2.weight", (hidden, hidden), False


def stored(size, layers, vision_layers, fp8):
    """(name, dtype, shape) with the scales of FP8 matrices beside them."""
    for name, shape, is_matrix in tensors_of(size, layers, vision_layers):
        if fp8 and is_matrix:
            yield name, "F8_E4M3", shape
            yield name + "_scale_inv", "BF16", ()
        else:
            yield name, "BF16", shape


def bytes_of(dtype, shape):
    return int(np.prod(shape, dtype=np.int64)) * (1 if dtype == "F8_E4M3" else 2)


def bf16(values):
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_shard(path, tensors, rng, words):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in tensors:
        end = offset + bytes_of(dtype, shape)
        header[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # A long stretch of noise, read from a different place for each tensor: drawing 7 GB is slow.
    noise = bf16(rng.standard_normal(1 << 24, dtype=np.float32) * 0.02).tobytes()
    # e4m3 bytes of every value but NaN (0x7f, 0xff).
    coded = rng.integers(0, 0x7f, 1 << 24, dtype=np.uint8) | (
        rng.integers(0, 2, 1 << 24, dtype=np.uint8) << 7)
    coded = coded.tobytes()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, shape in tensors:
            size = bytes_of(dtype, shape)
            if name.endswith("_scale_inv"):
                file.write(bf16([0.0003]).tobytes())
            elif len(shape) == 1:
                file.write(bf16(np.ones(shape)).tobytes())
            else:
                source = coded if dtype == "F8_E4M3" else noise
                while size > 0:
                    start = 2 * int(rng.integers(len(source) // 4))
                    piece = source[start : start + size]
                    file.write(piece)
                    size -= len(piece)
            if words and shape[0] == VOCAB:
                rest = (VOCAB - words) * shape[1] * 2
                file.seek(-rest, 1)
                file.write(bytes(rest))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--vision-layers", type=int, default=VISION_LAYERS)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--side-files", type=Path, help="directory whose tokenizer is copied")
    parser.add_argument("--words", type=int, help="ids that the tokenizer has: the head finds no others")
    options = parser.parse_args()
    size = SIZES[options.size]
    layers = options.layers or size["layers"]
    options.out.mkdir(parents=True)
    (options.out / "config.json").write_text(
        json.dumps(config_of(size, layers, options.vision_layers, options.fp8), indent=2))

    shards, used = [[]], 0
    for tensor in stored(size, layers, options.vision_layers, options.fp8):
        weight = bytes_of(*tensor[1:])
        if used and used + weight > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += weight
    rng = np.random.default_rng(0)
    weight_map = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            name = "model.safetensors"
        write_shard(options.out / name, tensors, rng, options.words)
        weight_map |= {tensor[0]: name for tensor in tensors}
    if len(shards) > 1:
        total = sum(bytes_of(*t[1:]) for shard in shards for t in shard)
        (options.out / "model.safetensors.index.json").write_text(
            json.dumps(dict(metadata=dict(total_size=total), weight_map=weight_map), indent=2))
    for path in sorted(options.side_files.iterdir()) if options.side_files else ():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json",):
            shutil.copy(path, options.out / path.name)
    print(f"{options.out}: {sum(p.stat().st_size for p in options.out.iterdir()) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
