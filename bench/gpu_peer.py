#!/usr/bin/env python3
"""transformers and peft on the model directory that bench/gpu.py gives both programs: one figure as a JSON line.

  gpu_peer.py MODEL lora|dora|sft|image|decode|prefill [--form plain|compiled|liger] [--device cuda] [--length 4096] [--batch 1] [--new 128]
    [--steps 5]

Trains on one row of random ids with every id a label (image: a 448 x 448 picture, a quarter labelled), r = 32 on the seven
projections of the language model, bf16 adapters, fused AdamW, gradients clipped; the median of `--steps` steps behind two that warm
up. Decoding is generate()'s own with a static cache, which it compiles.
"""
import argparse
import json
import time

import torch
import transformers

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("what", choices=("lora", "dora", "sft", "image", "decode", "prefill"))
    parser.add_argument("--form", choices=("plain", "compiled", "liger"), default="plain")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time")
    parser.add_argument("--picture", type=int, default=448)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def wait(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(device, action):
    wait(device)
    start = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - start


def median(values):
    return sorted(values)[len(values) // 2]


def patch_for_liger():
    """Its norm, MLP and rope, before the model is made."""
    import transformers.models.ministral3.modeling_ministral3 as module
    from liger_kernel.transformers import LigerRMSNorm, LigerSwiGLUMLP, liger_rotary_pos_emb

    module.Ministral3RMSNorm = LigerRMSNorm
    module.Ministral3MLP = LigerSwiGLUMLP
    module.apply_rotary_pos_emb = liger_rotary_pos_emb


def load(options):
    if options.form == "liger":
        patch_for_liger()
    model = transformers.Mistral3ForConditionalGeneration.from_pretrained(
        options.model, dtype=torch.bfloat16, attn_implementation="sdpa").to(options.device)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def row(options, config):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, min(600, config.text_config.vocab_size), (1, options.length), generator=generator)
    labels, more = ids.clone(), {}
    if options.what == "image":
        side = options.picture // (config.vision_config.patch_size * config.spatial_merge_size)
        ids[0, 1:1 + side * side] = config.image_token_id
        labels[0, :3 * options.length // 4] = -100
        pixels = torch.randn(1, 3, options.picture, options.picture, generator=generator)
        more = dict(pixel_values=pixels.to(options.device, torch.bfloat16),
                    image_sizes=torch.tensor([[options.picture, options.picture]]))
    return ids, labels, more


def train(options, model):
    from peft import LoraConfig, get_peft_model

    language, head = model.model.language_model, model.lm_head
    if options.what == "sft":
        model.requires_grad_(False)
        language.requires_grad_(True)
        head.requires_grad_(True)
    else:
        model = get_peft_model(
            model, LoraConfig(r=32, lora_alpha=32, target_modules=TARGETS, use_dora=options.what == "dora"),
            autocast_adapter_dtype=False)
    model.train()
    if options.form == "compiled":
        torch._dynamo.config.cache_size_limit = 64
        for layer in language.layers:
            layer.compile()
    base = model if options.what == "sft" else model.get_base_model()
    ids, labels, more = row(options, base.config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    fused_loss = None
    if options.form == "liger":
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
        fused_loss = LigerFusedLinearCrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        here, wanted = ids.to(options.device), labels.to(options.device)
        if fused_loss is None:
            loss = model(input_ids=here, labels=wanted, use_cache=False, **more).loss
        else:
            hidden = base.model(input_ids=here, use_cache=False, **more).last_hidden_state
            loss = fused_loss(head.weight, hidden[0, :-1], wanted[0, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    first = timed(options.device, step)
    step()
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    seconds = median([timed(options.device, step) for _ in range(options.steps)])
    peak = torch.cuda.max_memory_allocated() if options.device.startswith("cuda") else None
    return dict(seconds=seconds, tokens_per_second=options.length / seconds, peak_bytes=peak, first_step_seconds=first)


def generate(options, model):
    ids, _, _ = row(options, model.config)
    ids = ids.to(options.device).repeat(options.batch, 1)
    more = {} if options.form == "plain" else dict(cache_implementation="static")

    def run(count):
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, **more)

    run(options.new)
    prefill = median([timed(options.device, lambda: run(1)) for _ in range(3)])
    if options.what == "prefill":
        return dict(seconds=prefill, tokens_per_second=options.batch * options.length / prefill)
    whole = median([timed(options.device, lambda: run(options.new)) for _ in range(3)])
    return dict(seconds=whole - prefill, tokens_per_second=options.batch * (options.new - 1) / (whole - prefill))


def main():
    options = arguments()
    transformers.logging.set_verbosity_error()
    model = load(options)
    figures = (generate if options.what in ("decode", "prefill") else train)(options, model)
    print(json.dumps(dict(what=options.what, form=options.form, torch=torch.__version__,
                          transformers=transformers.__version__, **figures)))


if __name__ == "__main__":
    main()
