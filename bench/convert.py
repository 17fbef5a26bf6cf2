#!/usr/bin/env python3
"""Times conversion against copying the same bytes and against a Python script that does the same.

  convert.py --model HF_DIR --work DIR [--rounds 3] [--trestle build/release/trestle]

Each round runs, in turn: `cp` of the weights with fsync, `trestle import`, `trestle export` of what
was imported without and with the verification of the result, and a streaming Python conversion (safetensors and torch: one layer in memory, one
shard a layer, with fsync). Every run starts with the source in the page cache and its own target
absent. Prints seconds, MB/s of what was written and peak memory as the kernel counted it (mapped
files included), then medians and ratios.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def timed(command):
    """Seconds and peak resident bytes of a child."""
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ,
                          file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed: {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def weight_bytes(directory):
    return sum(p.stat().st_size for p in Path(directory).rglob("*")
               if p.suffix in (".safetensors", ".distcp"))


def python_conversion(source, target):
    """The peer: fuses q, k, v and gate, up as Megatron has them, a layer at a time."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    target.mkdir()
    text = json.loads((source / "config.json").read_text())["text_config"]
    groups, head_dim = text["num_key_value_heads"], text["head_dim"]
    files = [safe_open(path, "pt") for path in sorted(source.glob("*.safetensors"))]
    where = {name: file for file in files for name in file.keys()}

    def get(name):
        weight = where[name].get_tensor(name)
        if weight.dtype == torch.float8_e4m3fn:
            scale = where[name + "_scale_inv"].get_tensor(name + "_scale_inv")
            weight = (weight.float() * scale.float()).bfloat16()
        return weight

    def save(tensors, name):
        save_file(tensors, target / name)
        descriptor = os.open(target / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    prefix = "language_model.model.layers."
    for layer in range(text["num_hidden_layers"]):
        base = f"{prefix}{layer}."
        q, k, v = (get(f"{base}self_attn.{part}_proj.weight") for part in "qkv")
        width = q.shape[1]
        fused = torch.cat([q.view(groups, -1, width), k.view(groups, head_dim, width),
                           v.view(groups, head_dim, width)], 1).reshape(-1, width)
        save({"linear_qkv": fused,
              "linear_fc1": torch.cat([get(f"{base}mlp.gate_proj.weight"),
                                       get(f"{base}mlp.up_proj.weight")]),
              "linear_proj": get(f"{base}self_attn.o_proj.weight"),
              "linear_fc2": get(f"{base}mlp.down_proj.weight"),
              "norm1": get(f"{base}input_layernorm.weight"),
              "norm2": get(f"{base}post_attention_layernorm.weight")}, f"layer{layer}.safetensors")
    rest = [name for name in where if not name.startswith(prefix)]
    for i, name in enumerate(rest):
        save({name: get(name)}, f"rest{i}.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trestle", default="build/release/trestle")
    parser.add_argument("--python-only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.python_only:
        python_conversion(options.model, options.python_only)
        return
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    run, back, copy, peer = (work / name for name in ("megatron", "hf", "copy", "python"))
    shards = [str(path) for path in sorted(options.model.glob("*.safetensors"))]
    jobs = {
        "cp + fsync": (["sh", "-c", f"mkdir {copy} && cp {' '.join(shards)} {copy}/ && sync {copy}/*"],
                       [copy], copy),
        "trestle import": ([options.trestle, "import", "--hf-model", str(options.model),
                            "--megatron-path", str(run)], [run], run),
        "trestle export": ([options.trestle, "export", "--no-verify", "--megatron-path", str(run), "--hf-path",
                            str(back)], [back], back),
        "  verified": ([options.trestle, "export", "--megatron-path", str(run), "--hf-path", str(back)], [back], back),
        "python": ([sys.executable, __file__, "--model", str(options.model), "--work", str(work),
                    "--python-only", str(peer)], [peer], peer),
    }
    if "quantization_config" in json.loads((options.model / "config.json").read_text()):
        # What is exported is what the BF16 model's run exports; cp's bytes are fewer.
        for name in ("trestle export", "  verified"):
            del jobs[name]
    figures = {name: [] for name in jobs}
    for round_ in range(options.rounds):
        for name, (command, targets, out) in jobs.items():
            for target in targets:
                shutil.rmtree(target, ignore_errors=True)
            os.sync()
            for path in shards:  # into the page cache, so that every job starts alike
                with open(path, "rb") as file:
                    while file.read(1 << 26):
                        pass
            seconds, peak = timed(command)
            written = weight_bytes(out)
            figures[name].append((seconds, written / seconds, peak))
            print(f"round {round_ + 1} {name:15} {seconds:7.2f} s {written / seconds / 1e6:7.0f} MB/s "
                  f"{peak / 1e9:6.2f} GB peak", flush=True)
            if name != "trestle import":
                shutil.rmtree(targets[0], ignore_errors=True)
    base = statistics.median(rate for _, rate, _ in figures["cp + fsync"])
    print("\nmedians")
    for name, rows in figures.items():
        seconds, rate, peak = (statistics.median(column) for column in zip(*rows))
        print(f"{name:15} {seconds:7.2f} s {rate / 1e6:7.0f} MB/s {rate / base:5.2f} of cp "
              f"{peak / 1e9:6.2f} GB peak")
    shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    main()
