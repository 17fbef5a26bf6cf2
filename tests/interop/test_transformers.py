#!/usr/bin/env python3
"""Trestle against transformers, live, on the tiny models of tests/golden and on the three official sizes' configs,
shrunk, each tied and untied.

  .venv/bin/python tests/interop/test_transformers.py --trestle build/release/trestle

For each model: logits and loss of fresh inputs, in fp32 and bf16, from one file and from shards;
then HF -> Megatron -> HF, whose tensors must be equal to the bit and whose export transformers
must load, with nothing missing, to the same logits; exports in other dtypes, FP8 included, hold what
torch and transformers' own quantiser make of the weights. Ends with "N passed, M failed".
"""

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations import finegrained_fp8

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import checks  # noqa: E402
from goldens import models  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
LOGITS, LOSS, COSINE = 1e-4, 1e-5, 0.999


def run(trestle, *arguments):
    done = subprocess.run([trestle, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(
            f"trestle {arguments[0]} exits {done.returncode}: {done.stderr.strip()}")


def trestle_logits(trestle, folder, batch, dtype="float32", megatron=None):
    with tempfile.TemporaryDirectory() as scratch:
        inputs, output = Path(scratch, "in.safetensors"), Path(scratch, "out.safetensors")
        save_file({name: value.contiguous() for name, value in batch.items()}, inputs)
        more = ["--megatron-model-path", megatron] if megatron else []
        run(trestle, "logits", "--hf-model-path", folder, "--inputs", inputs, "--output", output,
            "--dtype", dtype, *more)
        return load_file(output)


def at_most(what, measured, limit):
    if not measured <= limit:  # so that a NaN fails too
        raise AssertionError(f"{what} is {measured:.3g}, allowed {limit:g}")


def same_logits(ours, reference, what="logits"):
    if ours["logits"].shape != reference.logits.shape:
        raise AssertionError(f"{what}: shape {tuple(ours['logits'].shape)}, "
                             f"transformers has {tuple(reference.logits.shape)}")
    at_most(what, (ours["logits"] - reference.logits).abs().max().item(), LOGITS)
    at_most("loss of " + what, abs(ours["loss"].item() - reference.loss.item()), LOSS)


def tensors_of(folder):
    """Every tensor of a checkpoint, under the names transformers gives them."""
    tensors = {}
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise AssertionError(f"no model*.safetensors in {folder}")
    for file in files:
        for name, value in load_file(file).items():
            for inner, outer in models.NESTED:
                if name.startswith(outer):
                    name = inner + name[len(outer):]
                    break
            if name in tensors:
                raise AssertionError(f"{name} is stored twice")
            tensors[name] = value
    return tensors


def same_bits(one, other):
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def same_tensors(source, exported):
    ours, theirs = tensors_of(exported), tensors_of(source)
    if ours.keys() != theirs.keys():
        raise AssertionError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
    for name, value in theirs.items():
        other = ours[name]
        if other.dtype != value.dtype or other.shape != value.shape:
            raise AssertionError(f"{name}: {other.dtype} {tuple(other.shape)}, "
                                 f"was {value.dtype} {tuple(value.shape)}")
        if not same_bits(other, value):
            raise AssertionError(f"{name}: bits differ")


def write_as(source, target, dtype=None, shards=1):
    """A copy of a checkpoint in another dtype, or cut into shards with an index."""
    target.mkdir()
    for file in ("config.json", "generation_config.json"):
        shutil.copy(source / file, target)
    tensors = load_file(source / "model.safetensors")
    if dtype:
        config = json.loads((target / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (target / "config.json").write_text(json.dumps(config))
        tensors = {name: value.to(dtype) for name, value in tensors.items()}
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return target
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, target / file, {"format": "pt"})
        index |= {name: file for name in part}
    size = sum(value.nbytes for value in tensors.values())
    (target / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": size}, "weight_map": index}))
    return target


class Checks:
    """Everything that is checked of one model, each method one line of the result."""

    def __init__(self, trestle, model, scratch):
        self.trestle, self.model, self.scratch = trestle, model, Path(scratch)
        self.source = GOLDEN / model.name
        if not self.source.exists():
            self.source = self.scratch / model.name
            models.write_model(model, self.source)
        fresh = copy.copy(model)
        fresh.seed += 5000  # inputs that no golden holds
        self.batch, _ = models.make_batch(fresh)
        self.reference = self.forward(self.source)

    @torch.no_grad()
    def forward(self, folder, dtype=torch.float32):
        return models.load_model(self.model, folder, dtype)(**self.batch, use_cache=False)

    def logits(self, folder, **options):
        return trestle_logits(self.trestle, folder, self.batch, **options)

    def check_fp32(self):
        same_logits(self.logits(self.source), self.reference)

    def check_bf16(self):
        ours = self.logits(self.source, dtype="bfloat16")["logits"]
        cosine = torch.nn.functional.cosine_similarity(
            ours.flatten(), self.reference.logits.flatten(), dim=0).item()
        at_most("1 - cosine of bf16 and fp32 logits", 1 - cosine, 1 - COSINE)

    def check_shards(self):
        folder = write_as(self.source, self.scratch / "shards", shards=3)
        if not torch.equal(self.logits(folder)["logits"], self.logits(self.source)["logits"]):
            raise AssertionError("three shards and one file give different logits")

    def round_trip(self, source, name):
        megatron, exported = self.scratch / f"{name}_megatron", self.scratch / f"{name}_hf"
        run(self.trestle, "import", "--hf-model", source, "--megatron-path", megatron)
        run(self.trestle, "export", "--hf-model", source, "--megatron-path", megatron,
            "--hf-path", exported)
        same_tensors(source, exported)
        return megatron, exported

    def check_round_trip_fp32(self):
        megatron, exported = self.round_trip(self.source, "fp32")
        same_logits(
            self.logits(self.source, megatron=megatron), self.reference, "Megatron's logits")
        loaded = self.forward(exported)
        at_most("transformers' logits of the export",
                (loaded.logits - self.reference.logits).abs().max().item(), LOGITS)

    def check_round_trip_bf16(self):
        source = write_as(self.source, self.scratch / "bf16", dtype=torch.bfloat16)
        _, exported = self.round_trip(source, "bf16")
        if not torch.equal(self.forward(exported, torch.bfloat16).logits,
                           self.forward(source, torch.bfloat16).logits):
            raise AssertionError("the export has other logits than its source in transformers")

    def exported(self, source, dtype):
        folder = self.scratch / f"as_{dtype}"
        run(self.trestle, "export", "--hf-model", source, "--hf-path", folder, "--dtype", dtype)
        return folder, tensors_of(folder)

    def check_dtypes(self):
        """Values are rounded as torch rounds them, and the config says so."""
        weights = tensors_of(self.source)
        for dtype, torchs in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
            folder, tensors = self.exported(self.source, dtype)
            for name, value in weights.items():
                if not same_bits(tensors[name], value.to(torchs)):
                    raise AssertionError(f"{dtype} {name} is not torch's {torchs}")
            stated = json.loads((folder / "config.json").read_text())["dtype"]
            if stated != str(torchs).removeprefix("torch."):
                raise AssertionError(f"{dtype}: the config says {stated}")

    def check_fp8(self):
        """Weights and scales are transformers' own, which loads them to the logits that we compute."""
        source = write_as(self.source, self.scratch / "for_fp8", dtype=torch.bfloat16)
        folder, tensors = self.exported(source, "fp8")
        settings = SimpleNamespace(quantization_config=SimpleNamespace(weight_block_size=None, scale_fmt="float"))
        quantise = finegrained_fp8.Fp8Quantize(settings)._quantize_one
        expected = {}
        for name, value in tensors_of(source).items():
            is_fp8 = ".layers." in name and name.endswith("_proj.weight") and "vision_tower" not in name
            for key, made in (quantise(name, value) if is_fp8 else {name: value}).items():
                expected[key] = made.reshape(()) if key.endswith("_scale_inv") else made
        if tensors.keys() != expected.keys():
            raise AssertionError(f"names differ: {sorted(tensors.keys() ^ expected.keys())[:4]}")
        for name, value in expected.items():
            ours = tensors[name]
            if ours.dtype != value.dtype or ours.shape != value.shape or not same_bits(ours, value):
                raise AssertionError(f"{name} differs from transformers' {value.dtype}")
        ours = self.logits(folder, dtype="float32")["logits"]
        with torch.no_grad():
            loaded = models.model_class(self.model).from_pretrained(
                folder, dtype=torch.bfloat16, attn_implementation="eager",
                quantization_config=transformers.FineGrainedFP8Config(dequantize=True)).float().eval()
            theirs = loaded(**self.batch, use_cache=False).logits
        at_most("the logits of the FP8 export", (ours - theirs).abs().max().item(), LOGITS)


def official_sizes():
    """3B, 8B and 14B with every size divided, and their rope as it is."""
    rope = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16384,
            "max_position_embeddings": 262144, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1}
    sizes = (("3b", 3072, 9216, 26, 1e6), ("8b", 4096, 14336, 34, 1e6), ("14b", 5120, 16384, 40, 1e9))
    for seed, (name, hidden, ffn, layers, theta) in enumerate(sizes):
        for tied in (True, False):
            text = models.text_config("ministral3", tied, hidden_size=hidden // 64, intermediate_size=ffn // 64,
                                      num_hidden_layers=layers // 8, num_attention_heads=8, num_key_value_heads=2, head_dim=16,
                                      max_position_embeddings=262144, rope_parameters=rope | {"rope_theta": theta})
            yield models.Model(f"{name}_{'tied' if tied else 'untied'}", models.mistral3(text, models.vision_config(14, layers=3)),
                               models.NESTED, 60 + seed, [[(56, 84)], []], embed_std=0.15)


def main():
    args = checks.parser(__doc__).parse_args()
    checks.quiet_transformers()
    counted = checks.Counted(args.only)
    for model in [*models.all_models(), *official_sizes()]:
        with tempfile.TemporaryDirectory() as scratch:
            counted.run_methods(Checks(str(args.trestle), model, scratch), model.name)
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
