#!/usr/bin/env python3
"""`kill -9` at random moments of finetune, import and export, and what is gone on with behind it: test_crash.py strikes
at chosen calls, this one at moments that nobody chose.

  .venv/bin/python tests/cli/test_kill.py --trestle build/release/trestle [--kills 200] [--seed 1] [Kills.test ...]

Behind each kill whatever has the name of a checkpoint is whole; the command is given again until it ends, and then the
files and, to the bit, the losses are those of an undisturbed run. Half of the moments lie anywhere in the life of the
process, half in one of its saves. A failure names seed and moment.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import unittest
from pathlib import Path

import script
import test_crash
from test_crash import contents, leftovers, run

ASSETS = test_crash.TESTS.parent / "assets" / "demo"
MODEL, RECEIPTS = ASSETS / "model", ASSETS / "data"
KILLS = 20  # of all commands together
SEED = random.SystemRandom().randrange(1 << 32)  # other moments in each run are the point; a failure names it
TIMES = ("seconds", "valid_seconds", "peak_memory_bytes")  # of a line of metrics.jsonl: no two runs have the same


def temporaries(folder):
    """What is being written at the top of a folder or of one in it."""
    found, places = set(), [folder]
    for place in places:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                if ".tmp-" in entry.name:
                    found.add(entry.path)
                if place is folder:
                    places.append(entry.path)
    return found


class Life:
    """An undisturbed process: how long it took, and for how long each of its temporaries was there, in order."""

    def __init__(self, folder):
        self.folder, self.seconds, self.saves = folder, 0, []

    def watch(self, started):
        start, seen = time.monotonic(), {}
        while started.poll() is None:
            now = time.monotonic()
            for path in temporaries(self.folder):
                seen[path] = (seen.get(path, (now,))[0], now)
            time.sleep(0.001)
        self.seconds = time.monotonic() - start
        self.saves = [last - first for first, last in sorted(seen.values())]


class Moment:
    """When to kill: so many seconds behind the start or, with `save`, behind the sight of the so-manyth temporary."""

    def __init__(self, life, chance):
        self.folder = life.folder
        self.save = chance.randrange(len(life.saves)) if chance.random() < 0.5 else None
        # A little beyond, where the rename is.
        longest = life.seconds if self.save is None else 1.2 * life.saves[self.save] + 0.002
        self.seconds = chance.uniform(0, longest)

    def __str__(self):
        behind = "the start" if self.save is None else f"temporary {self.save + 1} was seen"
        return f"{self.seconds:.4f} s after {behind}"

    def wait_and_kill(self, started):
        if self.save is not None:
            before, seen = temporaries(self.folder), set()  # a killed one's are no save of this one
            while len(seen) <= self.save and started.poll() is None:
                seen |= temporaries(self.folder) - before
        test_crash.kill_after(self.seconds)(started)


class Kills(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder, self.finished = Path(scratch.name) / "folder", Path(scratch.name) / "finished"
        self.random = random.Random(f"{SEED} {self.id()}")

    def fresh(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def check(self, path, message):
        done = run(["inspect", path, "--check"], self.folder)
        self.assertEqual(done.returncode, 0, f"{message}: {path}: {done.stdout}{done.stderr}")

    def killed(self, share, arguments, broken, finished):
        """Kills `share` of all kills: `arguments` are those of the next process, `broken` looks at what a kill has left,
        `finished` compares what is there in the end with an undisturbed run's, and may begin a next one."""
        self.fresh()
        life = Life(self.folder)
        done = run(arguments(), self.folder, life.watch)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(len(life.saves), 0)
        shutil.copytree(self.folder, self.finished)
        finished("undisturbed")
        self.fresh()
        kills, halves, history = 0, 0, []
        wanted = max(1, round(KILLS * share))
        while kills < wanted or history:
            command = arguments()
            moment = Moment(life, self.random) if kills < wanted else None
            done = run(command, self.folder, moment.wait_and_kill if moment else lambda started: None)
            message = f"--seed {SEED}: {' '.join(map(str, command))} killed {', '.join(history) or 'nowhere'}"
            if done.returncode == -signal.SIGKILL:
                kills += 1
                halves += bool(leftovers(self.folder))
                history.append(str(moment))
                broken(f"{message}, {moment}")
                continue
            if done.returncode != 0:
                # What was killed behind its rename is there already, and is not written over.
                self.assertEqual((done.returncode, command[0] != "finetune"), (test_crash.USER, True),
                                 f"{message}: {done.stderr}")
                self.assertIn("exists and is not empty", done.stderr, message)
            finished(message)
            self.fresh()
            history = []
        print(f"{self.id()}: {kills} kills of a process of {life.seconds:.2f} s, {halves} left half of something", flush=True)

    # Conversions.

    def converts(self, share, target, *arguments):
        def broken(message):
            state = contents(self.folder / target)
            if state is not None:
                self.assertEqual(state, contents(self.finished / target), message)
                self.check(target, message)

        def finished(message):
            self.assertEqual(contents(self.folder), contents(self.finished), message)
            self.check(target, message)

        self.killed(share, lambda: arguments, broken, finished)

    def test_import(self):
        self.converts(0.2, "run", "import", "--hf-model", MODEL, "--megatron-path", "run")

    def test_export(self):
        source = self.folder.with_name("source")
        done = run(["import", "--hf-model", MODEL, "--megatron-path", source], self.folder.parent)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.converts(0.2, "hf", "export", "--megatron-path", source, "--hf-model", MODEL, "--hf-path", "hf")

    # Training.

    def metrics(self, folder):
        """The whole lines of metrics.jsonl without its times, each as written (%.17g and the like say a double whole)."""
        path = folder / "run" / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last is whole, or empty
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]

    def files(self, folder):
        """Every file of a run and its digest, where two runs have the same bytes."""
        found = {}
        for name, digest in contents(folder).items():
            if name.startswith("run/tensorboard/"):  # one for each process, named by its start
                name = "run/tensorboard/events"
            own = name in ("run/metrics.jsonl", "run/report.html", "run/resolved_config.yaml", "run/tensorboard/events")
            found[name] = None if own else digest
        return found

    def check_best(self, folder, message):
        best = folder / "run" / "best.json"
        if best.exists():
            self.assertTrue((best.parent / json.loads(best.read_text())["checkpoint"]).is_dir(), message)

    def trains(self, share, steps, **settings):
        settings = {"dataset.path_or_dataset": RECEIPTS, "train.train_iters": steps, "train.global_batch_size": 2,
                    "train.micro_batch_size": 2, "checkpoint.save": "run", "checkpoint.save_interval": 1,
                    "optimizer.lr": 1e-3, "scheduler.lr_warmup_iters": 0, "validation.eval_interval": 2,
                    "validation.eval_iters": 1, "validation.split": "test", "validation.best_metric": "valid_loss",
                    "validation.answers": 1, "validation.max_new_tokens": 4,
                    "checkpoint.load": "auto",  # what a requeued job gives
                    **settings}

        def arguments():
            return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", MODEL,
                    *(f"{key}={value}" for key, value in settings.items())]

        def broken(message):
            for path in sorted(self.folder.glob("run/iter_*")):
                self.check(path, message)
                name = path.relative_to(self.folder)
                self.assertEqual(contents(path), contents(self.finished / name), f"{message}: {name}")
            self.check_best(self.folder, message)
            lines, whole = self.metrics(self.folder), self.metrics(self.finished)
            self.assertEqual(lines, whole[:len(lines)], message)

        def finished(message):
            self.assertEqual(leftovers(self.folder), [], message)
            self.assertEqual(self.metrics(self.folder), self.metrics(self.finished), message)
            self.assertEqual(self.files(self.folder), self.files(self.finished), message)
            self.check_best(self.folder, message)

        self.killed(share, arguments, broken, finished)
        steps_told = [line["step"] for line in self.metrics(self.finished) if "loss" in line]
        self.assertEqual(steps_told, list(range(1, steps + 1)))
        self.assertTrue((self.finished / "run" / "best.json").exists())

    def test_adapters(self):
        """Dropout, so that torch's random state counts."""
        self.trains(0.3, 5, **{"peft.dim": 4, "peft.dropout": 0.1})

    def test_killed_between_the_first_checkpoint_and_its_tracker(self):
        """A moment of microseconds, so it is made: the iteration has its name, and no tracker names it yet."""
        def untracked():
            for tracker in ("latest_checkpointed_iteration.txt", "latest_train_state.pt"):
                (self.folder / "run" / tracker).unlink()

        arguments = ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", MODEL, "checkpoint.load=auto",
                     f"dataset.path_or_dataset={RECEIPTS}", "train.global_batch_size=2", "train.micro_batch_size=2",
                     "checkpoint.save=run", "checkpoint.save_interval=1", "scheduler.lr_warmup_iters=0", "peft.dim=4",
                     "train.train_iters=2"]
        self.fresh()
        self.assertEqual(run(arguments, self.folder).returncode, 0)
        whole = self.metrics(self.folder)
        self.fresh()
        self.assertEqual(run([*arguments, "train.exit_interval=1"], self.folder).returncode, 0)
        untracked()
        done = run(arguments, self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("from step 1 to 2", done.stderr)
        self.assertEqual(self.metrics(self.folder), whole)

    def test_killed_before_the_first_save(self):
        """Of a run from another's weights or steps: the base is not taken in silence, and the advice that is given is good."""
        def arguments(*overrides, save="run", steps=200):
            return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", MODEL, "validation.eval_interval=0",
                    f"dataset.path_or_dataset={RECEIPTS}", "train.global_batch_size=2", "train.micro_batch_size=2",
                    f"checkpoint.save={save}", "checkpoint.save_interval=200", "scheduler.lr_warmup_iters=0", "peft.dim=4",
                    f"train.train_iters={steps}", *overrides]

        def kill_behind_a_step(started):
            while started.poll() is None and not self.metrics(self.folder):
                time.sleep(0.01)
            started.kill()

        self.fresh()
        self.assertEqual(run(arguments(save="first", steps=2), self.folder).returncode, 0)
        for begun in (["checkpoint.load=first", "checkpoint.finetune=true"], ["checkpoint.load=first"]):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            done = run(arguments(*begun), self.folder, kill_behind_a_step)
            self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
            first = self.metrics(self.folder)[0]
            for again in (["checkpoint.load=auto"], [], ["checkpoint.load=run"]):
                done = run(arguments(*again), self.folder)
                self.assertEqual(done.returncode, test_crash.USER, done.stderr)
                advice = done.stderr.splitlines()[-1].partition("begin it again by ")[2].partition(", or")[0].split(" ")
                self.assertEqual(advice, begun)
            done = run(arguments(*advice, "train.exit_interval=1"), self.folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.metrics(self.folder), [first])
            done = run(arguments("checkpoint.load=auto", "train.exit_interval=1"), self.folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([line["step"] for line in self.metrics(self.folder)], [first["step"], first["step"] + 1])

    def test_full(self):
        self.trains(0.3, 3, **{"peft.scheme": ""})


if __name__ == "__main__":
    known = script.read_line(__doc__, kills={"type": int, "default": KILLS}, seed={"type": int, "default": SEED})
    KILLS, SEED = known.kills, known.seed
    unittest.main()
