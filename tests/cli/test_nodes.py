#!/usr/bin/env python3
"""`trestle launch --nnodes 2` on two machines, as far as one machine has two: a network namespace is each node's, and a
virtual cable is all that they share of the network. What is trained, and what one node says when the other is gone.

  .venv/bin/python tests/cli/test_nodes.py --trestle build/release/trestle [TestCase.test ...]

Skipped where the system lets nobody make such namespaces.
"""

import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import script
from rank_runs import ENVIRONMENT, descendants, differences, finetune, kill_with_ranks, lines, ranks_of

FAILED = 1
STEPS = 4
LONG = 400  # steps that no test waits for
NEAR = 1e-5  # relative, in float32: sums over ranks are made in another order
ENDS = 30  # seconds behind which no node waits any more for one that was killed
UNHEARD = 45  # or for one that is silent: a node gives node 0 up behind twice the 15 s, and then ends its ranks
ADDRESSES = ("10.77.0.1", "10.77.0.2")  # in the namespaces alone


class Node:
    """A network namespace. It has no name that could be left behind: it is there as long as a process is in it, and the
    first one reads from the test until that ends, however it does."""

    def __init__(self, within=()):
        whoever = [] if os.geteuid() == 0 or within else ["--user", "--map-root-user"]
        self.process = subprocess.Popen([*within, "unshare", "--net", *whoever, "sh", "-c", "echo; exec cat"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        self.there = self.process.stdout.readline() == "\n"

    def inside(self):
        """What stands before a command that is to run in it."""
        whoever = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.process.pid), "--net", *whoever]

    def ip(self, *words):
        subprocess.run([*self.inside(), "ip", *words], check=True, capture_output=True, text=True)

    def close(self):
        self.process.communicate()


def two_nodes(test):
    """Two namespaces with a cable, which go with the test; skips it where there can be none."""
    nodes = []
    try:
        for _ in ADDRESSES:
            node = Node(nodes[0].inside() if nodes else ())
            test.addClassCleanup(node.close)
            if not node.there:
                raise unittest.SkipTest(f"no network namespaces here: {node.process.stderr.read().strip()}")
            nodes.append(node)
        nodes[0].ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(nodes[1].process.pid))
        for node, address in zip(nodes, ADDRESSES):
            node.ip("address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                node.ip("link", "set", link, "up")
    except FileNotFoundError as error:
        raise unittest.SkipTest(f"no network namespaces here: {error.filename} is not there") from error
    except subprocess.CalledProcessError as error:
        raise unittest.SkipTest(f"no network namespaces here: {error.stderr.strip()}") from error
    return nodes


class TwoNodes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.nodes = two_nodes(cls)

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, words):
        """A launcher a node, that of node 0 last."""
        started = {}
        for rank in (1, 0):
            started[rank] = subprocess.Popen(
                [*self.nodes[rank].inside(), script.TRESTLE, "launch", "--nnodes", "2", "--node-rank", str(rank),
                 "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--nproc-per-node", "1", "--", *words], cwd=self.folder,
                env={**ENVIRONMENT}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self.addCleanup(kill_with_ranks, started[rank])
        return [started[0], started[1]]

    def trains(self, run):
        """Launchers of a run that has saved something, and all that runs below them."""
        launchers = self.start(finetune(run, LONG))
        end = time.monotonic() + 60
        while not (self.folder / run / "iter_0000002" / "metadata.json").exists():
            for each in launchers:
                self.assertIsNone(each.poll(), "it ended by itself")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        for each, rank in zip(launchers, (0, 1)):
            self.assertEqual(list(ranks_of(each.pid)), [rank])
        return launchers, [pid for each in launchers for pid in descendants(each.pid)]

    def ends(self, process, within):
        """What a launcher that ends, failed and in time, has said."""
        began = time.monotonic()
        err = process.communicate(timeout=120)[1]
        self.assertLess(time.monotonic() - began, within, err)
        self.assertEqual(process.returncode, FAILED, err)
        return err

    def expect_none_left(self, pids):
        """The kernel ends a rank whose launcher is killed; that takes it a moment."""
        end = time.monotonic() + 10
        while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            self.assertLess(time.monotonic(), end, f"{left} outlive their launchers")
            time.sleep(0.02)

    def test_losses_are_those_of_one_process(self):
        subprocess.run([script.TRESTLE, *finetune("one", STEPS)], cwd=self.folder, env=ENVIRONMENT, check=True,
                       stderr=subprocess.DEVNULL)
        for run, more in (("data", ()), ("tensor", ("model.tensor_model_parallel_size=2",))):
            with self.subTest(run):
                for process in self.start(finetune(run, STEPS, *more)):
                    err = process.communicate(timeout=60)[1]
                    self.assertEqual(process.returncode, 0, err)
                made = lines(self.folder / run)
                self.assertEqual(differences(made, lines(self.folder / "one"), NEAR), [])
                self.assertEqual([line["ranks"] for line in made], [2] * STEPS)

    def test_a_node_whose_launcher_is_killed_is_named(self):
        # Its ranks end with it. One of node 0 sees its connection closed before the launchers miss each other.
        words = (rf"(?m)^trestle: the launcher of node 0 at {ADDRESSES[0]}:29500 is gone",
                 rf"(?m)^trestle: .*node 1 is gone")
        for killed in (0, 1):
            with self.subTest(node=killed):
                launchers, pids = self.trains(f"killed_{killed}")
                launchers[killed].send_signal(signal.SIGKILL)
                self.assertRegex(self.ends(launchers[1 - killed], ENDS), words[killed])
                self.expect_none_left(pids)

    def test_a_cable_that_is_cut(self):
        """Nobody's end is heard of: each node misses the other by its silence, and says so."""
        launchers, pids = self.trains("cut")
        self.addCleanup(self.nodes[0].ip, "link", "set", "eth0", "up")
        self.nodes[0].ip("link", "set", "eth0", "down")
        others = ("node 1 is gone", f"the launcher of node 0 at {ADDRESSES[0]}:29500 is gone")
        for launcher, other in zip(launchers, others):
            self.assertRegex(self.ends(launcher, UNHEARD).splitlines()[-1], f"^trestle: {other}")
        self.expect_none_left(pids)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
