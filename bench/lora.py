#!/usr/bin/env python3
"""LoRA steps on a base of some bits: peak memory and seconds.

  bench/random_model.py m3b --size 3b --side-files assets/demo/model
  bench/lora.py --model m3b --work w --bits 4 [--steps 2] [--length 512] [KEY=VALUE ...]

One sample a step: a 448 x 448 picture of noise and an answer that fills it up to --length tokens.
Memory is the kernel's ru_maxrss of the whole process, mapped files included. Beside other work compare
seconds of the CPU, with OMP_NUM_THREADS=1: threads that wait for each other count as working.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def write_rows(path, words):
    message = [{"type": "image", "image": "448.png"}, {"type": "text", "text": "Read it."}]
    row = {"messages": [{"role": "user", "content": message},
                        {"role": "assistant", "content": " ".join("a" * words)}]}
    path.write_text(json.dumps(row) + "\n")


def length_of(trestle, model, data):
    done = subprocess.run([trestle, "data", "check", "--hf-model-path", model, "--data", data,
                           "--maker", "jsonl", "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["length"]["max"]


def cpu_seconds(process):
    stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def seconds_of_steps(command):
    """Of the CPU, of each step; the first has the loading of the model in it."""
    marks = [0.0]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            sys.stderr.write(line)
            if line.startswith("step "):
                marks.append(cpu_seconds(process))
    if process.returncode != 0:
        sys.exit(process.returncode)
    return [after - before for before, after in zip(marks, marks[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bits", choices=("4", "8", "16", "fp8"), default="4")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--trestle", type=Path, default=ROOT / "build" / "release" / "trestle")
    parser.add_argument("overrides", nargs="*", help="more of finetune's key=value")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(options.work / "448.png")
    data = options.work / "data.jsonl"
    write_rows(data, 1)
    # A further word is a token, or two; the last of them show which.
    shortest = length_of(options.trestle, options.model, data)
    write_rows(data, 11)
    a_word = (length_of(options.trestle, options.model, data) - shortest) / 10
    write_rows(data, 1 + int((options.length - shortest) / a_word))

    # finetune writes over no run, and nothing here deletes one.
    run = Path(tempfile.mkdtemp(prefix=f"run{options.bits}-", dir=options.work))
    metrics = run / "metrics.jsonl"
    start = time.monotonic()
    cpu = seconds_of_steps([options.trestle, "finetune", "--recipe", "ministral3_3b_peft_config",
                            "--dataset-type", "jsonl", "--pretrained-checkpoint", options.model,
                            f"dataset.path_or_dataset={data}", f"checkpoint.save={run}",
                            f"model.seq_length={options.length}", f"train.train_iters={options.steps}",
                            "train.global_batch_size=1", "scheduler.lr_warmup_iters=0",
                            f"peft.base_bits={options.bits}",
                            *options.overrides])
    seconds = time.monotonic() - start
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{options.bits}: peak {peak / 1e9:.2f} GB, {seconds:.1f} s in all; steps of "
          + ", ".join(f"{step['tokens']} tokens, {step['seconds']:.1f} s ({of_cpu:.2f} of the CPU)"
                      for step, of_cpu in zip(steps, cpu)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
