#!/usr/bin/env python3
"""bf16 against float32 in the same run: LoRA steps and the prefill of a prompt, seconds and peak memory.

  bench/random_model.py m6 --size 3b --layers 6 --side-files assets/demo/model --words 608
  bench/bf16.py --model m6 --work w [--rounds 3] [--steps 3] [--tokens 128] [--prompt 512] [KEY=VALUE ...]

Text alone, a target at every token; rounds alternate between the dtypes, and of each the best is told. On a processor with
AVX-512 the class without it is had by ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 before the command.
Memory is the kernel's ru_maxrss of the whole process, mapped files included. Beside other work the user's seconds of
OMP_NUM_THREADS=1 say more than the clock; they hold the loading too.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("bf16", "float32")


def run(words):
    """stderr and peak bytes of a command that has to succeed."""
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read()
    if status:
        sys.exit(text)
    print(f"  {usage.ru_utime:.1f} user s in all, peak {usage.ru_maxrss * 1024 / 1e9:.2f} GB", flush=True)
    return text, usage.ru_maxrss * 1024


def text_of(trestle, model, tokens):
    """About so many tokens."""
    line = json.dumps({"text": " ".join("a" * 100)})
    done = subprocess.run([trestle, "tokenize", "--tokenizer", model], input=line, capture_output=True, text=True, check=True)
    return " ".join("a" * round(tokens * 100 / len(json.loads(done.stdout)["ids"])))


def steps(options, dtype, data):
    save = Path(tempfile.mkdtemp(prefix=f"{dtype}-", dir=options.work))
    _, peak = run([options.trestle, "finetune", "--recipe", "ministral3_3b_peft_config", "--dataset-type", "jsonl",
                   "--pretrained-checkpoint", options.model, f"dataset.path_or_dataset={data}", f"checkpoint.save={save}",
                   f"train.train_iters={options.steps}", "train.global_batch_size=1", "scheduler.lr_warmup_iters=0",
                   f"model.params_dtype={dtype}", *options.overrides])
    told = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    return min(step["seconds"] for step in told), told[-1]["tokens"], peak


def prefill(options, dtype, prompt):
    err, peak = run([options.trestle, "generate", "--hf-model-path", options.model, "--dtype",
                     dtype.replace("bf16", "bfloat16"), "--prompt", prompt,
                     "--max-new-tokens", 8])
    return float(re.search(r"prefill .*?\(([\d.]+) tokens", err)[1]), err.strip().splitlines()[-1], peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--trestle", type=Path, default=ROOT / "build" / "release" / "trestle")
    parser.add_argument("overrides", nargs="*", help="more of finetune's key=value")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data = options.work / "text.jsonl"
    answer = text_of(options.trestle, options.model, options.tokens)
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]}) + "\n")
    prompt = text_of(options.trestle, options.model, options.prompt)
    subprocess.run([options.trestle, "inspect", "--cpu"], check=True)

    step, rate = {dtype: [] for dtype in DTYPES}, {dtype: [] for dtype in DTYPES}
    for _ in range(options.rounds):
        for dtype in DTYPES:
            if options.steps:
                step[dtype].append(steps(options, dtype, data))
                print(f"  {dtype}: a step of {step[dtype][-1][1]} tokens {step[dtype][-1][0]:.2f} s", flush=True)
            if options.prompt:
                rate[dtype].append(prefill(options, dtype, prompt))
                print(f"  {dtype}: {rate[dtype][-1][1]}", flush=True)
    for name, of, best in (("LoRA step, s", step, min), ("prefill, tok/s", rate, max)):
        if not of["bf16"]:
            continue
        bf16, fp32 = (best(each[0] for each in of[dtype]) for dtype in DTYPES)
        peaks = [max(each[2] for each in of[dtype]) / 1e9 for dtype in DTYPES]
        speed = fp32 / bf16 if best is min else bf16 / fp32
        print(f"{name}: bf16 {bf16:.2f}, float32 {fp32:.2f}: {speed:.2f} of float32's speed; "
              f"peak memory {peaks[0]:.2f} GB and {peaks[1]:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
