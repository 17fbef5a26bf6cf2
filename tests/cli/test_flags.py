#!/usr/bin/env python3
"""Every flag of every command has its effect or is refused: each is tried on real input, in the ways of its command
that it is for and in those that it is not for, and what must differ is named. A flag of the program that is not in
the table below fails, and an entry of the table that the program does not know.

  .venv/bin/python tests/cli/test_flags.py --trestle build/release/trestle [Flags.test_generate ...]
"""

import json
import re
import shutil
import unittest
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import script
from test_bad_input import EFFORT, edit_json, make_v15
from walk import (ABSENT, Changed, Fails, Gains, Loses, Needed, Refused, Trial, Walk, err, file, files, metric, out, trained)

TESTS = Path(__file__).resolve().parent.parent
HF, TIED, MISTRAL = (TESTS / "fixtures" / name for name in ("hf", "hf_tied", "mistral"))
MEGATRON = TESTS / "fixtures" / "megatron"
LORA, PEFT, SFT = MEGATRON / "lora", MEGATRON / "adapter_lora", MEGATRON / "sft"
DEMO, RECEIPTS = (TESTS.parent / "assets" / "demo" / name for name in ("model", "data"))
PICTURE = TESTS / "image" / "golden" / "exact_28x56.png"
DATASETS = TESTS / "data" / "golden"

TALK = json.dumps({"messages": [{"role": "user", "content": "ab"}]})
LOGITS = file("out.safetensors")
NOTHING = "has no effect"
FROZEN = Gains(err, "adapters freeze the whole base")
MANY = Gains(err, "this one process holds the whole model")
ON_HUB = {"--data": "org/set", "--split": "train"}  # in the cache, with the subsets default and other
NO_SETTINGS = "is of layout v13, which has no settings"


class At(str):
    """A path below the scratch folder of the test."""


NOISY, NOISY_RUN, NAN, ADAPTER, BOTH, FEW, FEWER, ROWS, GGUF, SETTINGS, IN_INT4 = map(At, (
    "noisy", "noisy_run", "nan", "adapter", "both", "few", "fewer", "few/data/train.parquet", "model.gguf", "settings", "in_int4"))
INPUTS, OTHER_INPUTS, TURNED, LINES, CONFIG, CONFIG_SAVE, PLANNED, REHEARSED, TEXT_ONLY = map(At, (
    "inputs.safetensors", "other.safetensors", "turned.jpg", "talk.jsonl", "config.yaml", "save.yaml", "plan.yaml", "rehearse.yaml", "text"))
# Of a machine, instead of what is measured.
RATES = {"--flops": "1T", "--bandwidth": "10GB/s", "--memory": "8GB"}

# Of finetune: a key's value may be a path too.
KEYS = ["train.micro_batch_size=2", "scheduler.lr_warmup_iters=0", "checkpoint.save=run"]
DATA = ("dataset.path_or_dataset", ROWS)


def keys(*more, data=DATA):
    return {"overrides": [*KEYS, data, *more]}


MODEL_LOGITS = {"--hf-model-path": DEMO, "--inputs": INPUTS, "--output": "out.safetensors"}
CHECK = {"--hf-model-path": DEMO, "--data": RECEIPTS, "--split": "test", "--rows": 3, "--json": True}
SHOW = {"--hf-model-path": DEMO, "--data": RECEIPTS, "--split": "test", "--rows": 2, "--output": "page.html"}
USUAL = {
    "import": {"--hf-model": HF, "--megatron-path": "out"},
    "export": {"--hf-model": HF, "--hf-path": "out"},
    "quantize": {"--hf-model": HF, "--output-path": "out", "--weights": "int8"},
    "generate": {"--hf-model-path": DEMO, "--prompt": "Hello", "--max-new-tokens": 8},
    "evaluate": {"--hf-model-path": DEMO, "--data": RECEIPTS, "--rows": 2, "--max-new-tokens": 24, "--json": True},
    "data check": CHECK,
    "data show": SHOW,
    "recipes": {},
    "inspect": {"path": HF},
    "compare": {"a": HF, "b": TIED},
    "logits": MODEL_LOGITS,
    "tokenize": {"--tokenizer": DEMO},
    "plan": {"--hf-model-path": DEMO, "--gpus": 8},
    "rehearse": {"--recipe": "demo_config", "--hf-model-path": DEMO, "--steps": 1, "--json": True},
    "preprocess": {"--image-path": PICTURE, "--output": "out.safetensors"},
    "demo": {"--assets": FEW, "--output": "work", "--report": "page.html", "--steps": 1},
    "finetune": {"--recipe": "demo_config", "--pretrained-checkpoint": DEMO, "--train-iters": 2, "--global-batch-size": 2,
                 "overrides": [*KEYS, DATA]},
    "launch": {"--nproc-per-node": 1, "--": True, "of the ranks": ["finetune", "--print-config"]},
}
BEHIND = ("--", "of the ranks")  # the last words of a line

# --format of a command that reads `given`: a directory with two forms, and one with one.
def of_format(given, more=None):
    return [Trial("mistral", Gains(err, "reading the Mistral form"), {given: BOTH} | (more or {})),
            Trial("mistral", Refused("holds no such checkpoint"), {given: HF})]


# Of a build without CUDA, as the tests' is.
ON_DEVICE = [Trial("cuda", Refused("this build has no CUDA")), Trial("gpu", Refused("must be auto, cpu, cuda or cuda:N"))]


# The flags of model_flags, seen in `view`.
def of_model(view, unlike=None):
    """`unlike`: what it takes until a rounding shows."""
    return {
        "--hf-model-path": [Trial(NOISY, Changed(view)), Trial(DEMO, Needed("give --hf-model-path or")),
                            Trial(DEMO, Refused(NOTHING), {"--hf-model-path": ABSENT, "--megatron-model-path": DEMO})],
        "--megatron-model-path": [Trial(NOISY_RUN, Changed(view)), Trial(DEMO, Refused(NOTHING))],
        "--adapter-path": [Trial(ADAPTER, Changed(view))],
        "--dtype": [Trial("float32", Changed(view), unlike or {})],
        "--weights": [*(Trial(form, Changed(view)) for form in (4, "int4")), *(Trial(form, Changed(view), unlike or {}) for form in (8, "int8")),
                      Trial("fp8", Refused("no projection of the model is in FP8")),
                      Trial("bf16", Refused("two dtypes"), {"--dtype": "float32"}),
                      Trial("int8", Refused("packed in int4"), {"--hf-model-path": IN_INT4})],
        # Its older names.
        **{name: [Trial(4, Changed(view))] for name in ("--base-bits", "--base_bits")},
        "--format": [Trial("mistral", Gains(err, "reading the Mistral form"), {"--hf-model-path": BOTH}),
                     Trial("mistral", Refused("holds no such checkpoint"))],
        "--device": ON_DEVICE,
    }


def of_images(view, given, none):
    """`none`: arguments with which there is no picture."""
    return {"--image-max-edge": [Trial(28, Changed(view), given), Trial(28, Refused(NOTHING), none)],
            "--image-max-tokens": [Trial(2, Changed(view), given), Trial(2, Refused(NOTHING), none)]}


# Of how answers are computed: seen in what is told, since the answers are the same.
DECODING = {
    "--prefill-chunk-size": [Trial(20, Gains(err, "in 2 chunks"), {"--prompt": "one two three four five six seven"})],
    "--prompt-lookup-num-tokens": [
        Trial(3, Gains(err, "proposed tokens accepted"), {"--prompt": "one one one one", "--dtype": "float32"}),
        Trial(0, Loses(err, "proposed tokens accepted"), {"--prompt": "one one one one"})],
    "--no-speculation": [Trial(True, Loses(err, "proposed tokens accepted"), {"--prompt": "one one one one"}),
                         Trial(True, Refused("excludes"), {"--prompt-lookup-num-tokens": 3})]}


def of_data(view):
    beside_a_file = {"--data": RECEIPTS / "test.parquet", "--split": ABSENT}
    vqa = {"--data": DATASETS / "own-vqa-train.parquet", "--split": ABSENT}
    return {
        "--hf-model-path": [Trial(NOISY, Changed(view)), Trial(DEMO, Needed("--hf-model-path is required"))],
        "--maker": [Trial("parquet", Needed("test"), vqa)],
        "--data": [Trial(RECEIPTS / "train.parquet", Changed(view), beside_a_file), Trial(RECEIPTS, Needed("--data is required"))],
        "--split": [Trial("train", Changed(view)), Trial("train", Refused(NOTHING), beside_a_file)],
        "--subset": [Trial("other", Changed(view), ON_HUB), Trial("other", Refused(NOTHING))],
        "--rows": [Trial(1, Changed(view))],
        "--seq-length": [Trial(50, Changed(view))],
        "--image-max-edge": [Trial(28, Changed(view))],
        "--image-max-tokens": [Trial(2, Changed(view))],
    }


TO_GGUF = {"--hf-model": DEMO, "--hf-path": ABSENT, "--gguf-path": "out"}
PEFT_OUT = {"--adapter-path": PEFT, "--adapter-only": True}
WEIGHTS = file("out/model.safetensors")
PACKED = file("out/packed.safetensors")
DRAWN = {"--temperature": 3, "--max-new-tokens": 16}
TWO_GGUF = {"a": GGUF, "b": GGUF}
SAYS = {"--chat": True}
FULL = {"--peft-scheme": "none"}
LOSS = metric("loss")

TABLE = {
    "import": {
        "--hf-model": [Trial(TIED, Changed(file("out/iter_0000000/__0_0.distcp"))), Trial(HF, Needed("--hf-model is required"))],
        "--megatron-path": [Trial("other", Gains(files, "other/iter_0000000/metadata.json")),
                            Trial("out", Needed("--megatron-path is required"))],
        "--tensor-model-parallel-size": [Trial(2, Changed(file("out/iter_0000000/.metadata")))],
        "--pipeline-model-parallel-size": [Trial(3, Changed(files))],
        "--max-memory": [Trial("1KB", Refused("--max-memory"))],
        "--format": of_format("--hf-model"),
    },
    "export": {
        "--hf-model": [Trial(TIED, Changed(WEIGHTS)), Trial(HF, Needed("give --megatron-path, --adapter-path or --hf-model"))],
        "--megatron-path": [
            Trial(SFT, Changed(WEIGHTS)), Trial(HF, Refused("--megatron-path")),
            Trial(MEGATRON / "import", Refused("--megatron-path " + str(MEGATRON / "import") + " has no effect"), PEFT_OUT)],
        "--adapter-path": [Trial(PEFT, Changed(WEIGHTS))],
        "--adapter-only": [Trial(True, Gains(files, "out/adapter_model.safetensors"), {"--adapter-path": PEFT}),
                           Trial(True, Refused("no adapter"))],
        "--hf-path": [Trial("other", Gains(files, "other/model.safetensors")), Trial("out", Needed("give one of --hf-path"))],
        "--mistral-path": [Trial("out", Needed("give one of --hf-path"), {"--hf-model": MISTRAL, "--hf-path": ABSENT}),
                           Trial("other", Refused("give one of --hf-path"))],
        "--gguf-path": [Trial("out", Needed("give one of --hf-path"), {"--hf-path": ABSENT}),
                        Trial("other", Refused("give one of --hf-path"))],
        "--gguf-type": [Trial("q8_0", Gains(files, "-Q8_0.gguf"), TO_GGUF), Trial("q8_0", Refused("--gguf-path"))],
        "--dtype": [Trial("f32", Changed(WEIGHTS)), Trial("f16", Refused("--gguf-path"), TO_GGUF),
                    Trial("fp8", Refused("--hf-path only"), {"--hf-model": MISTRAL, "--hf-path": ABSENT, "--mistral-path": "out"}),
                    Trial("f32", Refused(NOTHING), PEFT_OUT)],
        "--max-shard-size": [Trial("20KB", Gains(files, "out/model-00001-of-")), Trial("20KB", Refused("--gguf-path"), TO_GGUF),
                             Trial("20KB", Refused(NOTHING), PEFT_OUT)],
        "--layout": [Trial("tf5", Changed(WEIGHTS)), Trial("tf5", Refused("--hf-path"), TO_GGUF),
                     Trial("tf5", Refused(NOTHING), PEFT_OUT), Trial("tf5", Refused(NOTHING), {"--hf-model": TEXT_ONLY})],
        "--verify": [Trial(True, Gains(err, "verified: "), {"--no-verify": True})],
        "--no-verify": [Trial(True, Loses(err, "verified: ")), Trial(True, Loses(err, "verified: "), PEFT_OUT)],
        "--max-memory": [Trial("1KB", Refused("--max-memory")), Trial("1GB", Refused(NOTHING), PEFT_OUT)],
        "--format": of_format("--hf-model") + [
            Trial("hf", Refused(NOTHING), PEFT_OUT),
            Trial("mistral", Refused("holds no such checkpoint"), {"--hf-model": ABSENT, "--megatron-path": LORA}),
            Trial("mistral", Gains(err, "reading the Mistral form"), {"--hf-model": BOTH, "--adapter-path": ADAPTER})],
    },
    "quantize": {
        "--hf-model": [Trial(TIED, Changed(PACKED)), Trial(HF, Needed("give --megatron-path, --adapter-path or --hf-model"))],
        "--megatron-path": [Trial(SFT, Changed(PACKED)), Trial(HF, Refused("--megatron-path"))],
        "--adapter-path": [Trial(PEFT, Changed(PACKED))],
        "--output-path": [Trial("other", Gains(files, "other/packed.safetensors")), Trial("out", Needed("--output-path is required"))],
        "--weights": [*(Trial(form, Changed(PACKED)) for form in ("bf16", "int4")), Trial("int8", Needed("--weights is required")),
                      Trial("nf4", Refused("bf16, int8, int4"))],
        "--verify": [Trial(True, Gains(err, "verified: "), {"--no-verify": True})],
        "--no-verify": [Trial(True, Loses(err, "verified: "))],
        "--max-memory": [Trial("1KB", Refused("--max-memory"))],
        "--format": of_format("--hf-model"),
    },
    "generate": of_model(out, {"--temperature": 2, "--max-new-tokens": 64}) | of_images(out, {"--image-path": PICTURE, "--json": True}, {}) | {
        "--image-path": [Trial(PICTURE, Changed(out))],
        "--prompt": [Trial("Bye", Changed(out)), Trial("Hello", Needed("--prompt is required"))],
        "--system-prompt": [Trial("Be brief.", Changed(out), {"--json": True})],
        "--reasoning-effort": [Trial("high", Changed(out), {"--hf-model-path": SETTINGS, "--json": True}),
                               Trial("low", Refused("takes none, high"), {"--hf-model-path": SETTINGS}),
                               Trial("none", Refused(NO_SETTINGS))],
        "--max-new-tokens": [Trial(3, Changed(out))],
        "--temperature": [Trial(3, Changed(out))],
        "--top-k": [Trial(1, Changed(out), DRAWN), Trial(1, Refused(NOTHING))],
        "--top-p": [Trial(0.01, Changed(out), DRAWN), Trial(0.5, Refused(NOTHING)), Trial(0.5, Refused(NOTHING), {"--temperature": 0})],
        "--min-p": [Trial(1, Changed(out), DRAWN), Trial(0.5, Refused(NOTHING))],
        "--seed": [Trial(7, Changed(out), DRAWN), Trial(0, Refused(NOTHING))],
        **DECODING,
        "--logprobs": [Trial(3, Gains(out, "likeliest")), Trial(3, Gains(out, '"top_logprobs"'), {"--json": True})],
        "--json": [Trial(True, Gains(out, '"finish_reason"'))],
    },
    "evaluate": of_model(out, {"--image-max-edge": 28, "--rows": 12}) | of_images(out, {}, {"--hf-model-path": TEXT_ONLY, "--maker": "jsonl", "--data": LINES}) | {
        "--maker": [Trial("parquet", Needed("own-vqa"), {"--data": DATASETS / "own-vqa-train.parquet"})],
        "--data": [Trial(RECEIPTS / "train.parquet", Changed(out)), Trial(RECEIPTS, Needed("--data is required"))],
        "--split": [Trial("train", Changed(out)), Trial("test", Refused(NOTHING), {"--data": RECEIPTS / "test.parquet"})],
        "--subset": [Trial("other", Changed(out), ON_HUB), Trial("other", Refused(NOTHING))],
        "--rows": [Trial(1, Changed(out))],
        "--batch-size": [Trial(1, Gains(err, "1 rows answered"))],
        "--prefill-chunk-size": [Trial(100, Gains(err, "chunks"))],
        "--prompt-lookup-num-tokens": [Trial(3, Gains(err, "proposed tokens accepted"), {"--dtype": "float32"})],
        "--no-speculation": [Trial(True, Loses(err, "proposed tokens accepted"))],
        "--reasoning-effort": [Trial("high", Changed(out), {"--hf-model-path": SETTINGS}), Trial("high", Refused(NO_SETTINGS))],
        "--max-new-tokens": [Trial(3, Changed(out))],
        "--json": [Trial(True, Gains(out, '"answers"'), {"--rows": 1})],
    },
    "data check": of_data(out) | {"--json": [Trial(True, Gains(out, '"turns_with_eos"'), {"--json": ABSENT})]},
    "data show": of_data(file("page.html")) | {
        "--output": [Trial("other.html", Gains(files, "other.html")), Trial("page.html", Needed("--output is required"))]},
    "recipes": {"name": [Trial("demo_config", Gains(out, "peft:"))],
                "--keys": [Trial(True, Gains(out, "| `peft.dim` |")), Trial(True, Refused("name"), {"name": "demo_config"})],
                "--bridge-keys": [Trial(True, Gains(out, "| `ddp.*` |")), Trial(True, Refused("--keys"), {"--keys": True})]},
    "inspect": {
        "path": [Trial(TIED, Changed(out)), Trial(HF, Needed("path is required"))],
        "--check": [Trial(True, Gains(out, "ok: "))],
        "--json": [Trial(True, Gains(out, '"kind"')), Trial(True, Gains(out, '"problems"'), {"--check": True}),
                   Trial(True, Gains(out, '"bf16_products"'), {"path": ABSENT, "--cpu": True})],
        "--sha256": [Trial(True, Gains(out, "sha256")), Trial(True, Refused("--check"), {"--check": True})],
        "--cpu": [Trial(True, Needed("path is required"), {"path": ABSENT})] + [
            Trial(True, Refused("excludes --cpu"), more) for more in ({}, {"--check": True}, {"--sha256": True}, {"--format": "hf"})],
        "--format": of_format("path") + [
            Trial(form, Refused(NOTHING), {"path": path} | more)
            for path in (PEFT, HF / "model.safetensors", GGUF) for form, more in (("hf", {}), ("mistral", {"--check": True}))
            if path is not GGUF or not more],
    },
    "compare": {
        "a": [Trial(TIED, Changed(out))],
        "b": [Trial(HF, Changed(out)), Trial(TIED, Needed("b is required"))],
        "--hf-model": [Trial(HF, Needed("--hf-model"), {"a": PEFT}), Trial(HF, Refused(NOTHING)),
                       Trial(DEMO, Refused("text_config.hidden_size=192"), {"a": MEGATRON / "import"})],
        "--forward": [Trial(True, Gains(out, "KL("), {"--no-forward": True}), Trial(True, Refused(NOTHING), {"b": DEMO})],
        "--no-forward": [Trial(True, Loses(out, "KL("))],
        "--prompt": [Trial("Bye", Gains(out, "asked: Bye")), Trial("Bye", Refused(NOTHING), {"--no-forward": True}),
                     Trial("Bye", Refused(NOTHING), {"--max-new-tokens": 0}), Trial("Bye", Refused(NOTHING), {"b": DEMO}),
                     Trial("Bye", Refused(NOTHING), TWO_GGUF)],
        "--max-new-tokens": [Trial(0, Loses(out, "asked: ")), Trial(3, Refused(NOTHING), {"--no-forward": True}),
                             Trial(3, Refused(NOTHING), {"b": DEMO}), Trial(3, Refused(NOTHING), TWO_GGUF)],
        "--max-error": [Trial(0, Fails("--max-error 0 allows no more"))],
        "--all": [Trial(True, Changed(out)), Trial(True, Refused(NOTHING), {"--json": True})],
        "--json": [Trial(True, Gains(out, '"tensors"'))],
        "--html": [Trial("page.html", Gains(files, "page.html"))],
        "--format": of_format("a", more={"b": BOTH}) + [Trial("hf", Refused(NOTHING), TWO_GGUF),
                                      Trial("mistral", Refused("holds no such"), {"a": PEFT, "b": LORA, "--hf-model": HF})],
        "--device": ON_DEVICE + [Trial("cpu", Refused(NOTHING), more) for more in ({"--no-forward": True}, {"b": DEMO})],
    },
    "logits": of_model(LOGITS) | {
        "--inputs": [Trial(OTHER_INPUTS, Changed(LOGITS)), Trial(INPUTS, Needed("--inputs is required"))],
        "--output": [Trial("other.safetensors", Gains(files, "other.safetensors")),
                     Trial("out.safetensors", Needed("--output is required"))],
    },
    "tokenize": {
        "--tokenizer": [Trial(HF, Changed(out), stdin='{"text": "Hello"}'), Trial(DEMO, Needed("--tokenizer is required"))],
        "--chat": [Trial(True, Gains(out, '"mask"'), stdin=TALK)],
        "--system-prompt": [Trial("Be brief.", Changed(out), SAYS, stdin=TALK), Trial("none", Refused("--chat"))],
        "--reasoning-effort": [
            Trial("high", Changed(out), SAYS | {"--tokenizer": SETTINGS}, stdin=TALK), Trial("high", Refused("--chat")),
            Trial("low", Refused("takes none, high"), SAYS | {"--tokenizer": SETTINGS}, stdin=TALK),
            Trial("none", Refused(NO_SETTINGS), SAYS, stdin=TALK)],
        "--decode": [Trial(True, Gains(out, '"text"'), stdin='{"ids": [300]}'), Trial(True, Refused("--chat"), SAYS)],
        "--keep-special": [Trial(True, Gains(out, "[INST]"), {"--decode": True}, stdin='{"ids": [1, 3]}'),
                           Trial(True, Refused("--decode"))],
    },
    "rehearse": {
        "--recipe": [Trial("ministral3_3b_peft_config", Changed(out))],
        "--model": [Trial("ministral3_8b", Changed(out), {"--recipe": ABSENT, "--mode": "lora", "--hf-model-path": ABSENT}),
                    Trial("ministral3_8b", Refused("--recipe"))],
        "--mode": [Trial("dora", Changed(out)), Trial("lora", Refused("contradicts"), {"--recipe": "ministral3_3b_sft_config"})],
        "--config": [Trial(REHEARSED, Changed(out))],
        "--hf-model-path": [Trial(HF, Changed(out)), Trial(ABSENT, Refused("no size of its own"))],
        "--ranks": [Trial(1, Changed(out)), Trial(3, Refused("tensor"), {"overrides": ["model.tensor_model_parallel_size=2"]})],
        "--steps": [Trial(2, Gains(out, "step 2 loss")), Trial(0, Refused("--steps"))],
        "--assets": [Trial(FEWER, Changed(out)), Trial(HF, Refused("--assets"))],
        "--json": [Trial(ABSENT, Gains(out, "equal to one rank"))],
        "overrides": [Trial(["peft.dim=4"], Changed(out)), Trial(["model.tensor_model_parallel_size=3"], Refused("use 1"))],
    },
    "plan": {
        "--recipe": [Trial("ministral3_3b_peft_config", Changed(out))],
        "--model": [Trial("ministral3_8b", Changed(out), {"--mode": "sft", "--hf-model-path": ABSENT}), Trial("ministral3_8b", Refused("--mode"))],
        "--mode": [Trial("lora", Changed(out)), Trial("lora", Refused("contradicts"), {"--recipe": "ministral3_3b_sft_config"})],
        "--config": [Trial(PLANNED, Changed(out))],
        "--hf-model-path": [Trial(HF, Changed(out)), Trial(DEMO / "config.json", Needed("no size of its own"), {"--recipe": "demo_config"})],
        "--gpus": [Trial(4, Changed(out))],
        "--processes": [Trial(2, Changed(out), RATES | {"--gpus": ABSENT}), Trial(2, Refused("--gpus"))],
        "--gpus-per-node": [Trial(4, Changed(out)), Trial(3, Refused("does not divide --gpus 8")),
                            Trial(4, Refused("--gpus"), RATES | {"--gpus": ABSENT})],
        "--memory": [Trial("1MB", Changed(out)), Trial("lots", Refused("--memory"))],
        "--flops": [Trial("1T", Changed(out)), Trial("fast", Refused("--flops fast"))],
        "--bandwidth": [Trial("1GB/s", Changed(out))],
        "--link": [Trial("1GB/s", Changed(out)), Trial("1GB/s", Refused(NOTHING), {"--gpus": 1})],
        "--network": [Trial("1GB/s", Changed(out), {"--gpus": 16}), Trial("1GB/s", Refused(NOTHING))],
        "--tokens": [Trial(64, Changed(out)), Trial(5000, Refused("model.seq_length=4096"))],
        "--targets": [Trial(8, Changed(out)), Trial(5000, Refused("--targets 5000"))],
        "--pictures": [Trial(0, Changed(out)), Trial(1, Refused("text only"), {"--hf-model-path": TEXT_ONLY})],
        "--picture-size": [Trial("56x28", Changed(out)), Trial("big", Refused("WIDTHxHEIGHT")),
                           Trial("56x28", Refused(NOTHING), {"--pictures": 0})],
        "--rows": [Trial(2, Changed(out)), Trial(2, Refused("--json"), {"--json": True})],
        "--json": [Trial(True, Gains(out, '"topologies"'))],
        "--simulate": [Trial(True, Gains(out, "simulated:")), Trial(True, Refused("--json"), {"--json": True})],
        "--mtbf": [Trial(100, Changed(out), {"--simulate": True}), Trial(100, Refused("--simulate"))],
        "--restart": [Trial(1, Changed(out), {"--simulate": True, "--mtbf": 1, "--flops": "1G"}),
                      Trial(1, Refused("--simulate"))],
        "--disk": [Trial("1MB/s", Changed(out), {"--simulate": True}), Trial("1MB/s", Refused("--simulate"))],
        "overrides": [Trial(["model.seq_length=512"], Changed(out)), Trial(["model.tensor_model_parallel_size=3"], Refused("use 1"))],
    },
    "preprocess": {
        "--image-path": [Trial(TURNED, Changed(out)), Trial(PICTURE, Needed("--image-path is required"))],
        "--output": [Trial("other.safetensors", Gains(files, "other.safetensors")),
                     Trial("out.safetensors", Needed("--output is required"))],
        "--longest-edge": [Trial(28, Changed(out))],
        "--no-exif": [Trial(True, Changed(out), {"--image-path": TURNED})],
    },
    "demo": {
        "--assets": [Trial(FEWER, Gains(out, "% of 1;")), Trial("absent", Refused("--assets: absent does not exist"))],
        "--output": [Trial("other", Gains(files, "other/hf/model.safetensors"))],
        "--report": [Trial("other.html", Gains(files, "other.html"))],
        "--steps": [Trial(2, Gains(files, "work/run/iter_0000002")), Trial(-1, Refused("--steps"))],
        "--min-field": [Trial(0.99, Fails("fields right after", 1)), Trial(2, Refused("--min-field"))],
        "--min-whole": [Trial(0.99, Fails("whole receipts right after", 1)), Trial(-1, Refused("--min-whole"))],
        "--max-before": [Trial(0, Fails("fields right before", 1), {"--assets": FEWER}), Trial(1.5, Refused("--max-before"))],
        "--device": ON_DEVICE,
    },
    "finetune": {
        "--recipe": [Trial("ministral3_3b_peft_config", Changed(metric("lr")))],
        "--config": [Trial(CONFIG, Changed(metric("lr")))],
        "--pretrained-checkpoint": [Trial(NOISY, Changed(LOSS)), Trial(DEMO, Needed("--pretrained-checkpoint"))],
        "--dataset-type": [Trial("jsonl", Needed("talk.jsonl"), keys(data=("dataset.path_or_dataset", LINES)))],
        "--peft-scheme": [Trial("dora", Changed(LOSS)), Trial("none", Changed(trained))],
        "--device": ON_DEVICE,
        "--on-nan": [Trial("skip", Needed("step 1: the loss is", lines=False), {"--pretrained-checkpoint": NAN})],
        "--train-iters": [Trial(1, Changed(LOSS))],
        "--global-batch-size": [Trial(4, Changed(LOSS))],
        "--micro-batch-size": [Trial(8, Changed(metric("forwards")), {"--global-batch-size": 16, "overrides": [*KEYS[1:], DATA]})],
        "--seq-length": [Trial(150, Changed(metric("tokens")), {"--overlong": "cut-text"})],
        "--lr": [Trial(1e-3, Changed(metric("lr")))],
        "--min-lr": [Trial(1e-3, Changed(metric("lr")))],
        "--warmup-iters": [Trial(1, Changed(metric("lr")), {"overrides": [KEYS[0], KEYS[2], DATA, "scheduler.lr_warmup_init=1e-3"],
                                                            "--train-iters": 12})],
        "--save-interval": [Trial(1, Gains(files, "run/iter_0000001/metadata.json"))],
        "--save-dir": [Trial("other", Gains(files, "other/metrics.jsonl"), {"overrides": [*KEYS[:2], DATA], "--config": CONFIG_SAVE})],
        "--load-dir": [Trial(ADAPTER, Changed(metric("step")), {"--train-iters": 3, "--lr": 0.02})],
        "--tensor-model-parallel-size": [Trial(2, MANY)],
        "--pipeline-model-parallel-size": [Trial(2, MANY)],
        "--context-parallel-size": [Trial(2, MANY)],
        "--virtual-pipeline-model-parallel-size": [Trial(2, MANY)],
        "--model": [Trial("ministral3_3b", Refused("--recipe"))],
        "--mode": [Trial("dora", Changed(LOSS)), Trial("sft", Changed(trained)),
                   Trial("lora", Refused("contradicts"), {"--recipe": "ministral3_3b_sft_config"})],
        "--dataset": [Trial("local-jsonl", Needed("talk.jsonl"), keys(data=("dataset.path_or_dataset", LINES)))],
        "--step-func": [Trial("gpt_step", Refused("vlm_step"))],
        "--overlong": [Trial("cut-text", Needed("dataset.overlong", lines=False), keys("model.seq_length=150"))],
        "--image-max-edge": [Trial(56, Changed(metric("tokens")))],
        "--image-max-tokens": [Trial(6, Changed(metric("tokens")))],
        "--freeze-language-model": [Trial(True, Changed(trained), FULL), Trial(True, FROZEN)],
        "--freeze-vision-model": [Trial(True, Changed(trained), FULL), Trial(True, FROZEN)],
        "--freeze-vision-projection": [Trial(True, Changed(trained), FULL), Trial(True, FROZEN)],
        "--allow-change": [
            Trial("rng.seed", Needed("rng.seed", lines=False), keys("rng.seed=7", ("checkpoint.load", ADAPTER)) | {"--train-iters": 3}),
            Trial("rng.seed", Refused(NOTHING))],
        "--print-config": [Trial(True, Gains(out, "peft:"))],
        "overrides": [Trial([*KEYS, DATA, "rng.seed=7"], Changed(LOSS))],
    },
    # What they do is seen in test_launch.py.
    "launch": {
        "--nproc-per-node": [Trial(0, Refused("--nproc-per-node")), Trial(1, Needed("--nproc-per-node is required"))],
        "--nnodes": [Trial(2, Refused("--nnodes 2 needs --rdzv-endpoint"))],
        "--node-rank": [Trial(1, Refused("--node-rank 1 is not below --nnodes 1"))],
        "--rdzv-endpoint": [Trial("host", Refused("is no HOST:PORT"))],
        "--rdzv-id": [Trial("", Refused("--rdzv-id is empty"))],
        "--rdzv-timeout": [Trial(3, Refused(NOTHING))],
        "--master-addr": [Trial("a b", Refused("is no HOST:PORT"))],
        "--master-port": [Trial(29501, Refused("excludes"), {"--rdzv-endpoint": "127.0.0.1:29501"})],
        "--max-restarts": [Trial(1, Refused("without checkpoint.load=auto"))],
    },
}

# What CLI11 gives to all of them, and groups of commands.
EVERYWHERE = {"-h", "--help"}
GROUPS = {"data"}


def options(help_text):
    """Name and other spellings of each flag and positional in a help page."""
    found, section = [], ""
    for line in help_text.splitlines():
        if line and not line.startswith(" "):
            section = line.rstrip(":")
        entry = re.match(r"  (\S+)", line)
        if section in ("Options", "Positionals") and entry:
            found.append([re.sub(r"\{.*?\}$", "", name) for name in entry[1].split(",")])
    return found


def commands(help_text):
    tail = help_text.partition("\nSubcommands:\n")[2]
    return re.findall(r"^  (\S+)", tail, re.MULTILINE)


class Flags(Walk):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.folder = cls.scratch / "given"
        folder.mkdir()
        # The demo's model with noise in it.
        noisy = Path(shutil.copytree(DEMO, folder / NOISY))
        edit_json(noisy / "processor_config.json", lambda config: config["image_processor"]["size"].update(longest_edge=28))
        generator = torch.Generator().manual_seed(1)
        tensors = load_file(DEMO / "model.safetensors")
        save_file({name: value + (0.05 * torch.randn(value.shape, generator=generator)).to(value.dtype)
                   for name, value in tensors.items()}, noisy / "model.safetensors")
        shutil.copytree(DEMO, folder / NAN)
        tensors["language_model.model.norm.weight"] += float("nan")
        save_file(tensors, folder / NAN / "model.safetensors")
        # Its tokenizer as one of layout v15.
        shutil.copytree(DEMO, folder / SETTINGS)
        make_v15(folder / SETTINGS, reasoning_effort=EFFORT)
        # The language model of a fixture alone.
        shutil.copytree(HF, folder / TEXT_ONLY)
        config = json.loads((HF / "config.json").read_text())
        (folder / TEXT_ONLY / "config.json").write_text(json.dumps(
            config["text_config"] | {"architectures": ["Ministral3ForCausalLM"], "dtype": config["dtype"]}))
        save_file({name.removeprefix("language_model."): value for name, value in load_file(HF / "model.safetensors").items()
                   if name.startswith("language_model.")}, folder / TEXT_ONLY / "model.safetensors")
        # Two forms of one model.
        both = Path(shutil.copytree(DEMO, folder / BOTH))
        cls.made("export", "--hf-model", DEMO, "--mistral-path", folder / "mistral")
        for name in ("consolidated.safetensors", "params.json"):
            shutil.copy(folder / "mistral" / name, both)
        cls.made("import", "--hf-model", noisy, "--megatron-path", folder / NOISY_RUN)
        cls.made("quantize", "--hf-model", DEMO, "--output-path", folder / IN_INT4, "--weights", "int4")
        cls.made("export", "--hf-model", TIED, "--gguf-path", folder / "gguf")
        shutil.copy(next(path for path in (folder / "gguf").iterdir() if not path.name.startswith("mmproj")),
                    folder / GGUF)
        # Receipts enough for a step and an answer.
        for name in (FEW, FEWER):
            (folder / name / "data").mkdir(parents=True)
            (folder / name / "model").symlink_to(DEMO)
            train, test = (pyarrow.parquet.read_table(RECEIPTS / f"{split}.parquet") for split in ("train", "test"))
            if name == FEWER:  # one, of which the model has some fields right
                truth = json.dumps({"gt_parse": {"total": [{"goods": "Milk Noodle"}, {"goods": "Spicy Rice"}]}})
                test = test.slice(1, 1).set_column(1, test.schema.field(1), pyarrow.array([truth]))
            pyarrow.parquet.write_table(train.slice(0, 4), folder / name / "data" / "train.parquet")
            pyarrow.parquet.write_table(test.slice(0, 2), folder / name / "data" / "test.parquet")
        cls.cache_data_set("org/set", {
            "README.md": b"---\nconfigs:\n- config_name: default\n  data_dir: data\n- config_name: other\n  data_dir: other\n---\n",
            **{f"{part}/train.parquet": (RECEIPTS / f"{split}.parquet").read_bytes()
               for part, split in (("data", "train"), ("other", "test"))}})
        for name, ids in ((INPUTS, [1, 3, 300, 301, 4]), (OTHER_INPUTS, [1, 3, 302, 4])):
            save_file({"input_ids": torch.tensor([ids])}, folder / name)
        picture = Image.new("RGB", (56, 28), "red")
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(folder / TURNED, exif=exif)
        (folder / CONFIG).write_text("optimizer:\n  lr: 0.001\n")
        (folder / CONFIG_SAVE).write_text("checkpoint:\n  save: run\n")
        (folder / PLANNED).write_text("model:\n  seq_length: 512\n")
        (folder / REHEARSED).write_text("peft:\n  dim: 4\n")
        (folder / LINES).write_text(json.dumps({"messages": [{"role": "user", "content": "a"},
                                                                       {"role": "assistant", "content": "b"}]}))
        cls.made(*cls.line("finetune", USUAL["finetune"] | {"overrides": [
            *KEYS[:-1], DATA, "optimizer.lr=0.02", ("checkpoint.save", ADAPTER)]}))

    @classmethod
    def made(cls, *command):
        done = cls.run_trestle(command)
        assert done.status == 0, done.words()

    def help(self, *words):
        done = self.run_trestle([*words, "--help"])
        self.works(done)
        return done.out

    def leaves(self):
        """Every command, those of a group by two words."""
        top = self.help()
        self.assertEqual({name for names in options(top) for name in names}, EVERYWHERE)
        for name in commands(top):
            yield from ([f"{name} {part}" for part in commands(self.help(name))] if name in GROUPS else [name])

    def test_every_flag_is_tried(self):
        """The table has what the help has, and the help every flag of two words in both spellings."""
        leaves = list(self.leaves())
        self.assertEqual(sorted(leaves), sorted(TABLE))
        for command in leaves:
            known = []
            for names in options(self.help(*command.split())):
                if set(names) <= EVERYWHERE:
                    continue
                switch = names[1:] == ["--no-" + names[0][2:]]
                both = names[0].startswith("--") and "-" in names[0][2:] and not switch
                if both:
                    self.assertEqual(names, [each for name in names[::2] for each in (name, "--" + name[2:].replace("-", "_"))], command)
                known += names[:1] if both else names
            with self.subTest(command):
                self.walk(known, TABLE[command])

    @classmethod
    def value(cls, given):
        if isinstance(given, tuple):
            return f"{given[0]}={cls.value(given[1])}"
        return cls.folder / given if isinstance(given, At) else given

    @classmethod
    def line(cls, command, arguments):
        words = command.split()
        for flag, value in sorted(arguments.items(), key=lambda each: each[0] in BEHIND):
            values = value if isinstance(value, list) else [value]
            for each in values:
                if each is ABSENT:
                    continue
                words += [flag] if flag.startswith("-") else []
                words += [] if each is True else [cls.value(each)]
        return words

    def tried(self, command, flag, trial):
        usual = USUAL[command] | trial.given
        before = usual
        if isinstance(trial.effect, Needed) or trial.value is True:
            before = {name: value for name, value in usual.items() if name != flag}
        done = self.without(self.line(command, before), trial.stdin, trial.effect.view)
        after = {name: value for name, value in usual.items() if name != flag} | {flag: trial.value}
        if not flag.startswith("-"):  # positionals keep their places
            after = {name: trial.value if name == flag else value for name, value in ({**usual, flag: ""}).items()}
        trial.effect.check(self, done, self.run_trestle(self.line(command, after), trial.stdin))

    def walk_command(self, command):
        for flag, trials in TABLE[command].items():
            for number, trial in enumerate(trials):
                with self.subTest(flag=f"{command} {flag}", trial=number):
                    self.tried(command, flag, trial)

    def test_keys_of_a_line(self):
        """Each line of tokenize is answered; a key that nobody reads is an error of its line."""
        user = {"role": "user", "content": "a"}
        for flags, line, key in (
                ([], {"text": "a", "chat": True}, "chat"), (["--decode"], {"ids": [1], "keep_special": True}, "keep_special"),
                (["--chat"], {"messages": [user], "id": 1}, "id"), (["--chat"], {"messages": [user | {"name": "b"}]}, "name"),
                (["--chat"], {"messages": [user | {"weight": 1}]}, "weight"), (["--chat"], {"messages": [user], "history": "b"}, "history"),
                (["--chat"], {"messages": [user], "reasoning_effort": 1}, "reasoning_effort"),
                (["--chat"], {"messages": [user], "response_format": {"type": "text", "strict": True}}, "strict"),
                (["--chat"], {"messages": [user | {"content": [{"type": "image", "path": str(PICTURE), "width": 3, "height": 4}]}]},
                 "width")):
            done = self.run_trestle(["tokenize", "--tokenizer", DEMO, *flags], json.dumps(line))
            self.works(done)
            self.assertIn(f'"{key}"', json.loads(done.out)["error"], line)

    def test_tensors_of_inputs(self):
        """Each tensor of logits' inputs is read; another one is refused."""
        ids = torch.tensor([[1, 3, 300, 301, 4]])
        base = self.folder / INPUTS
        for name, tensor, effect in (("labels", ids.clone(), Changed(file("out.safetensors"))),
                                     ("attention_mask", torch.ones_like(ids) * torch.tensor([0, 1, 1, 1, 1]), Refused("it masks tokens")),
                                     ("image_sizes", torch.tensor([[28, 28]]), Refused("no pixel_values")),
                                     ("pixel_values", torch.zeros(1, 3, 28, 28), Refused("image")),
                                     ("position_ids", ids.clone(), Refused("position_ids: nobody reads it"))):
            with self.subTest(name):
                save_file({"input_ids": ids, name: tensor}, self.folder / "more.safetensors")
                before = self.run_trestle(self.line("logits", MODEL_LOGITS | {"--inputs": base}))
                after = self.run_trestle(self.line("logits", MODEL_LOGITS | {"--inputs": self.folder / "more.safetensors"}))
                effect.check(self, before, after)

    def test_the_other_spelling(self):
        """Underscores do what dashes do."""
        given = {"--hf-model": HF, "--hf-path": "out", "--max-shard-size": "20KB", "--max-memory": "1GB"}
        with_dashes = self.run_trestle(self.line("export", given))
        other = self.run_trestle(self.line("export", {name.replace("-", "_").replace("__", "--", 1): value
                                                      for name, value in given.items()}))
        self.works(other)
        self.assertEqual(files(with_dashes), files(other))


for each in TABLE:
    setattr(Flags, f"test_{each.replace(' ', '_')}", lambda self, command=each: self.walk_command(command))


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
