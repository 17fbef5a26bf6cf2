"""Ten steps of whole runs: with frozen parts, and of several samples each in a forward of its own,
which is what a packed row must equal."""

import copy

import peft
import torch
from torch.nn.functional import cross_entropy

from . import checks, lora, models, record

LR, DECAY = 1e-3, 0.1
# What Megatron Bridge's flags freeze: freeze_language_model, freeze_vision_model, freeze_vision_projection.
PARTS = {"language": ("model.language_model.", "lm_head."), "vision": ("model.vision_tower.",),
         "projection": ("model.multi_modal_projector.",)}
FROZEN = (("language",), ("vision",), ("projection",), ("language", "vision"), ("vision", "projection"))
# Rows of unlike lengths for the models whose pictures have 8 and 28 pixels a token: two pictures, one, none.
PACKED = {"untied": ([[(24, 32), (40, 16)], [], [], [(16, 16)], []], [110, 41, 64, 48, 40]),
          "tied": ([[], [(56, 84)], [(28, 28), (56, 28)], []], [90, 47, 52, 44])}


def frozen(make, batch):
    """losses and grad_norms of full fine-tuning with some parts frozen, by the parts' names."""
    out = {}
    for parts in FROZEN:
        model = make()
        prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(prefixes))
        trained = [p for p in model.parameters() if p.requires_grad]
        assert 0 < len(trained) < len(list(model.parameters()))
        run = record.train(model, batch, trained, LR, DECAY)
        out |= {f"{'_'.join(parts)}.{name}": run[name] for name in ("losses", "grad_norms")}
        print(f"    frozen {' and '.join(parts)}: losses", run["losses"].tolist())
    return out


def packed_samples(model):
    """(the batch as it is stored, each sample as a forward of its own takes it)."""
    model = copy.copy(model)
    model.rows, model.lengths = PACKED[model.name]
    model.seed += 300
    batch, _ = models.make_batch(model)
    samples, image = [], 0
    for row, (sizes, length) in enumerate(zip(model.rows, model.lengths)):
        sample = {"input_ids": batch["input_ids"][row:row + 1, :length]}
        if sizes:
            height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
            last = image + len(sizes)
            sample |= {"pixel_values": batch["pixel_values"][image:last, :, :height, :width],
                       "image_sizes": batch["image_sizes"][image:last]}
            image = last
        samples.append((sample, batch["labels"][row, :length]))
    stored = {name: batch[name] for name in ("input_ids", "labels", "pixel_values", "image_sizes")}
    stored["lengths"] = torch.tensor(model.lengths)
    stored["images_of_row"] = torch.tensor([len(sizes) for sizes in model.rows])
    return stored, samples


def loss_alone(model, samples):
    """The mean over the targets of all samples; positions of each start at 0."""
    total, targets = 0.0, 0
    for sample, labels in samples:
        logits = model(**sample, use_cache=False).logits[0]
        total = total + cross_entropy(logits[:-1].float(), labels[1:], ignore_index=-100, reduction="sum")
        targets += int((labels[1:] != -100).sum())
    return total / targets


def train_alone(model, samples, parameters, lr, decay):
    optimizer = record.adamw(parameters, lr, decay)
    losses, norms, gradients = [], [], None
    for _ in range(record.STEPS):
        optimizer.zero_grad()
        loss = loss_alone(model, samples)
        loss.backward()
        gradients = gradients or [None if p.grad is None else p.grad.clone() for p in parameters]
        losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).detach())
        optimizer.step()
    return {"losses": torch.stack(losses), "grad_norms": torch.stack(norms)}, gradients


@torch.no_grad()
def check_positions_show(model, samples):
    """A sample whose positions went on from the one before it would have other logits: the YaRN
    rotation depends on differences alone, the Llama-4 scale does not."""
    sample, _ = samples[1]
    length = sample["input_ids"].shape[1]
    shifted = torch.arange(length)[None] + samples[0][0]["input_ids"].shape[1]
    moved = (model(**sample, position_ids=shifted).logits - model(**sample).logits).abs().max().item()
    print(f"    positions that go on move the logits by {moved:.3g}")
    assert moved > checks.VISIBLE


def packed_full(model, folder):
    stored, samples = packed_samples(model)
    reference = models.load_model(model, folder)
    check_positions_show(reference, samples)
    run, gradients = train_alone(reference, samples, list(reference.parameters()), LR, DECAY)
    kept = ("layers.0.self_attn.q_proj.weight", "layers.2.mlp.down_proj.weight", "linear_1.weight", "ln_pre.weight")
    named = zip(reference.named_parameters(), gradients)
    grads = {"grad." + model.disk_name(name): g for (name, _), g in named if name.endswith(kept)}
    print("    packed: losses", run["losses"].tolist())
    return stored | run | grads


def packed_lora(model, folder):
    stored, samples = packed_samples(model)
    adapted = peft.PeftModel.from_pretrained(models.load_model(model, folder), folder / "lora", is_trainable=True)
    run, _ = train_alone(adapted, samples, [p for p in adapted.parameters() if p.requires_grad], lora.LR, 0.0)
    print("    packed LoRA: losses", run["losses"].tolist())
    return stored | run
