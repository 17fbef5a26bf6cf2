#!/usr/bin/env python3
"""Ranks that torch's own torchrun starts: what one process computes, errors, restarts, and two that want one directory.

  .venv/bin/python tests/interop/test_torchrun.py --trestle build/release/trestle [TestCase.test ...]
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
import script  # noqa: E402
from rank_runs import (ENVIRONMENT, descendants, differences, finetune, free_port, kill_with_ranks, lines,  # noqa: E402
                       ranks_of)

STEPS = 12
LONG = 100  # steps that no test waits for
USER = 2
NEAR = 1e-5  # relative, in float32: sums over ranks are made in another order


@unittest.skipUnless(importlib.util.find_spec("torch"), "this Python has no torch, and so no torchrun")
class Torchrun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        cls.addClassCleanup(scratch.cleanup)
        folder = Path(scratch.name)
        subprocess.run([script.TRESTLE, *finetune("one", STEPS)], cwd=folder, env=ENVIRONMENT, check=True,
                       stderr=subprocess.DEVNULL)
        cls.one = lines(folder / "one")

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, words, *flags, program=None):
        """torchrun of two ranks; its stderr, which is the ranks' too, goes to a file: nobody reads while it runs."""
        err = self.folder / f"err.{len(list(self.folder.glob('err.*')))}"
        with err.open("w") as to:
            process = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                                        "--no-python", *flags, *map(str, program or [script.TRESTLE]), *words],
                                       cwd=self.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=to)
        self.addCleanup(kill_with_ranks, process)
        return process, err

    def port(self):
        """Its default is one port for all of a machine, which another test may have."""
        return ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]

    def wait_for(self, what, process, err):
        end = time.monotonic() + 60
        while not (found := what()):
            self.assertIsNone(process.poll(), err.read_text())
            self.assertLess(time.monotonic(), end, err.read_text())
            time.sleep(0.01)
        return found

    def expect_the_run_of_one(self, run):
        """Each step once, made by two, and as by one process."""
        got = lines(self.folder / run)
        self.assertEqual(differences(got, self.one[:len(got)], NEAR), [])
        self.assertEqual({line["ranks"] for line in got}, {2})
        return got

    def test_losses_are_those_of_one_process(self):
        process, err = self.start(finetune("two", STEPS), *self.port())
        self.assertEqual(process.wait(60), 0, err.read_text())
        self.assertEqual(len(self.expect_the_run_of_one("two")), STEPS)
        self.assertEqual(err.read_text().count("training 200704 of"), 1, "a rank took itself for one process")

    def test_what_the_user_can_mend_ends_both(self):
        # torchrun ends the others by SIGTERM where one has failed. A rank that is deaf to it shows its own status.
        (self.folder / "rank.sh").write_text(
            "trap '' TERM; \"$@\"; status=$?; echo $status > status.$RANK; exit $status\n")
        process, err = self.start(finetune("wrong", STEPS, "model.params_dtype=float33"), *self.port(),
                                  program=["sh", "rank.sh", script.TRESTLE])
        self.assertNotEqual(process.wait(60), 0, err.read_text())
        told = [line for line in err.read_text().splitlines() if line.startswith("trestle: ")]
        line = "trestle: model.params_dtype=float33: must be one of bf16, float32; did you mean float32?"
        self.assertEqual(told, [line] * 2)
        self.assertEqual([int((self.folder / f"status.{rank}").read_text()) for rank in (0, 1)], [USER] * 2)
        self.assertFalse((self.folder / "wrong").exists())

    def test_a_killed_rank_and_a_restart(self):
        for rank, rendezvous in ((0, self.port()), (1, ["--standalone"])):
            with self.subTest(rank=rank):
                run = f"killed_{rank}"
                process, err = self.start(finetune(run, STEPS), "--max-restarts", "1", *rendezvous)
                saved = self.folder / run / "iter_0000002" / "metadata.json"
                self.wait_for(saved.exists, process, err)
                first = self.wait_for(lambda: len(found := ranks_of(process.pid)) == 2 and found, process, err)
                os.kill(first[rank], signal.SIGKILL)
                self.assertEqual(process.wait(60), 0, err.read_text())
                begins = [int(step) for step in re.findall(rf"(?m)from step (\d+) to {STEPS}$", err.read_text())]
                self.assertEqual((len(begins), begins[0]), (2, 0), err.read_text())
                self.assertIn(begins[1], range(2, STEPS, 2), "it went on from no checkpoint")
                self.assertEqual(len(self.expect_the_run_of_one(run)), STEPS)

    def test_two_for_one_directory(self):
        """Either could train the whole run. One does; another is told, whether it comes with it or later."""
        both = [self.start(finetune("run", LONG), *self.port()) for _ in range(2)]
        end = time.monotonic() + 60
        while all(process.poll() is None for process, _ in both):
            self.assertLess(time.monotonic(), end, "both of them train")
            time.sleep(0.01)
        both.sort(key=lambda each: each[0].poll() is None)
        (refused, word), (trains, err) = both
        later, its_word = self.start(finetune("run", LONG), *self.port())
        for process, told in ((refused, word), (later, its_word)):
            self.assertNotEqual(process.wait(60), 0, told.read_text())
            self.assertRegex(told.read_text(), r"checkpoint\.save=run (is another process's, whose run still goes on"
                                               r"|was written to by another run)")
        self.assertIsNone(trains.poll(), err.read_text())
        ranks = descendants(trains.pid)
        trains.terminate()
        trains.wait(60)
        self.assertFalse([pid for pid in ranks if Path(f"/proc/{pid}").exists()], "a rank outlives torchrun")
        made = lines(self.folder / "run")
        self.assertEqual([line["step"] for line in made], list(range(1, len(made) + 1)))
        self.assertEqual(differences(made[:STEPS], self.one[:len(made)], NEAR), [])
        saved = self.folder / "run" / f"iter_{len(made):07}" / "metadata.json"
        self.assertTrue(saved.exists(), "SIGTERM saved nothing")


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
