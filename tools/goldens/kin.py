"""The family beside Ministral 3: each model's config with its sizes and counts divided, and all else as it is.

What is kept is what could go wrong: YaRN's numbers and the original context, heads of 128 that are not hidden / heads,
tied or not (or not said), the activations, how many names a checkpoint has. Widths of public configs where they are
known; the weights are random.
"""

import torch

from . import checks, models, record

IMAGE = (28, 56)
LONG = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 128}
# Medium 3.5 and Devstral 2: no mscale_all_dim, so cos and sin are scaled by 0.1 ln 64 + 1 = 1.416.
YARN_64 = {"rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 64.0, "original_max_position_embeddings": 4096,
           "beta_fast": 4.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0, "llama_4_scaling_beta": 0.0}
YARN_48 = YARN_64 | {"rope_theta": 1e8, "factor": 48.0, "original_max_position_embeddings": 8192, "beta_fast": 32.0,
                     "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
YARN_16 = YARN_48 | {"rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384}


def text(tied, rope):
    positions = int(rope["factor"] * rope["original_max_position_embeddings"])
    return models.text_config("ministral3", tied, **LONG, max_position_embeddings=positions, rope_parameters=rope)


def vision(layers, **changes):
    return models.vision_config(14, layers=layers, hidden_size=16, intermediate_size=24, head_dim=8, image_size=1540, **changes)


def text_only(tied, rope):
    return {"architectures": ["Ministral3ForCausalLM"], "dtype": "bfloat16", **text(tied, rope)}


def mistral3(*towers):
    return models.mistral3(*towers) | {"dtype": "bfloat16"}


def small():
    """Mistral Small 3.1 and 3.2: the config of transformers 4, which says nothing of tying."""
    small = models.text_config("mistral", False, **LONG, rope_theta=1e9, max_position_embeddings=131072)
    config = mistral3(small, vision(4, hidden_act="gelu", rope_theta=10000.0))
    for level in (config, config["text_config"]):
        del level["tie_word_embeddings"]
    del config["vision_config"]["rope_parameters"]
    return config


def all_models():
    # A picture in one of two rows; text-only models have two rows of text.
    def seeing(name, config, seed, **options):
        return models.Model("kin/" + name, config, models.NESTED, seed, [[IMAGE], []], length=40, **options)

    def reading(name, config, seed, **options):
        return models.Model("kin/" + name, config, models.FLAT, seed, [[], []], length=40, **options)

    return [
        seeing("medium_3_5", mistral3(text(False, YARN_64), vision(6)), 71),
        seeing("shieldstral", mistral3(text(True, YARN_16), vision(3)), 74, embed_std=0.15),
        seeing("devstral_small_2", mistral3(text(False, YARN_48), vision(3)), 75),
        reading("devstral_2", text_only(False, YARN_64), 76),
        seeing("small_3", small(), 77),
        reading("ernie_image_pe", text_only(True, YARN_16), 107, embed_std=0.3),
    ]


def other_beta_fast(model):
    """32, as Ministral 3 has it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    rotary = record.text_tower(model).rotary_emb
    rotary.config.rope_parameters["beta_fast"] = 32.0
    rotary.inv_freq, _ = ROPE_INIT_FUNCTIONS["yarn"](rotary.config, "cpu")


def ablations(model):
    """What this model has that others of the family have not, each at a value where it vanishes."""
    rope = record.text_tower(model).config.rope_parameters
    if rope["rope_type"] == "yarn":
        yield "yarn's frequencies", checks.scale_inverse_frequencies
        if rope["mscale_all_dim"] == 0:
            yield "attention factor", checks.set_attention_factor
            yield "beta_fast of its own", other_beta_fast
    if record.text_tower(model) is not model.model:
        yield "vision activation", checks.swap_activation(lambda m: m.model.vision_tower)


@torch.no_grad()
def logprobs(model, prompt, tokens):
    """The log-probability of each of the tokens after the prompt, and the 20 likeliest in its place."""
    ids = torch.cat([prompt["input_ids"], tokens[None]], dim=1)
    logits = record.forward(model, prompt | {"input_ids": ids}).logits[0, prompt["input_ids"].shape[1] - 1:-1]
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(20)
    return {"greedy.logprobs": logprobs.gather(1, tokens[:, None])[:, 0], "greedy.top_logprobs": top.values,
            "greedy.top_ids": top.indices}


def make(model, folder):
    """The tensors of FOLDER/golden.safetensors; see the README."""
    models.write_model(model, folder)
    reference = models.load_model(model, folder)
    batch, prompt = models.make_batch(model)
    checks.check_terms_show(reference, batch, ablations(reference))
    golden = record.greedy(reference, prompt)
    golden |= logprobs(reference, prompt, golden["greedy.tokens"])
    with torch.no_grad():
        golden["logits"] = record.forward(reference, batch).logits
    rope = record.rope(reference, batch["input_ids"].shape[1])
    golden |= {name: value for name, value in rope.items() if name.startswith("rope.") and value.dim() < 2}
    golden |= record.train(reference, batch, list(reference.parameters()), 1e-3, 0.1)
    return batch | golden
