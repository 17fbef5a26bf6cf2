#!/usr/bin/env python3
"""Trestle against transformers, live, on the tiny models of tests/golden, their kin included, and on the three official
sizes' configs, shrunk, each tied and untied.

  .venv/bin/python tests/interop/test_transformers.py --trestle build/release/trestle

For each model: logits and loss of fresh inputs, in fp32 and bf16, from one file and from shards;
then HF -> Megatron -> HF, whose tensors must be equal to the bit and whose export transformers
must load, with nothing missing, to the same logits; exports in other dtypes, FP8 included, hold what
torch and transformers' own quantiser make of the weights. Ends with "N passed, M failed".
"""

import copy
import json
import sys
from types import SimpleNamespace

import torch
import transformers
from transformers.integrations import finegrained_fp8

import checks
from checks import at_most, close, require, run, same_tensors
from goldens import kin, models

GOLDEN = checks.ROOT / "tests" / "golden"
LOGITS, LOSS, COSINE = 1e-4, 1e-5, 0.999


def same_logits(ours, reference, what="logits"):
    close(what, ours["logits"], reference.logits, LOGITS)
    at_most("loss of " + what, abs(ours["loss"].item() - reference.loss.item()), LOSS)


def tensors_of(folder):
    """Every tensor of a checkpoint, under the names transformers gives them."""
    return checks.inner_names(checks.weights_of(folder, "model"), models.NESTED)


class Checks:
    """Everything that is checked of one model, each method one line of the result."""

    def __init__(self, trestle, model, scratch):
        self.trestle, self.model, self.scratch = trestle, model, scratch
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

    def logits(self, folder, *more, **options):
        return checks.logits(self.trestle, folder, self.batch, *more, **options)[0]

    def check_fp32(self):
        same_logits(self.logits(self.source), self.reference)

    def check_bf16(self):
        ours = self.logits(self.source, dtype="bfloat16")["logits"]
        cosine = torch.nn.functional.cosine_similarity(
            ours.flatten(), self.reference.logits.flatten(), dim=0).item()
        at_most("1 - cosine of bf16 and fp32 logits", 1 - cosine, 1 - COSINE)

    def check_shards(self):
        folder = checks.write_as(self.source, self.scratch / "shards", shards=3)
        require(torch.equal(self.logits(folder)["logits"], self.logits(self.source)["logits"]),
                "three shards and one file give different logits")

    def round_trip(self, source, name):
        megatron, exported = self.scratch / f"{name}_megatron", self.scratch / f"{name}_hf"
        checks.through_megatron(self.trestle, source, megatron, "--hf-model", source, "--hf-path", exported)
        same_tensors("the export", tensors_of(exported), tensors_of(source))
        return megatron, exported

    def check_round_trip_fp32(self):
        megatron, exported = self.round_trip(self.source, "fp32")
        same_logits(self.logits(self.source, "--megatron-model-path", megatron), self.reference, "Megatron's logits")
        close("transformers' logits of the export", self.forward(exported).logits, self.reference.logits, LOGITS)

    def check_round_trip_bf16(self):
        source = checks.write_as(self.source, self.scratch / "bf16", torch.bfloat16)
        _, exported = self.round_trip(source, "bf16")
        require(torch.equal(*(self.forward(folder, torch.bfloat16).logits for folder in (exported, source))),
                "the export has other logits than its source in transformers")

    def exported(self, source, dtype):
        folder = self.scratch / f"as_{dtype}"
        run(self.trestle, "export", "--hf-model", source, "--hf-path", folder, "--dtype", dtype)
        return folder, tensors_of(folder)

    def check_dtypes(self):
        """Values are rounded as torch rounds them, and the config says so."""
        weights = tensors_of(self.source)
        for dtype, torchs in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
            folder, tensors = self.exported(self.source, dtype)
            rounded = {name: value.to(torchs) for name, value in weights.items()}
            same_tensors(f"{dtype} as torch rounds", tensors, rounded)
            stated = json.loads((folder / "config.json").read_text())["dtype"]
            require(stated == str(torchs).removeprefix("torch."), f"{dtype}: the config says {stated}")

    def check_fp8(self):
        """Weights and scales are transformers' own, which loads them to the logits that we compute."""
        source = checks.write_as(self.source, self.scratch / "for_fp8", torch.bfloat16)
        folder, tensors = self.exported(source, "fp8")
        settings = SimpleNamespace(quantization_config=SimpleNamespace(weight_block_size=None, scale_fmt="float"))
        quantise = finegrained_fp8.Fp8Quantize(settings)._quantize_one
        expected = {}
        for name, value in tensors_of(source).items():
            is_fp8 = ".layers." in name and name.endswith("_proj.weight") and "vision_tower" not in name
            for key, made in (quantise(name, value) if is_fp8 else {name: value}).items():
                expected[key] = made.reshape(()) if key.endswith("_scale_inv") else made
        same_tensors("FP8 as transformers quantises", tensors, expected)
        ours, kept = (self.logits(folder, "--base-bits", bits)["logits"] for bits in ("16", "fp8"))
        with torch.no_grad():
            loaded = models.model_class(self.model).from_pretrained(
                folder, dtype=torch.bfloat16, attn_implementation="eager",
                quantization_config=transformers.FineGrainedFP8Config(dequantize=True)).float().eval()
            theirs = loaded(**self.batch, use_cache=False).logits
        close("the logits of the FP8 export", ours, theirs, LOGITS)
        close("its logits on weights that stay FP8", kept, theirs, LOGITS)


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
    for model in [*models.all_models(), *kin.all_models(), *official_sizes()]:
        counted.run_methods(lambda scratch: Checks(args.trestle, model, scratch), model.name)
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
