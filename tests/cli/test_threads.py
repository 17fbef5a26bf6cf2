#!/usr/bin/env python3
"""What the program does where the system starts no more threads, and when a signal comes behind another.

  .venv/bin/python tests/cli/test_threads.py --trestle build/release/trestle --faults build/release/tests/faults.so

--faults (tests/cli/faults.c) is preloaded and refuses the n-th thread and all later ones, for every n that the command
gets to.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

import script
from fake_hub import FakeHub
from test_bad_input import DEMO, HF, MACHINE, MEGATRON, TESTS, Refusals, contents

RECEIPTS = TESTS.parent / "assets" / "demo" / "data"
FAULTS = None
MOST_THREADS = 30  # that any command here asks for, libraries' own among them


def finetune(*overrides):
    return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", DEMO, f"dataset.path_or_dataset={RECEIPTS}",
            "checkpoint.save=run", "train.micro_batch_size=1", "validation.eval_interval=0", "scheduler.lr_warmup_iters=0", *overrides]


class NoMoreThreads(Refusals):
    def bounded(self, arguments, threads, environment=None):
        return subprocess.run([script.TRESTLE, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "LD_PRELOAD": str(FAULTS),
                                                "FAULT_THREADS": str(threads)} | (environment or {}),
                              stdin=subprocess.DEVNULL, timeout=60)

    def messages(self, *arguments, environment=None, left=(), most=None):
        """The last lines of its refusals as the bound goes up, until it works, or `most` of them; each leaves only what
        `left` allows."""
        before, lines = contents(self.folder), []
        for threads in range(1, MOST_THREADS):
            if len(lines) == most:
                return lines
            done = self.bounded(arguments, threads, environment)
            what = f"{arguments[0]} with {threads - 1} threads: exit {done.returncode}\n{done.stderr}"
            if done.returncode == 0:
                return lines
            self.assertEqual(done.returncode, MACHINE, what)
            last = done.stderr.splitlines()[-1]
            self.assertTrue(last.startswith("trestle: "), what)
            new = {name for name in contents(self.folder).keys() - before.keys() if not name.startswith(left or ("\0",))}
            self.assertEqual(new, set(), what)
            lines.append(last)
        self.fail(f"{arguments[0]} does not work with {MOST_THREADS} threads either: {lines[-1]}")

    def asks(self, lines, what, counts, threads):
        """Of `threads` threads for `what` each was refused once."""
        ours = [line for line in lines if what in line]
        self.assertEqual(len(ours), counts, lines)
        for n, line in enumerate(ours):
            plural = "s" if threads > 1 else ""
            self.assertIn(f"asks for {threads} thread{plural}, and the system starts no more behind {n % threads} "
                          "(Resource temporarily unavailable)", line)
            self.assertIn("ulimit -u", line)

    def test_samples_prepared_ahead(self):
        lines = self.messages(*finetune("dataset.num_workers=3", "train.train_iters=1", "train.global_batch_size=1"))
        self.asks(lines, "dataset.num_workers=3", 3, 3)

    def test_conversions(self):
        lines = self.messages("import", "--hf-model", HF, "--megatron-path", "run")
        self.asks(lines, "reading ahead of the writer", 1, 1)
        # Reads back what it wrote, each tensor of both at once.
        lines = self.messages("export", "--megatron-path", MEGATRON, "--hf-model", HF, "--hf-path", "hf", most=5)
        self.asks(lines, "reading ahead of the writer", 1, 1)
        self.asks(lines, "reading two checkpoints at once", 4, 1)

    def test_compare(self):
        shutil.copytree(HF, self.folder / "copy")
        self.asks(self.messages("compare", HF, "copy", most=4), "reading two checkpoints at once", 4, 1)

    def test_downloads(self):
        hub = self.enterContext(FakeHub())
        hub.add("org/tiny", {path.name: path.read_bytes() for path in HF.iterdir()})
        environment = {"HF_HOME": str(self.folder / "home"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*", "no_proxy": "*"}
        # Blobs that came whole are kept for the next try.
        lines = self.messages("inspect", "org/tiny", environment=environment, left=("home",))
        self.assertTrue(any("downloading from the Hub asks for 4 threads" in line for line in lines), lines)


class Signals(Refusals):
    """A run whose step takes a minute: the first signal waits for it, the second ends it at once by that signal."""

    def catches(self, process):
        """Whether the process takes SIGTERM and SIGINT itself."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))

    def test_either_second_signal_ends_it(self):
        for first in (signal.SIGINT, signal.SIGTERM):
            for second in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(first=first.name, second=second.name):
                    process = subprocess.Popen(
                        [script.TRESTLE, *map(str, finetune("train.global_batch_size=4096", "train.train_iters=2"))],
                        cwd=self.folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    self.addCleanup(process.kill)
                    end = time.monotonic() + 30
                    while not self.catches(process):
                        self.assertIsNone(process.poll())
                        self.assertLess(time.monotonic(), end, "it never trains")
                        time.sleep(0.05)
                    process.send_signal(first)
                    with self.assertRaises(subprocess.TimeoutExpired):
                        process.wait(timeout=1.5)
                    process.send_signal(second)
                    self.assertEqual(process.wait(timeout=5), -second)
                    metrics = self.folder / "run" / "metrics.jsonl"
                    steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
                    self.assertEqual(steps, [], "a step was over before the second signal")
                    shutil.rmtree(self.folder / "run", ignore_errors=True)


if __name__ == "__main__":
    FAULTS = script.read_line(__doc__, faults=script.FAULTS).faults
    unittest.main()
