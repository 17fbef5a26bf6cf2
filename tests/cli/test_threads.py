#!/usr/bin/env python3
"""What the program does where the system starts no more threads, when a signal comes behind another, and where nobody
reads what it says.

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


class Told(Refusals):
    def test_one_thread_is_one(self):
        for threads, words in (("1", ", 1 thread\n"), ("2", ", 2 threads\n")):
            done = subprocess.run([script.TRESTLE, "inspect", "--cpu"], capture_output=True, text=True, timeout=60,
                                  env=os.environ | {"OMP_NUM_THREADS": threads})
            self.assertIn(words, done.stdout)


class Runs(Refusals):
    """A run in the background, and what it has left behind."""

    def start(self, *overrides, trains=True, stderr=subprocess.DEVNULL, **options):
        process = subprocess.Popen([script.TRESTLE, *map(str, finetune(*overrides))], cwd=self.folder,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=stderr, **options)
        self.addCleanup(process.kill)
        if trains:
            self.until(process, lambda: self.catches(process))
        return process

    def start_short(self, steps, **options):
        """Made many steps, one of which is over."""
        process = self.start("train.global_batch_size=1", f"train.train_iters={steps}", trains=False, **options)
        self.until(process, lambda: self.steps() or process.poll() is not None)
        return process

    def until(self, process, holds):
        end = time.monotonic() + 30
        while not holds():
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), end, "it never trains")
            time.sleep(0.02)

    def catches(self, process):
        """Whether the process takes SIGTERM and SIGINT itself."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))

    def steps(self):
        metrics = self.folder / "run" / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def saved(self):
        """The last step is in a whole checkpoint, and nothing is half-written; it is cleared away."""
        run, steps = self.folder / "run", self.steps()
        self.assertEqual([path.name for path in run.glob("iter_*")], [f"iter_{steps:07}"])
        done = self.run_trestle("inspect", "--check", "run")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([path for path in run.rglob("*") if ".tmp-" in path.name], [])
        shutil.rmtree(run)
        return steps


class Signals(Runs):
    """A step that takes a minute: the first signal waits for it, the second ends it at once by that signal. Short ones:
    the first saves."""

    def test_either_second_signal_ends_it(self):
        for first in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for second in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(first=first.name, second=second.name):
                    process = self.start("train.global_batch_size=4096", "train.train_iters=2")
                    process.send_signal(first)
                    with self.assertRaises(subprocess.TimeoutExpired):
                        process.wait(timeout=1.5)
                    process.send_signal(second)
                    self.assertEqual(process.wait(timeout=5), -second)
                    self.assertEqual(self.steps(), 0, "a step was over before the second signal")
                    shutil.rmtree(self.folder / "run", ignore_errors=True)

    def test_a_terminal_that_closes(self):
        """From its shell and from the kernel a SIGHUP comes each, and one behind systemd's SIGTERM."""
        for signals in ((signal.SIGHUP,), (signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP)):
            with self.subTest(signals=[each.name for each in signals]):
                process = self.start_short(5000, stderr=subprocess.PIPE, text=True)
                for each in signals:
                    process.send_signal(each)
                    time.sleep(0.005)
                said = process.communicate(timeout=30)[1]
                self.assertEqual(process.returncode, -signals[0], said)
                self.assertIn(f"{signals[0].name}: saved step {self.steps()}; go on with checkpoint.load=run", said)
                self.assertLess(self.saved(), 5000)

    def test_nohup(self):
        process = self.start_short(30, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertEqual(self.saved(), 30)


class Unread(Runs):
    """Standard output and standard error that nobody reads any more."""

    def closed(self, *arguments, stdin=subprocess.DEVNULL):
        """Runs it with a stdout that nobody reads; status, and what it says on stderr."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run([script.TRESTLE, *map(str, arguments)], cwd=self.folder, stdin=stdin, stdout=writer,
                                  stderr=subprocess.PIPE, text=True, timeout=60)
        finally:
            os.close(writer)
        return done.returncode, done.stderr

    def test_they_end_as_cat_does(self):
        for arguments in (["inspect", HF], ["inspect", "--check", HF], ["recipes"], ["recipes", "--keys"], ["--help"],
                          ["finetune", "--recipe", "demo_config", "--print-config"], ["compare", HF, HF, "--no-forward"]):
            with self.subTest(command=arguments):
                self.assertEqual(self.closed(*arguments), (-signal.SIGPIPE, ""))

    def test_tokenize_stops_at_the_first_line(self):
        """Its input has no end."""
        with subprocess.Popen(["yes", '{"text": "a"}'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endless:
            self.addCleanup(endless.kill)
            self.assertEqual(self.closed("tokenize", "--tokenizer", DEMO, stdin=endless.stdout), (-signal.SIGPIPE, ""))
            endless.kill()

    def test_what_is_written_meanwhile_is_whole(self):
        self.assertEqual(self.closed("compare", HF, HF, "--no-forward", "--html", "page.html"), (-signal.SIGPIPE, ""))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["page.html"])
        self.assertTrue((self.folder / "page.html").read_text().rstrip().endswith("</html>"))
        # The demo is left in its first stage, whose checkpoint goes too, or is whole.
        status, said = self.closed("demo", "--output", "demo", "--report", "report.html")
        self.assertEqual(status, -signal.SIGPIPE, said)
        self.assertEqual([path.name for path in (self.folder / "demo").iterdir()], [".trestle-demo"])

    def unread(self, arguments):
        """Runs it with a stderr that nobody reads."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return subprocess.run([script.TRESTLE, *map(str, arguments)], cwd=self.folder, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=writer, timeout=60).returncode
        finally:
            os.close(writer)

    def test_messages_end_no_conversion(self):
        self.assertEqual(self.unread(["import", "--hf-model", HF, "--megatron-path", "run"]), 0)
        self.assertEqual(self.unread(["export", "--megatron-path", "run", "--hf-path", "hf"]), 0)
        for name in ("run", "hf"):
            self.assertEqual(self.run_trestle("inspect", "--check", name).returncode, 0)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["hf", "run"])
        self.assertEqual(self.unread(["inspect", "absent"]), 2)

    def test_a_run_saves(self):
        """As under `2>&1 | head`: what it goes on to say is no second signal."""
        process = self.start_short(5000, stderr=subprocess.PIPE)
        process.stderr.close()
        self.assertEqual(process.wait(timeout=30), -signal.SIGPIPE)
        self.assertLess(self.saved(), 5000)

    def test_a_run_outlives_its_terminal(self):
        """Under `nohup`, or disowned, with its messages on a terminal that is gone."""
        terminal, end = os.openpty()
        process = self.start_short(30, stderr=end, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        os.close(end)
        os.close(terminal)
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertEqual(self.saved(), 30)


if __name__ == "__main__":
    FAULTS = script.read_line(__doc__, faults=script.FAULTS).faults
    unittest.main()
