#!/usr/bin/env python3
"""What going on with a run costs in one program against another: CPU seconds to open it, and of a step.

  bench/resume.py OLD_TRESTLE NEW_TRESTLE [--rounds 5]

Both go on from a first step of the embedded model, in turns, once for one step and once for twenty; the difference of
the two is nineteen steps. CPU time and one thread, so that a neighbour on the machine counts little.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
SHORT, LONG = 2, 21


def finetune(program, folder, run, steps, *load):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [program, "finetune", "--recipe", "demo_config", "--pretrained-checkpoint", DEMO / "model",
         f"dataset.path_or_dataset={DEMO / 'data' / 'train.parquet'}", "--global-batch-size", "4", "train.micro_batch_size=4",
         "scheduler.lr_warmup_iters=0", "scheduler.lr_decay_iters=1000", "checkpoint.save_interval=1000",
         f"checkpoint.save={run}", f"train.train_iters={steps}", *load],
        check=True, cwd=folder, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    programs = {"old": options.old.resolve(), "new": options.new.resolve()}
    seconds = {name: {SHORT: [], LONG: []} for name in programs}
    with tempfile.TemporaryDirectory(prefix="trestle-resume-") as folder:
        for name, program in programs.items():
            finetune(program, folder, name, 1)
        for turn in range(options.rounds):
            for name in sorted(programs, reverse=turn % 2 == 0):
                for steps in (SHORT, LONG):
                    run = f"{name}-{turn}-{steps}"
                    shutil.copytree(Path(folder, name), Path(folder, run))
                    seconds[name][steps].append(finetune(programs[name], folder, run, steps, f"checkpoint.load={run}"))
    step = {name: [(long - short) / (LONG - SHORT) for short, long in zip(times[SHORT], times[LONG])]
            for name, times in seconds.items()}
    for name in programs:
        print(f"{name}: a step {statistics.median(step[name]):.4f} s (least {min(step[name]):.4f}), to open and make one "
              f"{statistics.median(seconds[name][SHORT]):.3f} s (least {min(seconds[name][SHORT]):.3f})")
    print(f"new over old, a step: {statistics.median(step['new']) / statistics.median(step['old']):.3f}, of the least "
          f"{min(step['new']) / min(step['old']):.3f}; to open: "
          f"{statistics.median(seconds['new'][SHORT]) - statistics.median(seconds['old'][SHORT]):+.3f} s")


if __name__ == "__main__":
    main()
