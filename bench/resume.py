#!/usr/bin/env python3
"""What going on with a run costs in one program against another: seconds to open it, and CPU seconds of a step.

  bench/resume.py OLD_TRESTLE NEW_TRESTLE [--rounds 5]
  bench/resume.py OLD_TRESTLE NEW_TRESTLE --model m3b --recipe ministral3_3b_peft_config [--rounds 5]   # to open alone

Both make a first step of the embedded model (or of --model: bench/random_model.py makes one) and then, in turns, go on
from it: to no step more, which opens the run with all its checks and loads base and checkpoint; and, of the embedded
model, for one step and for twenty, of which the difference is nineteen steps. One thread; of a step the CPU's time, so
that a neighbour on the machine counts little.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
SHORT, LONG = 2, 21
ROW = {"messages": [{"role": "user", "content": "What is the total?"}, {"role": "assistant", "content": "12.00"}]}


class Bench:
    def __init__(self, folder, options):
        self.folder, self.embedded = folder, options.model is None
        self.programs = {"old": options.old.resolve(), "new": options.new.resolve()}
        if self.embedded:
            self.job = ["--pretrained-checkpoint", DEMO / "model", f"dataset.path_or_dataset={DEMO / 'data' / 'train.parquet'}",
                        "--global-batch-size", "4", "train.micro_batch_size=4"]
        else:
            Path(folder, "one.jsonl").write_text(json.dumps(ROW) + "\n")
            self.job = ["--pretrained-checkpoint", options.model.resolve(), "dataset.path_or_dataset=one.jsonl",
                        "--dataset-type", "jsonl", "--global-batch-size", "1", "train.micro_batch_size=1"]
        self.job += ["--recipe", options.recipe, "scheduler.lr_warmup_iters=0", "scheduler.lr_decay_iters=1000",
                     "checkpoint.save_interval=1000"]

    def finetune(self, name, run, steps, *load):
        """Seconds by the clock and of the CPU."""
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([self.programs[name], "finetune", *self.job, f"checkpoint.save={run}", f"train.train_iters={steps}", *load],
                       check=True, cwd=self.folder, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def turns(self, rounds):
        for turn in range(rounds):
            for name in sorted(self.programs, reverse=turn % 2 == 0):
                yield turn, name

    def open(self, rounds):
        print("to open and load:")
        seconds = {name: [] for name in self.programs}
        for _, name in self.turns(rounds):
            seconds[name].append(self.finetune(name, name, 1, f"checkpoint.load={name}"))
        for what, kind in enumerate(("clock", "CPU")):
            times = {name: [each[what] for each in seconds[name]] for name in seconds}
            for name, each in times.items():
                print(f"  {name}: {statistics.median(each):.3f} s of the {kind} (least {min(each):.3f})")
            print(f"  new less old: {statistics.median(times['new']) - statistics.median(times['old']):+.3f} s, of the least "
                  f"{min(times['new']) - min(times['old']):+.3f} s")

    def steps(self, rounds):
        print(f"a step, from {LONG - SHORT} of them:")
        step = {name: [] for name in self.programs}
        for turn, name in self.turns(rounds):
            seconds = {}
            for steps in (SHORT, LONG):
                run = f"{name}-{turn}-{steps}"
                shutil.copytree(Path(self.folder, name), Path(self.folder, run))
                seconds[steps] = self.finetune(name, run, steps, f"checkpoint.load={run}")[1]
            step[name].append((seconds[LONG] - seconds[SHORT]) / (LONG - SHORT))
        for name, each in step.items():
            print(f"  {name}: {statistics.median(each):.4f} s of the CPU (least {min(each):.4f})")
        print(f"  new over old: {statistics.median(step['new']) / statistics.median(step['old']):.3f}, of the least "
              f"{min(step['new']) / min(step['old']):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="another base than the embedded model")
    parser.add_argument("--recipe", default="demo_config")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trestle-resume-") as folder:
        bench = Bench(folder, options)
        for name in bench.programs:
            bench.finetune(name, name, 1)
        bench.open(options.rounds)
        if bench.embedded:
            bench.steps(options.rounds)


if __name__ == "__main__":
    main()
