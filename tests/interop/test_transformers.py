#!/usr/bin/env python3
"""Trestle against transformers, live, on the tiny models of tests/golden/model.

  .venv/bin/python tests/interop/test_transformers.py --trestle build/release/trestle

For each model: logits and loss of fresh inputs, in fp32 and bf16, from one file and from shards;
then HF -> Megatron -> HF, whose tensors must be equal to the bit and whose export transformers
must load, with nothing missing, to the same logits. Ends with "N passed, M failed".
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from goldens import models  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "model"
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


def same_tensors(source, exported):
    ours, theirs = tensors_of(exported), tensors_of(source)
    if ours.keys() != theirs.keys():
        raise AssertionError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
    for name, value in theirs.items():
        other = ours[name]
        if other.dtype != value.dtype or other.shape != value.shape:
            raise AssertionError(f"{name}: {other.dtype} {tuple(other.shape)}, "
                                 f"was {value.dtype} {tuple(value.shape)}")
        if not torch.equal(other.view(torch.uint8), value.view(torch.uint8)):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", required=True, help="the program to test")
    parser.add_argument("--only", default="", help="run the checks whose name holds this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    passed = failed = 0
    for model in models.all_models():
        with tempfile.TemporaryDirectory() as scratch:
            checks = Checks(str(Path(args.trestle).resolve()), model, scratch)
            for name in sorted(name for name in dir(checks) if name.startswith("check_")):
                if args.only not in f"{model.name} {name}":
                    continue
                try:
                    getattr(checks, name)()
                    passed += 1
                    print(f"ok      {model.name} {name}")
                except (AssertionError, OSError, KeyError, RuntimeError) as error:
                    failed += 1
                    print(f"FAILED  {model.name} {name}: {error}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
