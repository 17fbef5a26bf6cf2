#!/usr/bin/env python3
"""What several ranks take beside the model's own work: a step on two ranks of one thread against one of two threads.

  bench/ranks.py TRESTLE MODEL [--recipe ministral3_3b_peft_config] [--words 256] [--batch 16] [--rounds 3] [OVERRIDE...]

MODEL is a directory that bench/random_model.py makes (--layers 4 will do). Every run makes the same four steps of
`--batch` rows in forwards of one row, in float32; a round is one run of each topology, and the first step is not
counted. Printed: median seconds of a step, and 1 - one rank's / theirs, which is what sums, waiting and a worse cut of
the work take.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

STEPS = 4
TOPOLOGIES = {
    "one rank": None,
    "TP 2": ["model.tensor_model_parallel_size=2"],
    "DP 2": [],
    "PP 2": ["model.pipeline_model_parallel_size=2", "model.pipeline_split=cost"],
}


def seconds_of(options, folder, name, turn):
    own = TOPOLOGIES[name]
    run = Path(folder, f"{name.replace(' ', '')}-{turn}")
    command = ["finetune", "--recipe", options.recipe, "--pretrained-checkpoint", options.model.resolve(), "--dataset-type",
               "jsonl", "dataset.path_or_dataset=rows.jsonl", f"--global-batch-size={options.batch}", "train.micro_batch_size=1",
               "model.params_dtype=float32", f"train.train_iters={STEPS}", "checkpoint.save_interval=1000",
               "scheduler.lr_warmup_iters=0", f"checkpoint.save={run}", "model.tensor_model_parallel_size=1",
               "validation.eval_interval=0", *(own or []), *options.overrides]
    launch = [] if own is None else ["launch", "--nproc-per-node", "2", "--"]
    subprocess.run([options.program.resolve(), *launch, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "2" if own is None else "1"})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if "loss" in line][1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--recipe", default="ministral3_3b_peft_config")
    parser.add_argument("--words", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds = {name: [] for name in TOPOLOGIES}
    with tempfile.TemporaryDirectory() as folder:
        row = {"messages": [{"role": "user", "content": "total " * options.words}, {"role": "assistant", "content": "12.00"}]}
        Path(folder, "rows.jsonl").write_text((json.dumps(row) + "\n") * 64)
        for turn in range(options.rounds):
            for name in sorted(TOPOLOGIES, reverse=turn % 2 == 1):
                seconds[name] += seconds_of(options, folder, name, turn)
                print(f"round {turn + 1} {name:8} {statistics.median(seconds[name][1 - STEPS:]):8.3f} s a step", flush=True)
    one = statistics.median(seconds["one rank"])
    for name, all_of_it in seconds.items():
        step = statistics.median(all_of_it)
        print(f"{name:8} {step:8.3f} s a step" + ("" if name == "one rank" else f", {1 - one / step:6.1%} beside the model's own work"))


if __name__ == "__main__":
    main()
