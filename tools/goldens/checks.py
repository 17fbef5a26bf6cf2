"""Checks on the goldens themselves: that a wrong term would show, and that rounding would not."""

import copy

import torch

from . import record

VISIBLE = 1e-2  # a hundred times the tolerance of the logits


def set_epsilon(value):
    def change(model):
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = value
    return change


def scale_inverse_frequencies(model):
    rotary = record.text_tower(model).rotary_emb
    dims = 2 * rotary.inv_freq.numel()
    rotary.inv_freq = 1.0 / rotary.config.rope_parameters["rope_theta"] ** (
        torch.arange(0, dims, 2) / dims)


def set_attention_factor(model):
    record.text_tower(model).rotary_emb.attention_scaling = 1.0


def drop_query_scale(model):
    record.text_tower(model).config.rope_parameters["llama_4_scaling_beta"] = 0.0


def fill(condition, value):
    def change(model):
        hit = [p for name, p in model.named_parameters() if condition(name, p)]
        assert hit
        for parameter in hit:
            parameter.data.fill_(value)
    return change


def swap_activation(of):
    def change(model):
        module = of(model)
        for inner in module.modules():
            for name in ("act_fn", "act"):
                if hasattr(inner, name):
                    old = getattr(inner, name)
                    new = torch.nn.GELU() if "SiLU" in type(old).__name__ else torch.nn.SiLU()
                    setattr(inner, name, new)
    return change


def ablations(model):
    yield "norm weights", fill(lambda name, p: p.dim() == 1 and "bias" not in name, 1.0)
    yield "text activation", swap_activation(record.text_tower)
    if record.text_tower(model).config.model_type == "ministral3":
        yield "yarn's frequencies", scale_inverse_frequencies
        yield "attention factor", set_attention_factor
        yield "query scale", drop_query_scale
    if record.text_tower(model) is model.model:
        return
    yield "vision activation", swap_activation(lambda m: m.model.vision_tower)
    yield "projector activation", swap_activation(lambda m: m.model.multi_modal_projector)
    yield "vision norms", fill(lambda name, p: p.dim() == 1 and "vision_tower" in name, 1.0)
    if model.config.multimodal_projector_bias:
        yield "projector bias", fill(lambda name, _: name.endswith("bias"), 0.0)
        yield "epsilon", set_epsilon(1e-5)
        yield "borders of images", join_images
        yield "inner vision layer", use_last_layer


class OneImage(torch.nn.Module):
    """The vision tower without the borders between images: every patch attends to every other."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, embeds, attention_mask, **rest):
        return self.transformer(embeds, attention_mask=torch.zeros_like(attention_mask), **rest)


def join_images(model):
    model.model.vision_tower.transformer = OneImage(model.model.vision_tower.transformer)


def use_last_layer(model):
    model.config.vision_feature_layer = -1


@torch.no_grad()
def check_terms_show(model, batch, terms=None):
    """Each term (of ablations(), or those given) put to the value where it vanishes must move the logits by VISIBLE."""
    reference = record.forward(model, batch).logits
    for name, change in terms or ablations(model):
        other = copy.deepcopy(model)
        change(other)
        moved = (record.forward(other, batch).logits - reference).abs().max().item()
        print(f"    without {name}: logits move by {moved:.3g}")
        assert moved > VISIBLE, name


def in_fp64(batch):
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def check_rounding(model, batch, disk_name, golden):
    """The same in fp64 (but for the norms and the rope, which transformers keeps in fp32) must
    agree far within the tolerances of the tests."""
    model = copy.deepcopy(model).double()
    batch = in_fp64(batch)
    exact, _ = record.forward_and_gradients(model, batch, disk_name)
    parameters = list(model.parameters())
    exact |= record.train(model, batch, parameters, 1e-3, 0.1)
    compare(golden, exact)


def compare(golden, exact):
    """`golden` is in fp32, `exact` the same in fp64."""
    worst = 0.0
    for name, value in exact.items():
        if name.startswith("grad."):
            scale = value.abs().max().clamp_min(1e-12)
            worst = max(worst, ((golden[name] - value).abs().max() / scale).item())
    errors = {name: (golden[name] - exact[name]).abs().max().item()
              for name in ("logits", "loss", "losses")}
    print("    rounding:", ", ".join(f"{k} {v:.2g}" for k, v in errors.items()),
          f"gradients {worst:.2g} relative")
    assert errors["logits"] < 2e-5 and errors["loss"] < 2e-6 and errors["losses"] < 2e-5
    assert worst < 2e-5
