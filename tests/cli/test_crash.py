#!/usr/bin/env python3
"""What is on the disk after `kill -9` or a full disk at any moment of import, export and finetune.

  .venv/bin/python tests/cli/test_crash.py --trestle build/release/trestle --faults build/release/tests/faults.so

The target is absent, the old one whole or the new one whole, byte for byte, and `inspect --check` says so. What is left
beside it does not load, and the next run removes it. --faults (tests/cli/faults.c) is preloaded and strikes at the n-th
call that changes a file; --every strikes at each of them instead of at a seeded choice.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import script

TESTS = Path(__file__).resolve().parent.parent
HF, MEGATRON = TESTS / "fixtures" / "hf", TESTS / "fixtures" / "megatron" / "import"
FAULTS = None
POINTS = 14  # moments a command is struck at; 0: all
SEED = 1234
USER, MACHINE = 2, 1


def without_lineage(name, data):
    """Equal runs are told apart by a random number in run_config.yaml, whose digest integrity.json has."""
    if name == "run_config.yaml":
        return re.sub(rb"lineage: .?[0-9a-f]{32}.?\n", b"", data)
    return re.sub(rb'"run_config.yaml": "[0-9a-f]{64}"', b"", data) if name == "integrity.json" else data


def contents(folder):
    """Digest of every file below a folder; None where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    return {path.relative_to(folder).as_posix():
            hashlib.sha256(without_lineage(path.name, path.read_bytes())).digest() if path.is_file() else None
            for path in folder.rglob("*")}


def leftovers(folder):
    return sorted(path for path in Path(folder).rglob(".*.tmp-*"))


def kill_after(seconds):
    """What `run` may do meanwhile."""
    def kill(started):
        time.sleep(seconds)
        started.kill()
    return kill


def run(arguments, folder, meanwhile=lambda started: None, **environment):
    """The finished process, of which `meanwhile` is told when it has started."""
    started = subprocess.Popen([script.TRESTLE, *map(str, arguments)], cwd=folder, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)
    try:
        meanwhile(started)
        out, err = started.communicate(timeout=120)
    finally:
        started.kill()
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


class Job:
    """A command that writes `target` below a folder that `prepare` fills; `states` reads what counts of the target."""

    def __init__(self, arguments, target, prepare=lambda folder: None, states=contents):
        self.arguments, self.target, self.prepare, self.states = arguments, target, prepare, states


def finetune(folder_run, iterations, rate, **overrides):
    settings = {"checkpoint.pretrained_checkpoint": HF, "checkpoint.save": folder_run, "train.train_iters": iterations,
                "train.global_batch_size": 1, "train.micro_batch_size": 1, "scheduler.lr_warmup_iters": 0,
                "optimizer.lr": rate, "checkpoint.save_interval": 1, "dataset.path_or_dataset": "data.jsonl",
                **overrides}
    return ["finetune", "--recipe", "demo_config", "--dataset-type", "jsonl",
            *(f"{key}={value}" for key, value in settings.items())]


def write_data(folder):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (folder / "data.jsonl").write_text(json.dumps(row) + "\n")


def tracked(run_folder):
    """The iteration that a run's tracker names, which is what loads; None without a tracker."""
    tracker, text = run_folder / "latest_train_state.pt", run_folder / "latest_checkpointed_iteration.txt"
    if not tracker.exists():
        if not text.exists():
            return None
        path = run_folder / f"iter_{int(text.read_text()):07}"
        return {path.name: contents(path)}
    for path in sorted(run_folder.glob("iter_*")):
        if (path / "train_state.pt").read_bytes() == tracker.read_bytes():
            return {path.name: contents(path)}
    raise AssertionError(f"{tracker} names none of {sorted(run_folder.iterdir())}")


class Crashes(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.finished = self.scratch / "finished"  # the folder after an undisturbed run
        self.random = random.Random(SEED)

    def fresh(self, job):
        folder = self.scratch / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        job.prepare(folder)
        return folder

    def learn(self, job):
        """The state before, the state after, the number of calls that change files, and the seconds it takes."""
        folder = self.fresh(job)
        old = job.states(folder / job.target)
        log = self.scratch / "count"
        start = time.monotonic()
        done = run(job.arguments, folder, LD_PRELOAD=str(FAULTS), FAULT_LOG=str(log))
        self.assertEqual(done.returncode, 0, done.stderr)
        new = job.states(folder / job.target)
        self.assertNotEqual(old, new)
        self.assertEqual(leftovers(folder), [])
        self.assert_check(folder / job.target, True)
        shutil.copytree(folder, self.finished)
        return old, new, int(log.read_text()), time.monotonic() - start

    def points(self, calls):
        self.assertGreater(calls, 20, "the faults are not preloaded")
        points = list(range(1, calls + 1))
        if not POINTS or calls <= POINTS:
            return points
        # The last calls are the renames and the removal of what was replaced.
        return sorted(set(points[-6:]) | set(self.random.sample(points, POINTS)))

    def assert_check(self, path, good):
        done = run(["inspect", path, "--check"], self.scratch)
        self.assertEqual(done.returncode, 0 if good else USER, f"{path}: {done.stdout}{done.stderr}")

    def assert_whole(self, job, folder, states, message):
        """The target is in one of `states`, and --check agrees."""
        state = job.states(folder / job.target)
        self.assertTrue(any(state == each for each in states), f"{message}: neither the old nor the new one is there")
        self.assert_check(folder / job.target, state is not None)
        return state

    def assert_leftovers_do_not_load(self, folder, message):
        """Half of a new checkpoint is none. Of one that was replaced the removal may have begun; no tracker names it."""
        for path in leftovers(folder):
            inside = path.relative_to(folder)
            if not path.is_dir() or any(".tmp-" in part for part in inside.parts[:-1]):
                continue
            target = inside.with_name(path.name[1:].split(".tmp-")[0])
            whole = contents(self.finished / target)
            if contents(folder / target) != whole:
                checked = run(["inspect", path, "--check"], self.scratch)
                self.assertTrue(checked.returncode == USER or contents(path) == whole, f"{message}: {path} passes")

    def assert_recovers(self, job, folder, state, new, message):
        """The next run ends as an undisturbed one does, and nothing is left beside it."""
        done = run(job.arguments, folder)
        if state == new and done.returncode == USER:
            self.assertIn("exists", done.stderr, message)  # import and export replace nothing
        else:
            self.assertEqual(done.returncode, 0, f"{message}: {done.stderr}")
        self.assertEqual(job.states(folder / job.target), new, message)
        self.assertEqual(leftovers(folder), [], message)

    def killed_anywhere(self, job):
        old, new, calls, seconds = self.learn(job)
        seen = []
        for at in self.points(calls):
            message = f"{job.arguments[0]} killed at call {at} of {calls}"
            folder = self.fresh(job)
            done = run(job.arguments, folder, LD_PRELOAD=str(FAULTS), FAULT_AT=str(at), FAULT="kill")
            self.assertEqual(done.returncode, -signal.SIGKILL, f"{message}: {done.stderr}")
            seen.append(self.assert_whole(job, folder, (old, new), message))
            self.assert_leftovers_do_not_load(folder, message)
            self.assert_recovers(job, folder, seen[-1], new, message)
        self.assertIn(old, seen)
        for _ in range(3):
            after = self.random.uniform(0, seconds)
            message = f"{job.arguments[0]} killed after {after:.3f} of {seconds:.3f} s"
            folder = self.fresh(job)
            run(job.arguments, folder, kill_after(after))
            state = self.assert_whole(job, folder, (old, new), message)
            self.assert_recovers(job, folder, state, new, message)

    def disk_full_anywhere(self, job):
        old, new, calls, _ = self.learn(job)
        for at in self.points(calls):
            message = f"{job.arguments[0]} without space from call {at} of {calls} on"
            folder = self.fresh(job)
            done = run(job.arguments, folder, LD_PRELOAD=str(FAULTS), FAULT_AT=str(at), FAULT=str(errno.ENOSPC))
            state = self.assert_whole(job, folder, (old, new), message)
            if done.returncode == 0:  # from here on nothing needs space
                self.assertEqual(state, new, message)
            else:
                self.assertEqual(done.returncode, MACHINE, f"{message}: {done.stderr}")
                last = done.stderr.splitlines()[-1]
                self.assertTrue(last.startswith("trestle: ") and "No space left" in last, f"{message}: {done.stderr}")
            self.assertEqual(leftovers(folder), [], message)


IMPORT = Job(["import", "--hf-model", HF, "--megatron-path", "run"], "run")
EXPORT = Job(["export", "--megatron-path", MEGATRON, "--hf-model", HF, "--hf-path", "hf"], "hf")


class Conversions(Crashes):
    def test_import_killed(self):
        self.killed_anywhere(IMPORT)

    def test_export_killed(self):
        self.killed_anywhere(EXPORT)

    def test_import_without_space(self):
        self.disk_full_anywhere(IMPORT)

    def test_export_without_space(self):
        self.disk_full_anywhere(EXPORT)


class Training(Crashes):
    """A run's iterations are saved one after the other; what counts is the one that its tracker names."""

    def trained(self, iterations, rate):
        """Prepares a folder with a run of so many steps."""
        kept = self.scratch / "kept"
        kept.mkdir()
        write_data(kept)
        done = run(finetune("run", iterations, rate), kept)
        self.assertEqual(done.returncode, 0, done.stderr)
        return lambda folder: shutil.copytree(kept, folder, dirs_exist_ok=True)

    def test_first_save_killed(self):
        self.killed_anywhere(Job(finetune("run", 1, 1e-3, **{"checkpoint.load": "auto"}), "run", write_data, tracked))

    # users' pain point 24: resuming.
    def test_next_save_killed(self):
        """From step 1 to 2: the run keeps the first until the tracker names the second."""
        prepare = self.trained(1, 1e-3)
        self.killed_anywhere(Job(finetune("run", 2, 1e-3, **{"checkpoint.load": "run"}), "run", prepare, tracked))

    def test_async_save_killed(self):
        """As one that waits: the writer's thread dies with the process."""
        settings = {"checkpoint.load": "run", "checkpoint.async_save": "true"}
        self.killed_anywhere(Job(finetune("run", 2, 1e-3, **settings), "run", self.trained(1, 1e-3), tracked))

    def test_async_save_without_space(self):
        settings = {"checkpoint.load": "run", "checkpoint.async_save": "true"}
        self.disk_full_anywhere(Job(finetune("run", 2, 1e-3, **settings), "run", self.trained(1, 1e-3), tracked))

    def test_removal_killed(self):
        """checkpoint.most_recent_k: whatever has the name of a checkpoint is whole, and the next run ends the removal."""
        settings = {"checkpoint.load": "auto", "checkpoint.most_recent_k": 1}
        job = Job(finetune("run", 4, 1e-3, **settings), "run", self.trained(3, 1e-3), tracked)
        old, new, calls, _ = self.learn(job)
        self.assertEqual(sorted(path.name for path in (self.finished / "run").glob("*iter_*")), ["iter_0000004"])
        halves = 0
        for at in sorted(set(self.points(calls)) | set(range(calls - 40, calls + 1))):
            message = f"killed at call {at} of {calls}"
            folder = self.fresh(job)
            done = run(job.arguments, folder, LD_PRELOAD=str(FAULTS), FAULT_AT=str(at), FAULT="kill")
            self.assertEqual(done.returncode, -signal.SIGKILL, f"{message}: {done.stderr}")
            self.assert_whole(job, folder, (old, new), message)
            for path in (folder / "run").glob("iter_*"):
                self.assert_check(path, True)
            halves += bool(list((folder / "run").glob(".iter_*.removed")))
            done = run(finetune("run", 5, 1e-3, **settings), folder)
            self.assertEqual(done.returncode, 0, f"{message}: {done.stderr}")
            self.assertEqual([path.name for path in (folder / "run").glob("*iter_*")], ["iter_0000005"], message)
        self.assertGreater(halves, 2)

    def replacing(self):
        """The second step again with another rate: the tracker still names the first, as a kill in time leaves it."""
        trained = self.trained(2, 1e-3)

        def prepare(folder):
            trained(folder)
            (folder / "run" / "latest_checkpointed_iteration.txt").write_text("1")
            shutil.copy(folder / "run" / "iter_0000001" / "train_state.pt", folder / "run" / "latest_train_state.pt")

        return Job(finetune("run", 2, 1e-2, **{"checkpoint.load": "run"}), "run/iter_0000002", prepare)

    def test_replaced_save_killed(self):
        """Exchanged whole."""
        self.killed_anywhere(self.replacing())

    def test_replaced_save_without_space(self):
        self.disk_full_anywhere(self.replacing())


if __name__ == "__main__":
    known = script.read_line(__doc__, faults=script.FAULTS, every={"action": "store_true"})
    FAULTS, POINTS = known.faults, 0 if known.every else POINTS
    unittest.main()
