"""What one model does with one batch: every stage, logits, loss, gradients, ten steps, greedy."""

import torch

STEPS, NEW_TOKENS = 10, 16


def forward(model, batch):
    return model(**batch, use_cache=False)


def text_tower(model):
    return model.model if hasattr(model.model, "embed_tokens") else model.model.language_model


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Stages:
    """Hooks that keep the output of every stage, in the order in which the stages finish."""

    def __init__(self, model):
        self.values = {}
        self.handles = []
        text = text_tower(model)
        if text is not model.model:
            vision, projector = model.model.vision_tower, model.model.multi_modal_projector
            # The convolution runs over the padded images; its golden is what ln_pre receives: the
            # patches of each image alone, row by row.
            self.keep_input("vision.patch_conv", vision.ln_pre)
            self.keep("vision.ln_pre", vision.ln_pre)
            for n, layer in enumerate(vision.transformer.layers):
                self.keep(f"vision.layers.{n}.attention", layer.attention)
                self.keep(f"vision.layers.{n}.feed_forward", layer.feed_forward)
                self.keep(f"vision.layers.{n}", layer)
            self.keep("projector.norm", projector.norm)
            self.keep("projector.patch_merger", projector.patch_merger)
            self.keep("projector.linear_1", projector.linear_1)
            self.keep("projector.out", projector)
        self.handles.append(text.layers[0].register_forward_pre_hook(
            lambda _, inputs: self.put("text.embed", inputs[0])))
        for n, layer in enumerate(text.layers):
            self.keep(f"text.layers.{n}.self_attn", layer.self_attn)
            self.keep(f"text.layers.{n}.mlp", layer.mlp)
            self.keep(f"text.layers.{n}", layer)
        self.keep("text.norm", text.norm)

    def put(self, name, value):
        value = value.detach()
        if not name.startswith("text.") and value.dim() == 3:
            value = value.squeeze(0)  # transformers' batch axis of one over all images
        self.values["stage." + name] = value.clone()

    def keep(self, name, module):
        self.handles.append(module.register_forward_hook(
            lambda _, __, output: self.put(name, first(output))))

    def keep_input(self, name, module):
        self.handles.append(module.register_forward_pre_hook(
            lambda _, inputs: self.put(name, inputs[0])))

    def remove(self):
        for handle in self.handles:
            handle.remove()


def forward_and_gradients(model, batch, disk_name):
    """(tensors, names of the stages in order). A parameter that the loss does not reach has a
    gradient of zeros here."""
    stages = Stages(model)
    model.zero_grad()
    output = forward(model, batch)
    stages.remove()
    output.loss.backward()
    out = dict(stages.values)
    out["logits"] = output.logits.detach()
    out["loss"] = output.loss.detach()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        out["grad." + disk_name(name)] = (
            torch.zeros_like(parameter) if gradient is None else gradient.clone())
    return out, list(stages.values)


def adamw(parameters, lr, weight_decay):
    """Weight decay skips one-dimensional parameters."""
    decayed = [p for p in parameters if p.dim() > 1]
    plain = [p for p in parameters if p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr, betas=(0.9, 0.95), eps=1e-8, foreach=False)


def train(model, batch, parameters, lr, weight_decay, optimizer=None):
    """Ten steps on one batch, of adamw() where no other optimizer is given: the loss and the
    gradient's norm (before clipping) of each step, then the loss after the last."""
    optimizer = optimizer or adamw(parameters, lr, weight_decay)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = forward(model, batch).loss
        loss.backward()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).detach())
        optimizer.step()
    with torch.no_grad():
        after = forward(model, batch).loss
    return {"losses": torch.stack(losses), "grad_norms": torch.stack(norms), "loss_after": after}


@torch.no_grad()
def greedy(model, prompt):
    """Sixteen greedy tokens, by transformers' generate with its cache; equal to what whole
    forwards without a cache choose, by a margin that rounding cannot close."""
    ids = prompt["input_ids"]
    made = model.generate(**prompt, attention_mask=torch.ones_like(ids), do_sample=False,
                          max_new_tokens=NEW_TOKENS)[0, ids.shape[1]:]
    margins, values = [], dict(prompt)
    for _ in range(NEW_TOKENS):
        logits = forward(model, values).logits[0, -1]
        best = logits.topk(2)
        margins.append(best.values[0] - best.values[1])
        values["input_ids"] = torch.cat([values["input_ids"], best.indices[:1][None]], dim=1)
    assert torch.equal(made, values["input_ids"][0, ids.shape[1]:]), "cache and no cache differ"
    margin = min(margins).item()
    assert margin > 0.01, f"two tokens lie {margin} apart; take another seed"
    assert len(set(made.tolist())) > 4, "the tokens repeat; take another seed"
    out = {"greedy.tokens": made}
    for name, value in prompt.items():
        out["greedy." + name] = value
    return out


def rope(model, length):
    """Inverse frequencies, the attention factor, cos and sin of positions 0..length-1."""
    text = text_tower(model)
    rotary = text.rotary_emb
    cos, sin = rotary(torch.zeros(1), torch.arange(length)[None])
    out = {"rope.inv_freq": rotary.inv_freq,
           "rope.attention_scaling": torch.tensor(float(rotary.attention_scaling)),
           "rope.cos": cos[0], "rope.sin": sin[0]}
    if text is not model.model:
        out["vision_rope.inv_freq"] = model.model.vision_tower.patch_positional_embedding.inv_freq
    return out
