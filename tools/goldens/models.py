"""The tiny models: config.json, random weights and the names those weights have on disk.

Each is a checkpoint as users have it, small enough to commit, and none of the odd terms is at the
value where it vanishes: heads * head_dim != hidden, fewer query groups than heads, norm weights
around but not at 1, an attention factor other than 1, positions past the original context.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import save

BOS, EOS, INST, INST_END, IMG, PAD, IMG_BREAK, IMG_END = 1, 2, 3, 4, 10, 11, 12, 13
FIRST_TEXT_ID, VOCAB = 14, 160

# Prefix rules from the names inside transformers to the three spellings found on disk.
NESTED = (("model.language_model.", "language_model.model."),
          ("model.vision_tower.", "vision_tower."),
          ("model.multi_modal_projector.", "multi_modal_projector."),
          ("lm_head.", "language_model.lm_head."))
FLAT = ()


@dataclass
class Model:
    """One tiny checkpoint. `rows` holds, for each sequence, the sizes (H, W) of its images."""
    name: str
    config: dict
    spelling: tuple
    seed: int
    rows: list
    length: int = 56
    embed_std: float = 0.5
    lengths: list = field(default_factory=list)  # of each sequence; empty: all `length`

    @property
    def is_text(self):
        return self.config["model_type"] == "ministral3"

    def disk_name(self, name):
        for inner, outer in self.spelling:
            if name.startswith(inner):
                return outer + name[len(inner):]
        return name


def text_config(model_type, tied, **changes):
    return {
        "model_type": model_type, "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
        "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "sliding_window": None, "attention_dropout": 0.0, "tie_word_embeddings": tied,
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "initializer_range": 0.02,
        "use_cache": True, **changes
    }


def yarn(**changes):
    return {"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0,
            "original_max_position_embeddings": 16, "max_position_embeddings": 128,
            "beta_fast": 4.0, "beta_slow": 0.1, "mscale": 1.0, "mscale_all_dim": 0.5,
            "llama_4_scaling_beta": 0.3, **changes}


def vision_config(patch, layers=2, **changes):
    return {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": layers, "num_attention_heads": 2, "head_dim": 16,
            "num_channels": 3, "image_size": 28 * patch, "patch_size": patch, "hidden_act": "silu",
            "attention_dropout": 0.0, "initializer_range": 0.02,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, **changes}


def mistral3(text, vision, **changes):
    return {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
            "dtype": "float32", "image_token_index": IMG, "spatial_merge_size": 2,
            "projector_hidden_act": "gelu", "multimodal_projector_bias": False,
            "vision_feature_layer": -1, "tie_word_embeddings": text["tie_word_embeddings"],
            "text_config": text, "vision_config": vision, **changes}


def all_models():
    tied = mistral3(text_config("ministral3", True, rope_parameters=yarn()), vision_config(14))
    # beta_fast, beta_slow and the attention factor by default; another RMSNorm epsilon in the text
    # tower (and so in the projector) than the vision tower's fixed 1e-5; an inner vision layer.
    rope = yarn(rope_theta=10000.0)
    for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
        del rope[key]
    untied = mistral3(
        text_config("ministral3", False, rope_parameters=rope, rms_norm_eps=0.02),
        vision_config(4, layers=3), multimodal_projector_bias=True, vision_feature_layer=[-2])
    # As Mistral Small 3.x wrote it before transformers 5: rope_theta outside rope_parameters; and
    # both activations swapped, so that neither can be assumed.
    mistral = mistral3(
        text_config("mistral", False, rope_theta=1000.0),
        vision_config(4, hidden_act="gelu"), projector_hidden_act="silu")
    text = {"architectures": ["Ministral3ForCausalLM"], "dtype": "float32",
            **text_config("ministral3", False, rope_parameters=yarn(
                truncate=False, factor=4.0, mscale=0.6, mscale_all_dim=1.4, beta_fast=2.0))}
    return [
        Model("tied", tied, NESTED, 11, [[(56, 84)], []], embed_std=0.15),
        Model("untied", untied, FLAT, 12, [[(24, 32), (40, 16)], [(16, 16)]]),
        Model("mistral", mistral, NESTED, 23, [[(32, 24)]]),
        Model("text", text, FLAT, 14, [[], []], length=64),
    ]


def random_weight(name, shape, generator, embed_std):
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if len(shape) == 1:
        return 1 + 0.3 * noise
    if "embed_tokens" in name:
        return embed_std * noise
    return 0.8 / math.sqrt(math.prod(shape[1:])) * noise


def write_model(model, folder):
    """Writes the checkpoint of `model` into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}, indent=2) + "\n")
    config = transformers.AutoConfig.from_pretrained(folder)
    tied = model.config.get("tie_word_embeddings", False)
    config.tie_word_embeddings = tied  # said or not
    with torch.device("meta"):
        empty = model_class(model)._from_config(config)
    generator = torch.Generator().manual_seed(model.seed)
    weights = {}
    for name, parameter in sorted(empty.named_parameters()):
        if name == "lm_head.weight" and tied:
            continue
        weights[model.disk_name(name)] = random_weight(
            name, parameter.shape, generator, model.embed_std).to(getattr(torch, model.config["dtype"]))
    (folder / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))


def model_class(model):
    return (transformers.Ministral3ForCausalLM if model.is_text
            else transformers.Mistral3ForConditionalGeneration)


def load_model(model, folder, dtype=torch.float32):
    """The checkpoint in transformers; fails if one tensor was not found or not used."""
    loaded, info = model_class(model).from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(kind), (model.name, kind, info[kind])
    return loaded.eval()


def image_ids(height, width, unit):
    rows, columns = height // unit, width // unit
    ids = ([IMG] * columns + [IMG_BREAK]) * rows
    return ids[:-1] + [IMG_END]


def make_batch(model):
    """One batch. Labels lie at the place of their own token, -100 where there is no target: the
    loss compares the logits at t with the label at t + 1."""
    generator = torch.Generator().manual_seed(1000 + model.seed)
    lengths = model.lengths or [model.length] * len(model.rows)
    unit = 0 if model.is_text else 2 * model.config["vision_config"]["patch_size"]

    def words(count):
        return torch.randint(FIRST_TEXT_ID, VOCAB, (count,), generator=generator).tolist()

    input_ids = torch.full((len(model.rows), max(lengths)), PAD)
    labels = torch.full_like(input_ids, -100)
    prompt = 0
    for row, (sizes, length) in enumerate(zip(model.rows, lengths)):
        # Two turns, so that a target is followed by more context: <s>[INST]..[/INST]..</s> twice.
        first = [BOS, INST] + [i for size in sizes for i in image_ids(*size, unit)]
        first += words(6 if sizes else 20) + [INST_END]
        answers = words(7) + [EOS]
        second = [INST] + words(4) + [INST_END]
        last = words(length - len(first) - len(answers) - len(second) - 1) + [EOS]
        assert len(last) >= 3, (model.name, length)
        ids = torch.tensor(first + answers + second + last)
        is_target = torch.tensor([0] * len(first) + [1] * len(answers) + [0] * len(second) +
                                 [1] * len(last), dtype=torch.bool)
        input_ids[row, :length] = ids
        labels[row, :length] = torch.where(is_target, ids, -100)
        prompt = prompt or len(first)
    batch = {"input_ids": input_ids, "labels": labels}
    if min(lengths) != max(lengths):
        batch["attention_mask"] = (input_ids != PAD).long()
    sizes = [size for row in model.rows for size in row]
    if sizes:
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        pixels = torch.zeros(len(sizes), 3, height, width)
        for pixel, (h, w) in zip(pixels, sizes):
            pixel[:, :h, :w] = torch.randn(3, h, w, generator=generator)
        batch |= {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}
    # The prompt of the greedy golden: the first turn of the first sequence, with its images.
    count = len(model.rows[0])
    prompt_batch = {"input_ids": input_ids[:1, :prompt]}
    if count:
        prompt_batch |= {"pixel_values": batch["pixel_values"][:count],
                         "image_sizes": batch["image_sizes"][:count]}
    return batch, prompt_batch
