#!/usr/bin/env python3
"""One card: ours and transformers + peft by turns in one run, on the same random weights; JSON and a Markdown table.

  bench/gpu.py --trestle build/cuda/trestle --work DIR --out DIR [--only lora_3b,decode_3b] [--rounds 1] [--seconds 330]
  bench/gpu.py --trestle build/release/trestle --work DIR --out DIR --tiny     # the same paths with the embedded model on the CPU

Each line of LINES is measured by both programs, each in a process of its own, `--rounds` times by turns; the table has the best of
each, and what the ratio is asked to be. The peer is the fastest of its forms that are installed (plain, layers compiled, Liger).
Of training, the median step behind two that warm up, in tokens a second; of generation, what the programs' own clocks say. A line
that would begin after --seconds is left out, and one that fails is told with its last words: neither is a figure. Peak memory is
that of tensors on the card.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
from bf16 import text_of
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STEPS = 7  # two of them warm up

# What is measured: size, tokens, what ours is asked for beside the recipe, the peer's forms, and the least ratio of tokens a
# second that the project asks of itself.
TRAIN = {
    "lora": ("ministral3_3b_peft_config", []),
    "dora": ("ministral3_3b_peft_config", ["peft.scheme=dora"]),
    "sft": ("ministral3_3b_sft_config", ["model.freeze_vision_model=true", "model.freeze_vision_projection=true"]),
    "image": ("ministral3_3b_peft_config", []),
}
LINES = {
    "lora_3b": dict(size="3b", what="lora", length=4096, forms=("plain", "compiled", "liger"), least=1.2),
    "decode_3b": dict(size="3b", what="decode", length=512, forms=("compiled",), least=2.0),
    "dora_3b": dict(size="3b", what="dora", length=4096, forms=("plain",), least=None),
    "image_3b": dict(size="3b", what="image", length=512, forms=("plain",), least=4.0),
    "lora_8b": dict(size="8b", what="lora", length=4096, forms=("compiled", "liger"), least=1.15),
    "prefill_8b": dict(size="8b", what="prefill", length=4096, forms=("plain",), least=1.2),
    "decode_8b": dict(size="8b", what="decode", length=512, forms=("compiled",), least=None),
    "decode8_3b": dict(size="3b", what="decode", length=512, batch=8, forms=("compiled",), least=None),
    "decode32_3b": dict(size="3b", what="decode", length=512, batch=32, forms=("compiled",), least=None),
    "decode_8b_int8": dict(size="8b", what="decode", length=512, weights="int8", forms=(), least=None),
    "decode_8b_int4": dict(size="8b", what="decode", length=512, weights="int4", forms=(), least=None),
    "sft_3b": dict(size="3b", what="sft", length=4096, forms=("plain",), least=1.2),
}


def last_words(text):
    lines = [line for line in text.strip().splitlines() if line]
    return lines[-1][:300] if lines else "no output"


class Failed(Exception):
    pass


def run(words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        raise Failed(last_words(done.stderr))
    return done


class Bench:
    def __init__(self, options):
        self.options = options
        self.device = "cpu" if options.tiny else "cuda"
        options.work.mkdir(parents=True, exist_ok=True)
        options.out.mkdir(parents=True, exist_ok=True)

    def model(self, size):
        if self.options.tiny:
            return ROOT / "assets" / "demo" / "model"
        path = self.options.work / size
        if not path.exists():
            run([sys.executable, HERE / "random_model.py", path, "--size", size, "--side-files", ROOT / "assets" / "demo" / "model",
                 "--words", "608"])
        return path

    def length(self, line):
        return 96 if self.options.tiny else line["length"]

    def rows(self, line, model):
        """A text with nearly all of its tokens as targets, or a picture, three quarters of prompt and a quarter of answer."""
        folder = self.options.work / "rows"
        folder.mkdir(exist_ok=True)
        tokens, prompt, user = self.length(line), 0, []
        if line["what"] == "image":
            side = 56 if self.options.tiny else 448
            noise = numpy.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=numpy.uint8)
            Image.fromarray(noise).save(folder / "noise.png")
            user = [{"type": "image", "image": "noise.png"}]
            prompt = max(1, 3 * tokens // 4 - (side // 28) ** 2)
            tokens //= 4
        user.append({"type": "text", "text": text_of(self.options.trestle, model, prompt) if prompt else "a"})
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": text_of(self.options.trestle, model, tokens - 16)}]
        path = folder / f"{line['what']}-{line['size']}.jsonl"
        path.write_text(json.dumps({"messages": messages}) + "\n")
        return path

    @staticmethod
    def first_steps(command, metrics):
        """STEPS of them; the run is ended there, as its checkpoint would take longer than they did."""
        with tempfile.TemporaryFile("w+") as err, subprocess.Popen([str(word) for word in command], stdout=err, stderr=err) as process:
            try:
                while True:
                    ended = process.poll() is not None
                    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
                    if len(lines) >= STEPS:
                        return [json.loads(text) for text in lines[:STEPS]]
                    if ended:
                        err.seek(0)
                        raise Failed(last_words(err.read()))
                    time.sleep(0.05)
            finally:
                process.kill()

    def ours(self, line):
        model, what = self.model(line["size"]), line["what"]
        if what in TRAIN:
            recipe, more = TRAIN[what]
            save = self.options.work / f"run-{time.monotonic_ns()}"
            command = [self.options.trestle, "finetune", "--recipe", recipe, "--pretrained-checkpoint", model, "--dataset-type", "jsonl",
                       f"dataset.path_or_dataset={self.rows(line, model)}", f"checkpoint.save={save}", "train.train_iters=1000000",
                       "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0", "validation.eval_iters=0",
                       "checkpoint.save_interval=1000000", f"model.seq_length={self.length(line)}", f"train.device={self.device}", *more]
            steps = self.first_steps(command, save / "metrics.jsonl")[2:]
            seconds = statistics.median(step["seconds"] for step in steps)
            return dict(tokens_per_second=steps[0]["tokens"] / seconds, seconds=seconds, tokens=steps[0]["tokens"],
                        peak_bytes=steps[-1]["peak_memory_bytes"] if self.device == "cuda" else None)
        prompt, batch = text_of(self.options.trestle, model, self.length(line)), line.get("batch", 1)
        command = [self.options.trestle, "generate", "--prompt", prompt]
        if batch > 1:
            rows = self.options.work / "prompts.jsonl"
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "a"}]
            rows.write_text((json.dumps({"messages": turns}) + "\n") * batch)
            command = [self.options.trestle, "evaluate", "--maker", "jsonl", "--data", rows, "--batch-size", batch]
        told = run([*command, "--hf-model-path", model, "--dtype", "bfloat16", "--weights", line.get("weights", "16"),
                    "--device", self.device, "--max-new-tokens", 8 if self.options.tiny else 128]).stderr
        part = "prefill" if what == "prefill" else "decode"
        rate = re.search(part + r" (\d+) tokens in ([\d.]+) s \(([\d.]+) tokens/s\)", told)
        if rate is None:
            raise Failed(f"no rate of {part} in: {last_words(told)}")
        return dict(tokens_per_second=float(rate[3]), seconds=float(rate[2]), tokens=int(rate[1]), peak_bytes=None)

    def peer(self, line, form):
        told = run([sys.executable, HERE / "gpu_peer.py", self.model(line["size"]), line["what"], "--form", form, "--device", self.device,
                    "--length", self.length(line), "--batch", line.get("batch", 1), *(("--picture", 56, "--new", 8, "--steps", 2) if self.options.tiny else ())],
                   env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
        return json.loads(told.stdout.splitlines()[-1]) | {"form": form}

    def measure(self, name):
        """Ours and each form of the peer by turns: {"ours": [...], "plain": [...], ...}, and what failed."""
        line, found, failed = LINES[name], {}, {}
        forms = line["forms"][:1] and ("plain",) if self.options.tiny else line["forms"]
        for _ in range(self.options.rounds):
            for who in ("ours", *forms):
                if who in failed:
                    continue
                try:
                    found.setdefault(who, []).append(self.ours(line) if who == "ours" else self.peer(line, who))
                except (Failed, subprocess.CalledProcessError) as error:
                    failed[who] = str(error)
        return found, failed


def best(figures):
    return max(figures, key=lambda each: each["tokens_per_second"]) if figures else None


def shown(figure):
    if figure is None:
        return "not measured"
    text = f"{figure['tokens_per_second']:,.0f} tok/s"
    if figure.get("peak_bytes"):
        text += f", {figure['peak_bytes'] / 1e9:.1f} GB"
    return text


def table(results, machine):
    rows = [f"{machine}", "", "| line | ours | peer | ours / peer | asked |", "|---|---|---|---|---|"]
    for name, (found, failed) in results.items():
        ours = best(found.get("ours"))
        peer = best([figure for who, figures in found.items() if who != "ours" for figure in figures])
        ratio = f"{ours['tokens_per_second'] / peer['tokens_per_second']:.2f}" if ours and peer else "not measured"
        asked = LINES[name]["least"] or ""
        rows.append(f"| {name} | {shown(ours)} | {shown(peer)}{' (' + peer['form'] + ')' if peer else ''} | {ratio} | {asked} |")
        rows += [f"| | {who} failed: {why.replace('|', '/')} | | | |" for who, why in failed.items()]
    return "\n".join(rows) + "\n"


def machine():
    try:
        card = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]).stdout.strip()
    except (OSError, Failed):
        card = "no card"
    return f"{card}; {os.cpu_count()} cores; {time.strftime('%Y-%m-%d', time.gmtime())}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(LINES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=330)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in LINES]
    if unknown:
        parser.error(f"--only: {unknown[0]} is none of {', '.join(LINES)}")
    bench, started, results = Bench(options), time.monotonic(), {}
    for name in names:
        if time.monotonic() - started > options.seconds:
            results[name] = ({}, {"all": "left out, the time was over"})
            continue
        results[name] = bench.measure(name)
        print(table({name: results[name]}, "").strip().splitlines()[-1], flush=True)
        # After every line: what was measured stays when the rest is cut off.
        (options.out / "gpu.json").write_text(json.dumps({"machine": machine(), "lines": results}, indent=1))
        (options.out / "gpu.md").write_text(table(results, machine()))
    return 1 if any("ours" in failed for _, failed in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
