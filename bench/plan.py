#!/usr/bin/env python3
"""`trestle plan` against the program: what it says that one rank takes, and the peak of real steps.

  bench/plan.py --work w [--length 1024] [--dtype bf16] [--steps 2] [--only lora]

A model of some 130 million parameters with random weights (made in w/model) learns two rows a step, a forward each, with a
448 x 448 picture of noise and an answer that fills it up to --length tokens: SFT, LoRA and DoRA, with and without
model.recompute_granularity=full. Measured is the process's ru_maxrss less that of a process that ends just before the
model is opened (the same command on a model that is not there).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import random_model
from lora import length_of, write_rows

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "assets" / "demo" / "model"
SIZE = dict(layers=12, hidden=768, ffn=2304, theta=1e6, tied=True)
SHAPES = dict(HEADS=12, GROUPS=4, HEAD_DIM=64, VOCAB=32768, VISION_LAYERS=6, VISION=512, VISION_FFN=1536)
WORDS = 608  # of the embedded model's tokenizer


def make_model(folder):
    for name, value in SHAPES.items():
        setattr(random_model, name, value)
    random_model.SIZES["mid"] = SIZE
    sys.argv = ["random_model.py", str(folder), "--size", "mid", "--side-files", str(DEMO), "--words", str(WORDS)]
    random_model.main()
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = SHAPES["VISION"] // config["vision_config"]["head_dim"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def make_rows(trestle, model, work, length):
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(work / "448.png")
    data = work / "data.jsonl"
    write_rows(data, 1)
    shortest = length_of(trestle, model, data)
    write_rows(data, 11)
    a_word = (length_of(trestle, model, data) - shortest) / 10
    write_rows(data, 1 + int((length - shortest) / a_word))
    data.write_text(2 * data.read_text())
    return data


def peak_of(command):
    """Of the process alone, in bytes, and its status."""
    with subprocess.Popen([str(each) for each in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024, process.returncode, said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--dtype", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", choices=("sft", "lora", "dora"))
    parser.add_argument("--trestle", type=Path, default=ROOT / "build" / "release" / "trestle")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / "model"
    if not model.exists():
        make_model(model)
    data = make_rows(options.trestle, model, options.work, options.length)
    print(f"| {options.dtype}, {options.length} tokens | planned | at | measured | planned / measured |\n|---|---|---|---|---|")
    for mode in ("sft", "lora", "dora"):
        for recompute in ("none", "full"):
            if mode != (options.only or mode):
                continue
            run = Path(tempfile.mkdtemp(prefix="run-", dir=options.work))  # nothing here deletes one
            keys = [f"model.params_dtype={options.dtype}", f"model.recompute_granularity={recompute}",
                    f"model.seq_length={options.length}", "train.global_batch_size=2", "train.micro_batch_size=1",
                    f"train.train_iters={options.steps}", "scheduler.lr_warmup_iters=0"]
            of_data = [f"dataset.path_or_dataset={data}", "dataset.maker_name=jsonl",
                       "validation.eval_interval=0", f"checkpoint.save={run}"]
            recipe = ["--recipe", "ministral3_3b_finetune_config", "--mode", mode]
            command = [options.trestle, "finetune", *recipe, *keys, *of_data]
            base, status, said = peak_of([*command, f"checkpoint.pretrained_checkpoint={options.work / 'absent'}"])
            if status != 2:
                sys.exit(f"no model was to be found: {said}")
            peak, status, said = peak_of([*command, f"checkpoint.pretrained_checkpoint={model}"])
            if status != 0:
                sys.exit(said)
            step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            planned = json.loads(subprocess.run(
                [str(options.trestle), "plan", *recipe, "--hf-model-path", str(model), "--processes", "1", "--json",
                 "--tokens", str(step["tokens"] // 2), "--targets", str(step["target_tokens"] // 2),
                 "--picture-size", "448x448", *keys], check=True, capture_output=True, text=True).stdout)
            memory = planned["topologies"][0]["memory"]
            measured = peak - base
            print(f"| {mode}, recompute {recompute} | {memory['total'] / 1e9:.3f} GB | {memory['moment']} "
                  f"| {measured / 1e9:.3f} GB | {memory['total'] / measured:.3f} |", flush=True)


if __name__ == "__main__":
    main()
