"""LoRA and DoRA goldens on one model: peft's own, and Megatron's form, where fused linears share
one A."""

import json
import re

import peft
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save
from torch import nn
from torch.nn.functional import linear

from . import record

RANK, ALPHA, LR = 4, 8, 1e-2
SCALE = ALPHA / RANK
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The spelling that peft writes over transformers 5, and the one the Megatron bridge exports.
PEFT, BRIDGE = "base_model.model.model.language_model.", "base_model.model.language_model.model."
# The vision tower has linears of the same names: a bare list of names would adapt it too.
PATTERN = r".*language_model.*\.(" + "|".join(TARGETS) + ")"
# Both towers: the projector stays as it is.
TOWERS = r".*(language_model|vision_tower).*\.(" + "|".join(TARGETS) + ")"
# All three parts of the model, peft's way to say so.
EVERYWHERE = r".*\.(" + "|".join(TARGETS + ("linear_1", "linear_2", "merging_layer")) + ")"


def random_factor(generator, dtype, *shape):
    """Entries for A or B: B is not zero, as it is at the start of a real run, so that the first
    step already has gradients in A."""
    return torch.randn(shape, generator=generator).to(dtype) * (0.05 if shape[1] == RANK else 0.1)


def peft_model(model, **options):
    model.name_or_path = ""  # else the path of this machine lands in adapter_config.json
    options = {"target_modules": PATTERN} | options
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, task_type="CAUSAL_LM", **options)
    return peft.get_peft_model(model, config)


def run(model, batch, parameters):
    """Logits, loss and gradients of the initial adapter, then ten steps on it alone."""
    with torch.no_grad():
        out = {"logits": record.forward(model, batch).logits}
    loss = record.forward(model, batch).loss
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    out["loss"] = loss.detach()
    out |= {f"grad.{name}": g for name, g in zip(parameters, gradients)}
    out |= record.train(model, batch, list(parameters.values()), LR, 0.0)
    with torch.no_grad():
        out["final.logits"] = record.forward(model, batch).logits
    return out


def disk_name(name):
    """A parameter's name in the file: peft leaves out the adapter's name, and a magnitude's
    `.weight`."""
    name = name.replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


def separate(model, batch, folder, seed, **options):
    """peft as it is: every linear its own A and B, and with use_dora its own magnitudes, which are
    put at some distance from the rows' norms. Returns the golden; writes the initial adapter into
    `folder` as peft saves it."""
    adapted = peft_model(model, **options)
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, parameter in adapted.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_magnitude_vector" in name:
            stretch = 1 + 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data * stretch.to(model.dtype)
        else:
            parameter.data = random_factor(generator, model.dtype, *parameter.shape)
        parameters[disk_name(name)] = parameter
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved.keys() == parameters.keys()
    assert all(torch.equal(saved[name], p) for name, p in parameters.items())
    golden = run(adapted, batch, parameters)
    golden |= {f"final.{name}": p for name, p in parameters.items()}
    return golden


class FusedLora(nn.Module):
    """Several linears as one, with one A (`linear_in`) and one B (`linear_out`) over all rows."""

    def __init__(self, weight, generator):
        super().__init__()
        rows, columns = weight.shape
        self.register_buffer("weight", weight)
        self.linear_in = nn.Parameter(random_factor(generator, weight.dtype, RANK, columns))
        self.linear_out = nn.Parameter(random_factor(generator, weight.dtype, rows, RANK))

    def rows(self, x, index):
        low = linear(x, self.linear_in)
        return linear(x, self.weight[index]) + SCALE * linear(low, self.linear_out[index])


class Rows(nn.Module):
    """Some rows of a FusedLora, in the place of the linear they came from. The parent is kept out
    of the module tree, so that its parameters are listed once."""

    def __init__(self, fused, index):
        super().__init__()
        self.fused, self.index = (fused,), index

    def forward(self, x):
        return self.fused[0].rows(x, self.index)


def qkv_rows(attention):
    """Where the rows of q, k and v lie in Megatron's linear_qkv: a query group after another, of
    each its query heads, its key head, its value head."""
    dim, per_group = attention.head_dim, attention.num_key_value_groups
    groups = attention.k_proj.out_features // dim
    grid = torch.arange(groups * (per_group + 2) * dim).view(groups, per_group + 2, dim)
    return {"q_proj": grid[:, :per_group].flatten(), "k_proj": grid[:, per_group].flatten(),
            "v_proj": grid[:, per_group + 1].flatten()}


def fuse(parent, rows, generator):
    width = getattr(parent, next(iter(rows))).in_features
    weight = torch.zeros(sum(len(index) for index in rows.values()), width,
                         dtype=getattr(parent, next(iter(rows))).weight.dtype)
    for name, index in rows.items():
        weight[index] = getattr(parent, name).weight.data
    fused = FusedLora(weight, generator)
    for name, index in rows.items():
        setattr(parent, name, Rows(fused, index))
    return fused, rows


def whole(linear_module):
    return torch.arange(linear_module.out_features)


def fuse_model(model, generator):
    """Puts FusedLora in the place of the model's linears. Returns {Megatron's module name:
    (FusedLora, {HF name: its rows})}."""
    fused = {}
    for n, layer in enumerate(record.text_tower(model).layers):
        prefix = f"language_model.decoder.layers.{n}."
        attention, mlp = layer.self_attn, layer.mlp
        rows = qkv_rows(attention)
        fused[prefix + "self_attention.linear_qkv"] = fuse(attention, rows, generator)
        fused[prefix + "self_attention.linear_proj"] = fuse(
            attention, {"o_proj": whole(attention.o_proj)}, generator)
        count = mlp.gate_proj.out_features
        fused[prefix + "mlp.linear_fc1"] = fuse(
            mlp, {"gate_proj": torch.arange(count), "up_proj": torch.arange(count, 2 * count)},
            generator)
        fused[prefix + "mlp.linear_fc2"] = fuse(mlp, {"down_proj": whole(mlp.down_proj)}, generator)
    return fused


def to_peft(fused):
    """The adapter as a PEFT file holds it: A copied to each linear, B cut into their rows."""
    out = {}
    for name, (module, rows) in fused.items():
        layer = re.search(r"layers\.(\d+)", name).group(1)
        block = "mlp" if ".mlp." in name else "self_attn"
        for target, index in rows.items():
            prefix = f"{BRIDGE}layers.{layer}.{block}.{target}."
            out[prefix + "lora_A.weight"] = module.linear_in.detach().clone()
            out[prefix + "lora_B.weight"] = module.linear_out.detach()[index].contiguous()
    return out


def shared(model, batch, folder, seed):
    """Megatron's form: one A for q, k and v and one for gate and up, truly shared in training.
    Returns the golden; writes the initial adapter into `folder` in PEFT's layout, as the bridge
    exports it."""
    model.requires_grad_(False)
    fused = fuse_model(model, torch.Generator().manual_seed(seed))
    parameters = {}
    for name, (module, _) in fused.items():
        parameters[name + ".adapter.linear_in.weight"] = module.linear_in
        parameters[name + ".adapter.linear_out.weight"] = module.linear_out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(save(to_peft(fused), {"format": "pt"}))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA,
              "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(TARGETS),
              "use_dora": False, "use_rslora": False, "inference_mode": True,
              "fan_in_fan_out": False, "modules_to_save": None, "base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    golden = {name: p.detach().clone() for name, p in parameters.items()}
    golden |= run(model, batch, parameters)
    golden |= {f"final.{name}": p for name, p in parameters.items()}
    golden |= {f"final.{name}": value for name, value in to_peft(fused).items()}
    return golden


def dora(model, batch, folder, seed):
    return separate(model, batch, folder, seed, use_dora=True)


def lora_everywhere(model, batch, folder, seed):
    return separate(model, batch, folder, seed, target_modules=EVERYWHERE)


def lora_towers(model, batch, folder, seed):
    return separate(model, batch, folder, seed, target_modules=TOWERS)


def dora_everywhere(model, batch, folder, seed):
    return separate(model, batch, folder, seed, target_modules=EVERYWHERE, use_dora=True)


def train_lora_plus(model, batch, folder, ratio):
    """Ten steps from the adapter in `folder`, with peft's groups for LoRA+."""
    adapted = peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    optimizer = create_loraplus_optimizer(
        adapted, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=ratio, betas=(0.9, 0.95), eps=1e-8,
        foreach=False)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    return record.train(adapted, batch, parameters, LR, 0.0, optimizer)


def train_pissa(model, batch, **options):
    """What PiSSA makes of each weight (residual.NAME, and s B A as update.NAME), and ten steps.
    The signs and order of equal singular vectors are nobody's choice, so that A and B are not
    kept."""
    adapted = peft_model(model, init_lora_weights="pissa", target_modules=EVERYWHERE, **options)
    out = {}
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A"):
            name = name.removeprefix("base_model.model.")
            out[f"residual.{name}"] = module.base_layer.weight.detach().clone()
            out[f"update.{name}"] = module.get_delta_weight("default").detach().clone()
    # A tenth of the usual rate: the principal part is large, and ten steps of it must not diverge.
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    out |= record.train(adapted, batch, parameters, LR / 10, 0.0)
    with torch.no_grad():
        out["final.logits"] = record.forward(adapted, batch).logits
    return out


def check_shared(model, folder, batch, golden):
    """peft, given the files of the shared form, must compute the same logits before and after."""
    adapted = peft_model(model)
    for when, state in (("", load_file(folder / "adapter_model.safetensors")), ("final.", {
            name[len("final."):]: value for name, value in golden.items()
            if name.startswith("final.base_model")})):
        state = {name.replace(BRIDGE, PEFT): value for name, value in state.items()}
        result = peft.set_peft_model_state_dict(adapted, state)
        assert not result.unexpected_keys, result.unexpected_keys
        assert not [key for key in result.missing_keys if "lora" in key], result.missing_keys
        with torch.no_grad():
            error = (record.forward(adapted, batch).logits - golden[when + "logits"]).abs().max()
        print(f"    shared form in peft, {when or 'initial.'}logits: differ by {error:.2g}")
        assert error < 1e-5
