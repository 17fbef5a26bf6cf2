#!/usr/bin/env python3
"""Tokens a second of decoding and of prompts on the CPU, in turn with llama.cpp's llama-bench on the same shapes.

  bench/decode.py TRESTLE MODEL [--llama LLAMA_BENCH --gguf DIR] [--rounds 3] [--tokens 64] [--prompt 512] [--threads N] [--busy]

MODEL is a directory that bench/random_model.py makes (3B widths; --layers 6 will do), DIR holds the same shapes as
m.bf16.gguf, m.q8_0.gguf, m.q4_0.gguf and m.q4_k_m.gguf, with random weights too: what is computed does not depend on
them. A round is one run of each, one after the other. Printed are medians, the bytes of weights that decoding read in a
second, and ours / the peer's. --busy keeps one processor busy with another process all the while.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

PEERS = {"bf16": ["bf16"], "int8": ["q8_0"], "int4": ["q4_0", "q4_k_m"]}
BITS = {"bf16": 16, "int8": 8.5, "int4": 4.5}
RATES = re.compile(r"prefill (\d+) tokens in ([\d.]+) s .*decode (\d+) tokens in ([\d.]+) s")


def ours(options, form, prompt_words, tokens):
    """Tokens a second of prompt and of decoding."""
    command = [options.program, "generate", "--hf-model-path", options.model, "--prompt", "total " * prompt_words,
               "--max-new-tokens", tokens + 1, "--weights", form, "--no-speculation"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          check=True, env=os.environ | {"OMP_NUM_THREADS": str(options.threads)})
    prompt, prompt_seconds, made, seconds = map(float, RATES.search(done.stderr).groups())
    return {"pp": prompt / prompt_seconds, "tg": made / seconds, "prompt": int(prompt)}


def theirs(options, kind, prompt, tokens):
    command = [options.llama, "-m", options.gguf / f"m.{kind}.gguf", "-t", options.threads, "-p", prompt, "-n", tokens, "-r", 1,
               "-o", "csv"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return {"tg" if row["n_prompt"] == "0" else "pp": float(row["avg_ts"]) for row in csv.DictReader(done.stdout.splitlines())}


def weights_of(model):
    """Parameters that a token of text reads: all but the vision tower's and the projector's, the embedding once."""
    config = json.loads((model / "config.json").read_text())["text_config"]
    hidden, heads, size = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    layer = hidden * size * 2 * (heads + config["num_key_value_heads"]) + 3 * hidden * config["intermediate_size"]
    return config["num_hidden_layers"] * layer + config["vocab_size"] * hidden


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the peer's prompt, and words of ours")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    options.program, options.model = options.program.resolve(), options.model.resolve()
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if options.busy else None
    rates = {}

    def note(name, found):
        for kind in ("pp", "tg"):
            if kind in found:
                rates.setdefault((name, kind), []).append(found[kind])

    try:
        for _ in range(options.rounds):
            for form, peers in PEERS.items():
                note(form, {"tg": ours(options, form, 8, options.tokens)["tg"]})
                long = ours(options, form, options.prompt, 1)
                note(form, {"pp": long["pp"]})
                for kind in peers if options.llama else []:
                    note("llama.cpp " + kind, theirs(options, kind, long["prompt"], options.tokens))
    finally:
        if neighbour:
            neighbour.kill()
    median = {key: statistics.median(values) for key, values in rates.items()}
    read = weights_of(options.model)
    for form, peers in PEERS.items():
        bandwidth = median[form, "tg"] * read * BITS[form] / 8 / 1e9
        print(f"{form:5} decode {median[form, 'tg']:7.1f} tokens/s ({bandwidth:.1f} GB/s of weights), prompt {median[form, 'pp']:7.1f} tokens/s")
        for kind in peers if options.llama else []:
            peer = "llama.cpp " + kind
            print(f"  {peer:16} decode {median[peer, 'tg']:7.1f} ({median[form, 'tg'] / median[peer, 'tg']:.2f}), "
                  f"prompt {median[peer, 'pp']:7.1f} ({median[form, 'pp'] / median[peer, 'pp']:.2f})")


if __name__ == "__main__":
    main()
