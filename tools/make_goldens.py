#!/usr/bin/env python3
"""Writes tests/golden: tiny models and what transformers and peft make of them.

  .venv/bin/python tools/make_goldens.py [--only NAME ...]

See tools/goldens/README.md for the files, the names in them and their shapes.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from goldens import checks, kin, lora, models, record, runs  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"


def write(path, tensors, **metadata):
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    path.write_bytes(save(tensors, {"format": "pt", **metadata}))
    print(f"  {path.relative_to(ROOT)}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def make_model(model):
    folder = GOLDEN / model.name
    models.write_model(model, folder)
    reference = models.load_model(model, folder)
    batch, prompt = models.make_batch(model)
    checks.check_terms_show(reference, batch)

    golden, stages = record.forward_and_gradients(reference, batch, model.disk_name)
    golden |= record.rope(reference, batch["input_ids"].shape[1])
    golden |= record.greedy(reference, prompt)
    trained = copy.deepcopy(reference)
    golden |= record.train(trained, batch, list(trained.parameters()), 1e-3, 0.1)
    checks.check_rounding(reference, batch, model.disk_name, golden)
    write(folder / "golden.safetensors", batch | golden, stages="\n".join(stages))


def make_padded(model):
    """Two sequences of different lengths, padded to the right: the loss is the mean over the
    targets of both, not the mean of two means."""
    folder = GOLDEN / model.name
    reference = models.load_model(model, folder)
    model = copy.copy(model)
    model.lengths, model.seed = [64, 41], model.seed + 100
    batch, _ = models.make_batch(model)
    # Causal attention hides padding on the right, so the mask changes no logits that count.
    masked = record.forward(reference, batch).logits[1, :41]
    plain = record.forward(reference, {"input_ids": batch["input_ids"]}).logits[1, :41]
    assert (masked - plain).abs().max() < 1e-5
    golden, _ = record.forward_and_gradients(reference, batch, model.disk_name)
    golden = {name: golden[name] for name in ("logits", "loss")}
    golden |= record.train(reference, batch, list(reference.parameters()), 1e-3, 0.1)
    write(folder / "padded.safetensors", batch | golden)


def make_bf16(model):
    """The same forward with weights and activations in bfloat16; logits stored as fp32."""
    folder = GOLDEN / model.name
    batch, _ = models.make_batch(model)
    exact = record.forward(models.load_model(model, folder), batch).logits
    half = record.forward(models.load_model(model, folder, torch.bfloat16), batch).logits.float()
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(), half.flatten(), dim=0).item()
    print(f"    cosine of the logits in bf16 and fp32: {cosine:.6f}")
    assert cosine > 0.999
    write(folder / "bf16.safetensors", {"logits": half})


def make_lora(model):
    """Adapters on the language model: LoRA in peft's form and in Megatron's with its shared A, and
    peft's DoRA."""
    folder = GOLDEN / model.name
    batch, _ = models.make_batch(model)
    plain = record.forward(models.load_model(model, folder), batch).logits
    for form, make in (("lora", lora.separate), ("lora_shared", lora.shared), ("dora", lora.dora),
                       ("lora_everywhere", lora.lora_everywhere),
                       ("dora_everywhere", lora.dora_everywhere)):
        target = folder / form
        golden = make(models.load_model(model, folder), batch, target, model.seed)
        moved = (golden["logits"] - plain).abs().max().item()
        print(f"    {form}: moves the logits by {moved:.3g}; losses", golden["losses"].tolist())
        assert moved > checks.VISIBLE
        with tempfile.TemporaryDirectory() as scratch:
            exact = make(models.load_model(model, folder, torch.float64), checks.in_fp64(batch),
                         Path(scratch), model.seed)
        checks.compare(golden, exact)
        if form == "lora_shared":
            lora.check_shared(models.load_model(model, folder), target, batch, golden)
        write(target / "golden.safetensors", golden)


def make_starts(model):
    """Other starts and rates: PiSSA of every linear, rank-stabilised too, and LoRA+ from the
    adapters of make_lora."""
    folder = GOLDEN / model.name
    batch, _ = models.make_batch(model)

    def fresh():
        return models.load_model(model, folder)

    pissa = lora.train_pissa(fresh(), batch)
    kept = ("layers.0.self_attn.q_proj", "layers.2.mlp.down_proj", "layers.1.attention.v_proj",
            "merging_layer")
    golden = {f"pissa.{name}": value for name, value in pissa.items()
              if not name.startswith(("residual.", "update.")) or name.endswith(kept)}
    scaled = lora.train_pissa(fresh(), batch, use_rslora=True)
    golden["pissa_rslora.losses"] = scaled["losses"]
    for form in ("lora_everywhere", "dora_everywhere"):
        trained = lora.train_lora_plus(fresh(), batch, folder / form, ratio=4.0)
        golden[f"lora_plus.{form}.losses"] = trained["losses"]
    for name, value in golden.items():
        if name.endswith("losses"):
            print(f"    {name}: {value.tolist()}")
    write(folder / "starts.safetensors", golden)


def make_runs(model):
    """Whole runs: with frozen parts, and packed ones."""
    folder = GOLDEN / model.name
    batch, _ = models.make_batch(model)
    if model.name == "tied":
        towers = folder / "lora_towers"
        golden = lora.lora_towers(models.load_model(model, folder), batch, towers, model.seed)
        write(towers / "golden.safetensors", golden)
        write(folder / "packed_lora.safetensors", runs.packed_lora(model, folder))
        return
    write(folder / "frozen.safetensors", runs.frozen(lambda: models.load_model(model, folder), batch))
    write(folder / "packed.safetensors", runs.packed_full(model, folder))


def make_kin(model):
    """The other models of the family, less of each."""
    golden = kin.make(model, GOLDEN / model.name)
    write(GOLDEN / model.name / "golden.safetensors", golden)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", help="the models to make: tied untied mistral text kin/medium_3_5 ...")
    parser.add_argument("--runs", action="store_true", help="only the files of make_runs")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation, whatever the machine
    transformers.logging.disable_progress_bar()
    for model in kin.all_models():
        if not args.runs and (not args.only or model.name in args.only):
            print(model.name)
            make_kin(model)
    for model in models.all_models():
        if args.only and model.name not in args.only:
            continue
        print(model.name)
        if not args.runs:
            make_model(model)
        if model.name == "tied" and not args.runs:
            make_bf16(model)
            make_lora(model)
            make_starts(model)
        if model.name == "text" and not args.runs:
            make_padded(model)
        if model.name in ("tied", "untied"):
            make_runs(model)


if __name__ == "__main__":
    main()
