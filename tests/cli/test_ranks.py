#!/usr/bin/env python3
"""`trestle launch -- finetune` as real processes: what one process computes, saved under one topology and resumed under
others; a rank that is killed, and one that is stopped, end the run with a word and lose nothing.

  .venv/bin/python tests/cli/test_ranks.py --trestle build/release/trestle
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import script

TESTS = Path(__file__).resolve().parent.parent
DEMO, RECEIPTS = (TESTS.parent / "assets" / "demo" / name for name in ("model", "data"))
STEPS = 4
# A stopped rank is missed after 15 s; SIGTERM and SIGKILL take the launcher five more.
ENDS = 30

TOPOLOGIES = {  # ranks, and what of them are no data ranks
    "dp2": (2, {}),
    "dp3": (3, {}),
    "tp2": (2, {"tensor": 2}),
    "cp2": (2, {"context": 2}),
    "pp2": (2, {"pipeline": 2}),
    "tp2_dp2": (4, {"tensor": 2}),
    "tp2_pp2": (4, {"tensor": 2, "pipeline": 2}),
}


def axes(of):
    return [f"model.{name}{'_model' if name != 'context' else ''}_parallel_size={size}" for name, size in of.items()]


class Ranks(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def words(self, run, steps, more=()):
        settings = {
            "dataset.path_or_dataset": RECEIPTS, "train.train_iters": steps, "model.params_dtype": "float32", "optimizer.lr": 1e-3,
            "scheduler.lr_warmup_iters": 0, "scheduler.lr_decay_iters": STEPS, "train.global_batch_size": 6, "train.micro_batch_size": 1,
            "dataset.image_max_edge": 112, "validation.eval_interval": 2, "validation.eval_iters": 1, "validation.split": "test",
            "checkpoint.save": run, "checkpoint.load": "auto", "checkpoint.save_interval": 2,
        }
        return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", DEMO,
                *(f"{key}={value}" for key, value in settings.items()), *more]

    def start(self, ranks, words):
        begin = [script.TRESTLE, "launch", "--nproc-per-node", str(ranks), "--"] if ranks else [script.TRESTLE]
        return subprocess.Popen([*map(str, begin), *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def run_ranks(self, ranks, words):
        process = self.start(ranks, words)
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err)
        return out, err

    def lines(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def expect_same(self, run, wanted, ranks_at=None):
        got = self.lines(run)
        self.assertEqual([sorted(line.keys() - {"ranks"}) for line in got], [sorted(line.keys() - {"ranks"}) for line in wanted])
        for one, other in zip(got, wanted):
            for key in ("step", "loss", "grad_norm", "lr", "valid_loss", "target_tokens", "tokens", "images"):
                if key in other:
                    self.assertLessEqual(abs(one[key] - other[key]), 1e-5 * abs(other[key]), f"{run} step {one['step']}: {key}")
            if ranks_at and "loss" in one:
                self.assertEqual(one["ranks"], ranks_at[one["step"]])

    def test_runs_go_on_under_any_topology(self):
        self.run_ranks(0, self.words("one", STEPS))
        wanted = self.lines("one")
        begins = {name: TOPOLOGIES[name] for name in ("dp2", "tp2_pp2")}
        for begin, (ranks, of) in begins.items():
            self.run_ranks(ranks, self.words(begin, 2, axes(of)))
            for name, (more_ranks, more_of) in TOPOLOGIES.items():
                with self.subTest(begin=begin, then=name):
                    run = f"{begin}_{name}"
                    shutil.copytree(self.folder / begin, self.folder / run)
                    self.run_ranks(more_ranks, self.words(run, STEPS, axes(more_of)))
                    self.expect_same(run, wanted, {1: ranks, 2: ranks, 3: more_ranks, 4: more_ranks})
            run = f"{begin}_one"
            shutil.copytree(self.folder / begin, self.folder / run)
            self.run_ranks(0, self.words(run, STEPS))
            self.expect_same(run, wanted)

    def hit(self, run, number, signal_number):
        """Sends rank `number` a signal behind the first checkpoint; returns what the launcher said and when it ended."""
        process = self.start(2, self.words(run, 100, ["scheduler.lr_decay_iters=100"]))
        end = time.monotonic() + 120
        while not (self.folder / run / "iter_0000002" / "metadata.json").exists():
            self.assertIsNone(process.poll(), "it ended by itself")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        ranks = {}
        for pid in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks.update({int(word[5:]): int(pid) for word in environment if word.startswith(b"RANK=")})
        os.kill(ranks[number], signal_number)
        began = time.monotonic()
        _, err = process.communicate(timeout=120)
        for pid in ranks.values():
            self.assertFalse(Path(f"/proc/{pid}").exists(), f"{pid} is left")
        return process.returncode, err, time.monotonic() - began

    def expect_whole(self, run):
        """The run goes on from a checkpoint that is all there."""
        newest = int((self.folder / run / "latest_checkpointed_iteration.txt").read_text())
        self.assertGreaterEqual(newest, 2)
        _, err = self.run_ranks(2, self.words(run, newest + 1, ["scheduler.lr_decay_iters=100"]))
        steps = [line["step"] for line in self.lines(run) if "loss" in line]
        self.assertEqual(steps, list(range(1, newest + 2)))

    def test_a_killed_rank_ends_the_run(self):
        for number in (0, 1):
            with self.subTest(rank=number):
                run = f"killed_{number}"
                status, err, seconds = self.hit(run, number, signal.SIGKILL)
                self.assertEqual(status, 1, err)
                self.assertIn(f"rank {number} was ended by SIGKILL", err)
                self.assertLess(seconds, ENDS)
                self.expect_whole(run)

    def test_a_stopped_rank_is_missed(self):
        for number in (0, 1):
            with self.subTest(rank=number):
                run = f"stopped_{number}"
                status, err, seconds = self.hit(run, number, signal.SIGSTOP)
                self.assertEqual(status, 1, err)
                self.assertIn(f"rank {number} of 2 has said nothing for 15 s", err)
                self.assertRegex(err, rf"rank {1 - number}: step \d+, rows? .*in \w+ of \[")
                self.assertLess(seconds, ENDS)
                self.expect_whole(run)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
