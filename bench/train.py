#!/usr/bin/env python3
"""Steps of fine-tuning on the CPU, in turn with transformers + peft on the same checkpoint and shapes.

  bench/train.py --model MODEL --work DIR [--kinds lora dora vision sft] [--rounds 2] [--steps 4] [--length 512]

MODEL is a directory that bench/random_model.py makes (--size 3b --layers 6; 2 layers for sft, whose optimizer has
states of all). All in bf16, one sequence a step, rank 32 on every projection of the language model, dropout 0:

  lora    text, nearly all of it labelled
  dora    the same
  vision  a 448 x 448 picture and text, a quarter of all positions labelled, the tower frozen; after the first step ours
          takes the picture's features from memory, as a second epoch does
  sft     text, every weight of the language model

A round is one run of each. A step's time is the median of all but the first two of its run; printed are medians of
rounds, ours / the peer's as a ratio of speed, and peak memory of either process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("lora", "dora", "vision", "sft")
SIDE = 448
WARM = 2  # steps that are not counted
BETWEEN = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
           "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(done.returncode)")


def run(command):
    """Its standard output, and the peak of its memory: by a small process between, since a child begins with its parent's."""
    done = subprocess.run([sys.executable, "-c", BETWEEN, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr[-2000:])
    *said, last = done.stdout.splitlines()
    return said, int(last.removeprefix("peak "))


class Ours:
    def __init__(self, options):
        self.options, self.work = options, options.work
        self.program = options.trestle
        self.rows = {}

    def row(self, kind):
        """A file with one conversation of about options.length ids, how many they are, and how many of them are labelled."""
        kind = kind if kind == "vision" else "lora"
        if kind not in self.rows:
            path = self.work / f"{kind}.jsonl"
            # A word is a token, or two: the next ten show which.
            shortest = self.lengths(path, kind, 1, 1)
            a_word = (self.lengths(path, kind, 1, 11)[0] - shortest[0]) / 10
            spare = int((self.options.length - shortest[0]) / a_word)
            answered = int((self.options.length / 4 - shortest[1]) / a_word) if kind == "vision" else spare
            self.rows[kind] = (path, *self.lengths(path, kind, 1 + spare - answered, 1 + answered))
        return self.rows[kind]

    def write(self, path, kind, asked, answered):
        content = [{"type": "text", "text": " ".join("a" * asked)}]
        if kind == "vision":
            content.insert(0, {"type": "image", "image": f"{SIDE}.png"})
        path.write_text(json.dumps({"messages": [{"role": "user", "content": content},
                                                 {"role": "assistant", "content": " ".join("a" * answered)}]}) + "\n")

    def lengths(self, path, kind, asked, answered):
        self.write(path, kind, asked, answered)
        done = subprocess.run([self.program, "data", "check", "--hf-model-path", self.options.model, "--data", path,
                               "--maker", "jsonl", "--json"], capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        return said["length"]["max"], said["overlong"]["error"]["targets"]

    def steps(self, kind):
        path, length, _ = self.row(kind)
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.work))
        recipe = "ministral3_3b_sft_config" if kind == "sft" else "ministral3_3b_peft_config"
        scheme = ["model.freeze_vision_model=true", "model.freeze_vision_projection=true"] if kind == "sft" else [
            f"peft.scheme={'dora' if kind == 'dora' else 'lora'}", "peft.dim=32", "peft.alpha=32", "peft.dropout=0"]
        _, peak = run([self.program, "finetune", "--recipe", recipe, "--dataset-type", "jsonl", "--pretrained-checkpoint",
                       self.options.model, f"dataset.path_or_dataset={path}", f"checkpoint.save={folder}",
                       f"model.seq_length={max(length, self.options.length)}", f"train.train_iters={self.options.steps + WARM}",
                       "train.global_batch_size=1", "scheduler.lr_warmup_iters=0", *scheme,
                       *self.options.overrides])
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line["seconds"] for line in lines if "loss" in line][WARM:], peak


def peer(options):
    """One run of transformers + peft, in this process: a line of JSON."""
    import torch
    from transformers import Mistral3ForConditionalGeneration

    model = Mistral3ForConditionalGeneration.from_pretrained(options.model, dtype=torch.bfloat16, attn_implementation="sdpa")
    if options.peer == "sft":
        for name, weight in model.named_parameters():
            weight.requires_grad_("vision_tower" not in name and "projector" not in name)
    else:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(
            r=32, lora_alpha=32, use_dora=options.peer == "dora",
            target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"), autocast_adapter_dtype=False)
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    ids = torch.randint(20, 600, (1, options.length))
    labels = ids.clone()
    labels[0, :options.length - options.targets] = -100
    batch = {"input_ids": ids, "labels": labels}
    if options.peer == "vision":
        tokens = (SIDE // 28) ** 2
        ids[0, 4:4 + tokens] = model.config.image_token_id
        batch |= {"pixel_values": torch.randn(1, 3, SIDE, SIDE, dtype=torch.bfloat16), "image_sizes": torch.tensor([[SIDE, SIDE]]),
                  "attention_mask": torch.ones_like(ids)}
    seconds = []
    for _ in range(options.steps + WARM):
        begin = time.perf_counter()
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    print(json.dumps(seconds[WARM:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS[:3])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--targets", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--trestle", type=Path, default=ROOT / "build" / "release" / "trestle")
    parser.add_argument("overrides", nargs="*", help="more of finetune's key=value")
    options = parser.parse_args()
    if options.peer:
        return peer(options)
    import numpy as np
    from PIL import Image
    options.work.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(options.work / f"{SIDE}.png")
    ours, seconds, peaks = Ours(options), {}, {}
    for _ in range(options.rounds):
        for kind in options.kinds:
            _, length, targets = ours.row(kind)
            found = {"ours": ours.steps(kind)}
            if not options.alone:
                said, peak = run([sys.executable, __file__, "--peer", kind, "--model", options.model, "--length", length, "--targets",
                                  targets, "--steps", options.steps])
                found["peft"] = json.loads(said[-1]), peak
            for who, (steps, peak) in found.items():
                seconds.setdefault((kind, who), []).append(statistics.median(steps))
                peaks[kind, who] = max(peak, peaks.get((kind, who), 0))
                print(f"{kind} {who}: {', '.join(f'{each:.2f}' for each in steps)} s", file=sys.stderr, flush=True)
    for kind in options.kinds:
        _, length, targets = ours.row(kind)
        rate = {who: length / statistics.median(times) for (each, who), times in seconds.items() if each == kind}
        line = f"{kind:7} {length} ids, {targets} labelled: {rate['ours']:.1f} ids/s, {peaks[kind, 'ours'] / 1e9:.2f} GB"
        if "peft" in rate:
            line += f"; peft {rate['peft']:.1f} ids/s, {peaks[kind, 'peft'] / 1e9:.2f} GB; ours / its {rate['ours'] / rate['peft']:.2f}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
