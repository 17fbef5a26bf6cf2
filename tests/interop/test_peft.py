#!/usr/bin/env python3
"""Trestle against peft, live, on tiny models of tests/golden.

  .venv/bin/python tests/interop/test_peft.py --trestle build/release/trestle

Adapters that peft_test (beside the program) writes load in peft with every tensor in its place and
nothing else adapted, to the same logits; adapters that peft writes load in trestle to the same
logits, or are refused by name. Runs that trestle trains leave it as a PEFT folder and as a merged
model, and all of them have the same logits here and there. Ends with "N passed, M failed".
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file

import checks
from checks import ROOT, close, require, run, same_tensors
from goldens import models, record

GOLDEN = ROOT / "tests" / "golden"
FIXTURE = ROOT / "tests" / "fixtures" / "hf"
PICTURE = ROOT / "tests" / "image" / "golden" / "29x29.png"
LOGITS = 1e-4
# Of the fixture, whose language model and vision tower have 3 and 2 layers.
LANGUAGE_MODULES = 3 * 7
ALL_MODULES = 3 * 7 + 2 * 7 + 3
MODELS = {model.name: model for model in models.all_models() if model.name in ("tied", "untied", "text")}
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERYWHERE = NAMES + ["linear_1", "linear_2", "merging_layer"]
LANGUAGE = r".*language_model\..*\."  # the vision tower's linears bear the same names


def load_base(name):
    return models.load_model(MODELS[name], GOLDEN / name)


def golden_batch(name):
    return models.make_batch(MODELS[name])[0]


@torch.no_grad()
def logits_of(model, name):
    return record.forward(model, golden_batch(name)).logits


def exact_logits(model, name):
    """In fp64, so that none of the difference is the reference's own rounding: through all three
    parts that is half of what is allowed."""
    batch = {key: value.double() if value.is_floating_point() else value
             for key, value in golden_batch(name).items()}
    with torch.no_grad():
        return record.forward(model.double(), batch).logits


def same_logits(ours, theirs, base):
    close("logits", ours, theirs, LOGITS)
    moved = (theirs - base).abs().max().item()
    require(moved > 1e-2, f"the adapter moves the logits by {moved:.3g} only")


def adapted_modules(model):
    return {name.split(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}


def check_ours_in_peft(name, folder):
    base = load_base(name)
    plain = logits_of(base, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(base, folder)
    lost = [str(w.message) for w in caught if "adapter keys" in str(w.message)]
    require(not lost, f"peft misses tensors: {lost}")
    stored = load_file(folder / "adapter_model.safetensors")
    wanted = {key.split(".lora_A.")[0] for key in stored if ".lora_A." in key}
    require(adapted_modules(adapted) == wanted, "peft adapts other modules than the file holds")
    same_tensors("peft's tensors and the file's", peft.get_peft_model_state_dict(adapted), stored)
    ours = load_file(folder / "logits.safetensors")["logits"]
    same_logits(ours.view_as(plain), exact_logits(adapted, name), plain)


def peft_adapter(name, folder, **options):
    """A random adapter as peft saves it, and the logits of base and adapted model."""
    base = load_base(name)
    plain = logits_of(base, name)
    base.name_or_path = ""
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, **options))
    generator = torch.Generator().manual_seed(5)
    for key, parameter in adapted.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "lora_magnitude" in key:
            parameter.data = parameter.data * (1 + 0.2 * noise)
        elif ".lora_" in key:
            parameter.data = 0.1 * noise
    adapted.save_pretrained(folder)
    return plain, logits_of(adapted.eval(), name)


def check_theirs_in_trestle(trestle, name, scratch, **options):
    adapter = scratch / "adapter"
    plain, theirs = peft_adapter(name, adapter, **options)
    written, _ = checks.logits(trestle, GOLDEN / name, golden_batch(name), "--adapter-path", adapter)
    same_logits(written["logits"].view_as(plain), theirs, plain)


def check_head_of_its_own(trestle, scratch):
    """A head trained beside a tied embedding and merged: two tensors under two flags, of which the top one counts."""
    base = load_base("tied")
    plain = logits_of(base, "tied")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=LANGUAGE + "q_proj", modules_to_save=["lm_head"]))
    generator = torch.Generator().manual_seed(5)
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    merged = scratch / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    config = json.loads((merged / "config.json").read_text())
    flags = config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    require(flags == (False, True), f"peft writes other flags today: {flags}")
    theirs = logits_of(type(base).from_pretrained(merged).eval(), "tied")
    for top in (False, True):  # and both true, as other tools write
        (merged / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": top}))
        written, said = checks.logits(trestle, merged, golden_batch("tied"))
        same_logits(written["logits"].view_as(plain), theirs, plain)
        require(("taken as untied" in said) == top, f"told: {said}")


def check_refused(trestle, name, scratch, says, **options):
    adapter = scratch / "adapter"
    peft_adapter(name, adapter, **options)
    _, said = checks.logits(trestle, GOLDEN / name, golden_batch(name), "--adapter-path", adapter, status=2)
    require(says in said, f"'{says}' is not in: {said.strip()}")


def fp32_base(folder):
    """The fixture's model, tokenizer and all, in fp32: bf16 would hide what a merge does."""
    checks.write_as(FIXTURE, folder, torch.float32)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    patch = config["vision_config"]["patch_size"]
    (folder / "processor_config.json").write_text(json.dumps(
        {"patch_size": patch, "spatial_merge_size": config["spatial_merge_size"],
         "image_processor": {"patch_size": patch}}))
    return folder


def check_table(said, vision):
    """What finetune says before its first step: rows of component, module, number, rank and
    parameters, which add up to what trains; no vision tower that nobody asked for."""
    lines = [line.split() for line in said.splitlines()]
    rows = [line for line in lines if line and line[0] in ("lm", "vision", "projector")]
    require(any(row[0] == "vision" for row in rows) == vision, f"table: {rows}")
    trains = next(line[1] for line in lines if line and line[0] == "training")
    require(sum(int(row[-1].replace(",", "")) for row in rows) == int(trains.replace(",", "")),
            f"table: {rows}, but {trains} train")


def train(trestle, base, scheme, scratch, *overrides):
    """A few steps on nonsense; the run's folder, which its base lies beside."""
    picture = {"type": "image", "image": str(PICTURE)}
    rows = [{"messages": [{"role": "user",
                           "content": [picture, {"type": "text", "text": f"what is {n}"}]},
                          {"role": "assistant", "content": "it is " + "a" * n}]}
            for n in range(1, 6)]
    (scratch / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(trestle, "finetune", "--recipe", "ministral3_3b_peft_config", "--peft-scheme", scheme,
               "--dataset-type", "jsonl", "--pretrained-checkpoint", base,
               f"dataset.path_or_dataset={scratch / 'data.jsonl'}", f"checkpoint.save={scratch / 'run'}",
               "model.params_dtype=float32", "train.train_iters=8", "train.global_batch_size=4",
               "optimizer.lr=3e-2", "scheduler.lr_warmup_iters=0", "peft.dim=4", *overrides)
    check_table(done.stderr, any("vision.*" in each for each in overrides))
    return scratch / "run"


def check_commands(trestle, base, trained, folder, merged):
    """compare finds the merged model's tensors in base and adapter, and generate reads a picture
    with the adapter as with the merged model, but not as without."""
    for adapter in (trained, folder):
        run(trestle, "compare", merged, adapter, "--hf-model", base, "--no-forward",
            "--max-error", "1e-6")

    def answer(model, *adapter):
        done = run(trestle, "generate", "--hf-model-path", model, *adapter, "--prompt", "what is 2",
                   "--image-path", PICTURE, "--max-new-tokens", "12", "--dtype", "float32", "--json")
        return json.loads(done.stdout)["ids"]

    wanted = answer(merged)
    require(wanted != answer(base), "the adapter changes no token")
    for adapter in (trained, folder):
        require(answer(base, "--adapter-path", adapter) == wanted,
                f"generate: other tokens with {adapter}")


@torch.no_grad()
def check_trained_run(trestle, scheme, modules, overrides, scratch):
    """One adapter, five ways: the run, its PEFT folder, its merged model in trestle; the folder in
    peft over the base as trestle exports it, and the merged model in transformers."""
    base = fp32_base(scratch / "base")
    trained = train(trestle, base, scheme, scratch, *overrides)
    folder, merged, megatron, exported = (
        scratch / name for name in ("folder", "merged", "megatron", "exported"))
    run(trestle, "export", "--megatron-path", trained, "--adapter-only", "--hf-path", folder)
    said = run(trestle, "export", "--megatron-path", trained, "--hf-path", merged).stderr
    require("changes nothing" not in said, said)
    checks.through_megatron(trestle, base, megatron, "--hf-path", exported)

    batch = {"input_ids": torch.randint(20, 280, (2, 24), generator=torch.Generator().manual_seed(1))}
    reference = models.load_model(MODELS["tied"], exported)
    plain = reference(**batch).logits
    adapted = peft.PeftModel.from_pretrained(reference, folder)
    names = adapted_modules(adapted)
    require(len(names) == modules, f"peft adapts {len(names)} modules")
    if modules == LANGUAGE_MODULES:
        require(not [name for name in names if "vision" in name], "peft adapts the vision tower")
    theirs = adapted(**batch).logits
    for model, adapter in ((base, trained), (base, folder), (exported, folder), (merged, None)):
        ours, said = checks.logits(trestle, model, batch, *(["--adapter-path", adapter] if adapter else []))
        require("changes nothing" not in said, "the adapter is said to do nothing")
        same_logits(ours["logits"], theirs, plain)
    in_transformers = models.load_model(MODELS["tied"], merged)
    same_logits(in_transformers(**batch).logits, theirs, plain)

    check_commands(trestle, base, trained, folder, merged)

    weights = adapted.merge_and_unload().state_dict()
    for name, value in in_transformers.state_dict().items():
        close(f"{name} as peft merges it", value, weights[name], 1e-6)


def cases(trestle, ours):
    for folder in sorted(ours.glob("*/*")):
        name = folder.parent.name
        yield f"ours in peft: {name} {folder.name}", lambda _, n=name, f=folder: check_ours_in_peft(n, f)
    every = LANGUAGE + f"({'|'.join(NAMES)})"
    for title, name, options in (
            ("all linears", "tied", {"target_modules": every}),
            ("q and v", "tied", {"target_modules": LANGUAGE + "(q_proj|v_proj)"}),
            ("bare names, the vision tower's too", "tied", {"target_modules": ["q_proj"]}),
            ("all three parts", "tied", {"target_modules": EVERYWHERE}),
            ("DoRA of all three parts", "tied",
             {"target_modules": EVERYWHERE, "use_dora": True, "use_rslora": True}),
            ("DoRA of a projector with biases", "untied",
             {"target_modules": EVERYWHERE, "use_dora": True, "lora_dropout": 0.5}),
            ("vision tower and projector", "tied",
             {"target_modules": r".*vision_tower.*(k_proj|down_proj)|.*linear_2"}),
            ("text only, bare names", "text", {"target_modules": NAMES}),
            ("rsLoRA", "tied", {"target_modules": every, "use_rslora": True}),
            ("one layer", "text", {"target_modules": ["k_proj", "up_proj"],
                                   "layers_to_transform": [1]}),
            ("dropout, not used", "text", {"target_modules": NAMES, "lora_dropout": 0.5}),
            ("ranks and alphas by pattern", "tied",
             {"target_modules": every, "rank_pattern": {r".*layers\.1\..*": 2, "q_proj": 3},
              "alpha_pattern": {"mlp.up_proj": 9, "k_proj": 1}}),
            ("DoRA", "tied", {"target_modules": every, "use_dora": True}),
            ("DoRA of k and o", "text", {"target_modules": ["k_proj", "o_proj"],
                                         "use_dora": True, "lora_dropout": 0.5}),
            ("rsLoRA and DoRA, ranks by pattern", "text",
             {"target_modules": NAMES, "use_dora": True, "use_rslora": True,
              "rank_pattern": {"v_proj": 2}})):
        yield f"peft's in trestle: {title}", (
            lambda s, n=name, o=options: check_theirs_in_trestle(trestle, n, s, **o))
    yield "peft's merge of a head of its own", lambda s: check_head_of_its_own(trestle, s)
    for title, says, options in (
            ("alphas by expression", "alpha_pattern",
             {"target_modules": every, "alpha_pattern": {"[qk]_proj": 2}}),
            ("bias", "lora_bias", {"target_modules": every, "lora_bias": True}),
            ("saved modules", "modules_to_save",
             {"target_modules": every, "modules_to_save": ["lm_head"]}),
            ("pissa", "pissa", {"target_modules": every, "init_lora_weights": "pissa"})):
        yield f"refused: {title}", (
            lambda s, w=says, o=options: check_refused(trestle, "tied", s, w, **o))
    everywhere = "peft.target_modules=[lm.*, vision.*, projector.*]"
    # At a lower rate: PiSSA trains the weights' principal part.
    pissa = ("peft.lora_A_init_method=pissa", "optimizer.lr=3e-3", "optimizer.min_lr=3e-4")
    for title, scheme, modules, overrides in (
            ("lora", "lora", LANGUAGE_MODULES, ()),
            ("dora", "dora", LANGUAGE_MODULES, ()),
            ("lora of all parts", "lora", ALL_MODULES, (everywhere,)),
            ("dora of all parts", "dora", ALL_MODULES, (everywhere,)),
            ("PiSSA of all parts, LoRA+", "lora", ALL_MODULES,
             (everywhere, *pissa, "peft.lora_plus_ratio=2"))):
        yield f"a trained run, five ways: {title}", (
            lambda s, x=scheme, m=modules, o=overrides: check_trained_run(trestle, x, m, o, s))


def main():
    args = checks.parser(__doc__).parse_args()
    checks.quiet_transformers()
    counted = checks.Counted(args.only)
    with tempfile.TemporaryDirectory() as ours:
        subprocess.run([args.trestle.parent / "tests" / "peft_test", "--gtest_filter=PeftFolder.ForPeftItself"],
                       cwd=ROOT / "tests", env=os.environ | {"TRESTLE_PEFT_OUT": ours}, check=True,
                       stdout=subprocess.DEVNULL)
        for title, check in cases(args.trestle, Path(ours)):
            counted.run_in_scratch(title, check)
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
