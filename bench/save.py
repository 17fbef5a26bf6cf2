#!/usr/bin/env python3
"""How long a save keeps the ranks of a run from their next step: at once, and with checkpoint.async_save.

  bench/save.py TRESTLE [--model DIR] [--ranks 8] [--saves 5]

Ranks of this machine, a thread each, train all weights of the model (the embedded one, or one that
bench/random_model.py makes) and save every third step. What a save costs the step is the time from one step's line to
the next behind it, less the median of that between steps without one.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
ROW = {"messages": [{"role": "user", "content": "What is the total?"}, {"role": "assistant", "content": "12.00"}]}
EVERY = 3


def seconds_between_steps(program, folder, options, asynchronous):
    """From the line of each step to that of the next, as rank 0 prints them."""
    steps = EVERY * options.saves + 1
    command = [program, "finetune", "--recipe", "ministral3_3b_sft_config", "--pretrained-checkpoint", options.model.resolve(),
               "--dataset-type", "jsonl", "dataset.path_or_dataset=rows.jsonl", f"--global-batch-size={options.ranks}",
               "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0", f"train.train_iters={steps}", "logger.log_interval=1",
               f"checkpoint.save_interval={EVERY}", "checkpoint.most_recent_k=1", f"checkpoint.save=run-{asynchronous}",
               f"checkpoint.async_save={str(asynchronous).lower()}"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(options.ranks), "LOCAL_WORLD_SIZE": str(options.ranks), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL if rank else subprocess.PIPE,
                              env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(options.ranks)]
    told = [time.monotonic() for line in ranks[0].stderr if line.startswith("step ")]
    for rank in ranks:
        if rank.wait():
            raise SystemExit(f"a rank ended with {rank.returncode}")
    if len(told) != steps:
        raise SystemExit(f"{len(told)} lines of {steps} steps")
    return [later - sooner for sooner, later in zip(told, told[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("--model", type=Path, default=DEMO / "model")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--saves", type=int, default=5)
    options = parser.parse_args()
    blocked = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rows.jsonl").write_text((json.dumps(ROW) + "\n") * 64)
        for asynchronous in (False, True):
            between = seconds_between_steps(options.program.resolve(), folder, options, asynchronous)
            saving = between[EVERY - 1::EVERY]
            plain = statistics.median(seconds for i, seconds in enumerate(between) if i % EVERY != EVERY - 1)
            blocked[asynchronous] = statistics.median(saving) - plain
            size = sum(file.stat().st_size for file in Path(folder, f"run-{asynchronous}").rglob("*.distcp"))
            print(f"{'async' if asynchronous else 'at once':8} a step {plain:.3f} s, a save of {size / 1e6:.1f} MB by {options.ranks} "
                  f"ranks keeps it {blocked[asynchronous]:.3f} s")
    print(f"of a save at once: {blocked[True] / blocked[False]:.3f}")


if __name__ == "__main__":
    main()
