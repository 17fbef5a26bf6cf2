#!/usr/bin/env python3
"""`trestle launch` as processes: what ranks are given and print, how they end, and that none is left. Shells stand in for
ranks that train (tests/launch/launcher.cpp); the flags are the program's own.

  .venv/bin/python tests/cli/test_launch.py --trestle build/release/trestle --launcher build/release/tests/launcher
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import script
from walk import USER, Walk

FAILED = 1
LAUNCHER = None
CORES = sorted(os.sched_getaffinity(0))
# Seconds in which all have ended where one has, on a busy machine too, and those that a rank would sleep otherwise.
SOON, NEVER = 60, 600


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def lives(pid):
    """Zombies are no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(what, seconds=SOON):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("nothing came")
        time.sleep(0.01)


class Done:
    def __init__(self, process, began):
        self.out, self.err = process.communicate(timeout=120)
        self.status, self.seconds = process.returncode, time.monotonic() - began


class Launcher(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, ranks, script, *, nodes=1, node=0, endpoint="", restarts=0, join=20, grace=3000, env=None, **popen):
        words = [LAUNCHER, ranks, nodes, node, endpoint, restarts, join, grace, "/bin/sh", "-c", script]
        popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        process = subprocess.Popen([str(word) for word in words], text=True, cwd=self.folder,
                                   env={**os.environ, **(env or {})}, **popen)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def run_ranks(self, ranks, script, **options):
        began = time.monotonic()
        return Done(self.start(ranks, script, **options), began)

    def pids(self, count):
        """Of ranks that wrote theirs by `echo $$ > pid.$RANK.tmp; mv ...`."""
        wait_for(lambda: len(list(self.folder.glob("pid.*.there"))) == count)
        return [int(path.read_text()) for path in sorted(self.folder.glob("pid.*.there"))]


# A rank that waits: it has said who it is, and ends by no signal but SIGKILL where `trap ''` stands before it.
WAITS = "echo $$ > pid.$RANK; mv pid.$RANK pid.$RANK.there; while :; do sleep 0.05; done"
# One that ends by a signal as finetune does: it saves and ends by the same.
SAVES = ("trap 'echo saves; echo saved >> saved.$RANK; trap - TERM; kill -TERM $$' TERM;"
         "trap 'echo saved >> saved.$RANK; trap - INT; kill -INT $$' INT;" + WAITS)


class Ranks(Launcher):
    def test_environment(self):
        names = ("RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS"
                 " TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE MASTER_ADDR").split()
        done = self.run_ranks(2, f"echo {' '.join('$' + name for name in names)} $MASTER_PORT > env.$RANK", restarts=4,
                              env={"RANK": "7", "MASTER_ADDR": "elsewhere"})
        self.assertEqual((done.status, done.out, done.err), (0, "", ""))
        said = [(self.folder / f"env.{rank}").read_text().split() for rank in (0, 1)]
        for rank in (0, 1):
            self.assertEqual(said[rank][:-1], [str(rank), "2", str(rank), "2", "0", "0", "4", "none", "True", "127.0.0.1"])
        self.assertEqual(said[0][-1], said[1][-1])
        self.assertGreater(int(said[0][-1]), 0)

    def test_the_store_is_there_for_them(self):
        held = f"{sys.executable} -c 'import os, socket; socket.create_connection((os.environ[\"MASTER_ADDR\"], int(os.environ[\"MASTER_PORT\"])))'"
        done = self.run_ranks(2, held)
        self.assertEqual((done.status, done.err), (0, ""))

    def test_torch_distributed_meets_there(self):
        """Behind a restart too, whose store has nothing of the first round."""
        (self.folder / "rank.py").write_text("""if True:
            import os, sys, torch, torch.distributed as dist
            dist.init_process_group("gloo")
            if os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
                sys.exit(1)
            sum = torch.tensor([dist.get_rank() + 1.0])
            dist.all_reduce(sum)
            print(dist.get_world_size(), sum.item(), file=open(f"sum.{dist.get_rank()}", "w"))
            dist.destroy_process_group()
            """)
        done = self.run_ranks(2, f"exec {sys.executable} rank.py", restarts=1, grace=500)
        self.assertEqual(done.status, 0, done.err)
        self.assertEqual([(self.folder / f"sum.{rank}").read_text() for rank in (0, 1)], ["2 3.0\n"] * 2)

    def test_cores(self):
        script = "grep Cpus_allowed_list /proc/self/status > cores.$RANK; echo $OMP_NUM_THREADS >> cores.$RANK"

        def seen(ranks):
            found = []
            for rank in range(ranks):
                mask, threads = (self.folder / f"cores.{rank}").read_text().splitlines()
                parts = [part.split("-") for part in mask.split()[1].split(",")]
                found.append(({core for part in parts for core in range(int(part[0]), int(part[-1]) + 1)}, int(threads)))
            return found

        self.assertEqual(self.run_ranks(1, script).status, 0)
        self.assertEqual(seen(1)[0][0], set(CORES))
        if len(CORES) > 1:
            self.assertEqual(self.run_ranks(2, script, env={"OMP_NUM_THREADS": ""}).status, 0)
            (first, threads), (second, other) = seen(2)
            self.assertEqual((first & second, first | second), (set(), set(CORES)))
            self.assertEqual(threads, other)
            self.assertLessEqual(threads, min(len(first), len(second)))
        # More than there are: nobody is pinned. A mask that is smaller than the machine counts.
        self.assertEqual(self.run_ranks(2, script, preexec_fn=lambda: os.sched_setaffinity(0, CORES[:1]),
                                        env={"OMP_NUM_THREADS": ""}).status, 0)
        self.assertEqual(seen(2), [({CORES[0]}, 1)] * 2)
        self.assertEqual(self.run_ranks(1, script, env={"OMP_NUM_THREADS": "3"}).status, 0)
        self.assertEqual(seen(1)[0][1], 3)

    def test_what_they_print(self):
        """Rank 0's as it is, the others' by lines and never within one of rank 0's."""
        done = self.run_ranks(2, """
            if [ $RANK = 0 ]; then
              echo out; printf half >&2; sleep 0.3; echo ' whole' >&2; sleep 0.2; printf 'no end' >&2
            else
              sleep 0.15; echo its out; printf 'its ' >&2; sleep 0.05; printf 'err\nno end' >&2
            fi""")
        self.assertEqual((done.status, done.out), (0, "out\n"))
        self.assertEqual(done.err, "half whole\n[rank 1] its out\n[rank 1] its err\n[rank 1] no end\nno end\n")

    def test_nothing_waits_for_a_line_to_end(self):
        process = self.start(1, "printf 'asks ' >&2; printf 'out ' ; " + WAITS)
        self.assertEqual((process.stderr.read(5), process.stdout.read(4)), ("asks ", "out "))
        process.kill()

    def test_much_is_printed(self):
        done = self.run_ranks(3, "i=0; while [ $i -lt 20000 ]; do echo line $i of it; i=$((i+1)); done")
        self.assertEqual(done.status, 0)
        lines = [f"line {i} of it" for i in range(20000)]
        self.assertEqual(done.out.splitlines(), lines)
        for rank in (1, 2):
            own = [line.removeprefix(f"[rank {rank}] ") for line in done.err.splitlines() if line.startswith(f"[rank {rank}]")]
            self.assertEqual(own, lines)

    def test_a_disk_without_space_is_told(self):
        with open("/dev/full", "w") as full:
            done = self.run_ranks(2, "echo a", stdout=full)
        self.assertEqual(done.status, FAILED)
        self.assertEqual(done.err.splitlines()[-1], "trestle: cannot write to standard output: No space left on device")

    def test_nobody_reads_the_messages(self):
        read, write = os.pipe()
        os.close(read)
        began = time.monotonic()
        process = self.start(2, "while :; do echo a >&2 || kill -PIPE $$; sleep 0.05; done", stderr=write)
        os.close(write)
        self.assertEqual(process.wait(60), -signal.SIGPIPE)
        self.assertLess(time.monotonic() - began, SOON)


class Failures(Launcher):
    def ended(self, done, status, *lines):
        self.assertEqual((done.status, done.err.splitlines()), (status, list(lines)))
        self.assertLess(done.seconds, SOON)

    def test_one_ends_all(self):
        for ignores in ("", "trap '' TERM;"):
            done = self.run_ranks(3, "if [ $RANK = 2 ]; then echo 'trestle: it broke' >&2; exit 1; fi;"
                                  f"{ignores} sleep {NEVER} & echo $! > sleeps.$RANK; wait; wait", grace=500)
            self.ended(done, FAILED, "[rank 2] trestle: it broke",
                       "trestle: rank 2 exited with status 1; all other ranks were ended")
            for rank in (0, 1):
                pid = int((self.folder / f"sleeps.{rank}").read_text())
                wait_for(lambda pid=pid: not lives(pid))

    def test_the_status_is_2_where_the_user_can_mend_it(self):
        done = self.run_ranks(3, f"[ $RANK = 1 ] && exit 2; exec sleep {NEVER}")
        self.ended(done, USER, "trestle: rank 1 exited with status 2; all other ranks were ended")
        done = self.run_ranks(2, f"[ $RANK = 1 ] && exit 77; exec sleep {NEVER}")
        self.ended(done, FAILED, "trestle: rank 1 exited with status 77; all other ranks were ended")

    def test_a_signal_is_named(self):
        done = self.run_ranks(2, f"[ $RANK = 0 ] && kill -SEGV $$; exec sleep {NEVER}")
        self.ended(done, FAILED, "trestle: rank 0 was ended by SIGSEGV; all other ranks were ended")
        done = self.run_ranks(2, f"[ $RANK = 1 ] && kill -KILL $$; exec sleep {NEVER}")
        self.ended(done, FAILED, "trestle: rank 1 was ended by SIGKILL (the system's memory may have run out);"
                   " all other ranks were ended")

    def test_what_all_say_is_said_once(self):
        done = self.run_ranks(4, "sleep 0.$RANK; echo 'trestle: a key is wrong' >&2; exit 2")
        self.assertEqual(done.status, USER)
        self.assertEqual(done.err.splitlines()[0].replace("[rank 1] ", ""), "trestle: a key is wrong")
        self.assertEqual(done.err.count("a key is wrong"), 1, done.err)

    def test_the_cause_is_said_first(self):
        """An effect that is faster: whoever fails closes its connections before it says why."""
        done = self.run_ranks(3, """case $RANK in
            0) echo 'trestle: [../gloo/pair.cc:1] Connection closed by peer [::1]:3' >&2; exit 1;;
            1) sleep 0.1; echo 'note' >&2; echo 'trestle: no space' >&2; echo '  a frame' >&2; exit 1;;
            2) sleep 60;; esac""", grace=500)
        self.ended(done, FAILED, "[rank 1] note", "[rank 1] trestle: no space", "[rank 1]   a frame",
                   "trestle: [../gloo/pair.cc:1] Connection closed by peer [::1]:3",
                   "trestle: rank 1 exited with status 1; all other ranks were ended")

    def test_a_line_that_looks_like_the_last(self):
        process = self.start(1, "echo 'trestle: goes on' >&2; echo more >&2; " + WAITS)
        self.assertEqual([process.stderr.readline() for _ in range(2)], ["trestle: goes on\n", "more\n"])
        process.kill()

    def test_what_cannot_be_started(self):
        done = Done(subprocess.Popen([LAUNCHER, "2", "1", "0", "", "0", "5", "100", str(self.folder / "nothing")], text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE), time.monotonic())
        self.ended(done, FAILED, f"trestle: rank 0 of 2: cannot start {self.folder}/nothing: No such file or directory")

    def test_restarts(self):
        script = "echo $TORCHELASTIC_RESTART_COUNT >> rounds.$RANK; [ $RANK = 1 ] && exit {}; exec sleep 600"
        done = self.run_ranks(2, script.format(3), restarts=2)
        self.ended(done, FAILED, "rank 1 exited with status 3; all ranks start anew, restart 1 of 2",
                   "rank 1 exited with status 3; all ranks start anew, restart 2 of 2",
                   "trestle: rank 1 exited with status 3, restart 2 of 2; all other ranks were ended")
        rounds = (self.folder / "rounds.1").read_text().split()
        self.assertEqual(rounds, ["0", "1", "2"])
        done = self.run_ranks(2, script.format(2), restarts=2)
        self.ended(done, USER, "trestle: rank 1 exited with status 2; all other ranks were ended")
        done = self.run_ranks(2, "[ $RANK$TORCHELASTIC_RESTART_COUNT = 10 ] && exit 1; exit 0", restarts=2)
        self.ended(done, 0, "rank 1 exited with status 1; all ranks start anew, restart 1 of 2")


class Signals(Launcher):
    def test_each_is_passed_on_once(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                process = self.start(2, SAVES, restarts=1)
                self.pids(2)
                process.send_signal(number)
                process.communicate(timeout=60)
                self.assertEqual(process.returncode, -number)
                for rank in (0, 1):
                    path = self.folder / f"saved.{rank}"
                    self.assertEqual(path.read_text(), "saved\n")
                    path.unlink()
                    (self.folder / f"pid.{rank}.there").unlink()

    def test_a_terminals_goes_to_the_ranks_through_the_launcher_alone(self):
        """Ctrl-C is sent to a whole group, and a second signal would end a save."""
        process = self.start(2, SAVES, start_new_session=True)
        self.pids(2)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertEqual([(self.folder / f"saved.{rank}").read_text() for rank in (0, 1)], ["saved\n"] * 2)

    def test_those_that_end_well_all_the_same(self):
        process = self.start(2, "trap 'exit 0' TERM; " + WAITS)
        self.pids(2)
        process.terminate()
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)

    def test_it_waits_for_a_long_save(self):
        process = self.start(2, "trap 'sleep 1; echo saved > saved.$RANK; exit 0' TERM; " + WAITS, grace=100)
        self.pids(2)
        process.terminate()
        process.communicate(timeout=60)
        self.assertEqual([(self.folder / f"saved.{rank}").read_text() for rank in (0, 1)], ["saved\n"] * 2)

    def test_a_second_one_kills(self):
        process = self.start(2, "trap '' TERM INT; " + WAITS)
        pids = self.pids(2)
        process.terminate()
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        self.assertTrue(all(lives(pid) for pid in pids))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SOON)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertFalse(any(lives(pid) for pid in pids))

    def test_a_rank_that_tells_the_others(self):
        """A SIGTERM to one rank: it tells the others by its collectives, and no failure is made of it."""
        process = self.start(2, SAVES, restarts=1)
        pids = self.pids(2)
        os.kill(pids[0], signal.SIGTERM)
        time.sleep(0.3)
        os.kill(pids[1], signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGTERM)

    def test_a_failure_while_they_stop(self):
        process = self.start(2, "trap '[ $RANK = 0 ] && exit 1' TERM; " + WAITS, restarts=3, grace=300)
        self.pids(2)
        process.terminate()
        err = process.communicate(timeout=60)[1]
        self.assertEqual((process.returncode, err.splitlines()[-1]),
                         (FAILED, "trestle: rank 0 exited with status 1; all other ranks were ended"))

    def test_none_outlives_a_launcher_that_is_killed(self):
        process = self.start(3, "trap '' TERM INT HUP; " + WAITS)
        pids = self.pids(3)
        self.assertTrue(all(lives(pid) for pid in pids))
        process.kill()
        for pid in pids:
            wait_for(lambda pid=pid: not lives(pid))


class SeveralNodes(Launcher):
    def launch(self, script, ranks=(1, 1), **options):
        """A launcher a node; the first may come last."""
        endpoint, began = f"127.0.0.1:{free_port()}", time.monotonic()
        started = {node: self.start(ranks[node], script, nodes=len(ranks), node=node, endpoint=endpoint, **options)
                   for node in reversed(range(len(ranks)))}
        return [started[node] for node in range(len(ranks))], began

    def ends(self, launched):
        processes, began = launched
        return [Done(process, began) for process in processes]

    def test_ranks_are_counted_over_all(self):
        done = self.ends(self.launch("echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR > env.$RANK", (2, 1)))
        self.assertEqual([(each.status, each.err) for each in done], [(0, "")] * 2)
        self.assertEqual([(self.folder / f"env.{rank}").read_text() for rank in range(3)],
                         ["0 3 0 2 0 127.0.0.1\n", "1 3 1 2 0 127.0.0.1\n", "2 3 0 1 1 127.0.0.1\n"])

    def test_one_failure_ends_all_nodes(self):
        for failing in (0, 1):
            done = self.ends(self.launch(f"[ $RANK = {failing} ] && exit 7; exec sleep {NEVER}"))
            for each in done:
                self.assertEqual(each.status, FAILED)
                self.assertEqual(each.err.splitlines()[-1].removesuffix("; all other ranks were ended"),
                                 f"trestle: rank {failing} on node {failing} exited with status 7")
                self.assertLess(each.seconds, SOON)

    def test_a_node_that_is_done_waits_for_the_others(self):
        done = self.ends(self.launch("[ $RANK = 0 ] && exit 0; sleep 1; exit 2"))
        self.assertEqual([each.status for each in done], [USER, USER])

    def test_restarts_are_agreed(self):
        done = self.ends(self.launch("echo $TORCHELASTIC_RESTART_COUNT >> rounds.$RANK;"
                                     f"case $RANK$TORCHELASTIC_RESTART_COUNT in 10) exit 1;; 01) exit 1;; ?2) exit 0;; esac; exec sleep {NEVER}",
                                     restarts=3))
        self.assertEqual([each.status for each in done], [0, 0], done[0].err + done[1].err)
        for rank in (0, 1):
            self.assertEqual((self.folder / f"rounds.{rank}").read_text().split(), ["0", "1", "2"])
        for each in done:
            self.assertEqual(each.err.splitlines(), ["rank 1 on node 1 exited with status 1; all ranks start anew, restart 1 of 3",
                                                     "rank 0 on node 0 exited with status 1; all ranks start anew, restart 2 of 3"])

    def test_a_signal_to_one_stops_all(self):
        for stopped in (0, 1):
            with self.subTest(stopped):
                (*processes,), began = self.launch(SAVES)
                self.pids(2)
                processes[stopped].terminate()
                done = self.ends((processes, began))
                self.assertEqual([each.status for each in done], [-signal.SIGTERM] * 2, done[0].err + done[1].err)
                for rank in (0, 1):
                    self.assertEqual((self.folder / f"saved.{rank}").read_text(), "saved\n")
                    (self.folder / f"saved.{rank}").unlink()
                    (self.folder / f"pid.{rank}.there").unlink()

    def test_the_first_launcher_is_killed(self):
        processes, began = self.launch("trap '' TERM; " + WAITS, grace=300)
        pids = self.pids(2)
        processes[0].kill()
        done = Done(processes[1], began)
        self.assertEqual(done.status, FAILED)
        self.assertRegex(done.err.splitlines()[-1], r"^trestle: the launcher of node 0 at 127.0.0.1:\d+ is gone")
        for pid in pids:
            wait_for(lambda pid=pid: not lives(pid))

    def test_another_launcher_is_killed(self):
        processes, began = self.launch("trap '' TERM; " + WAITS, grace=300)
        pids = self.pids(2)
        processes[1].kill()
        done = Done(processes[0], began)
        self.assertEqual((done.status, done.err), (FAILED, "trestle: node 1 is gone; all other ranks were ended\n"))
        for pid in pids:
            wait_for(lambda pid=pid: not lives(pid))

    def test_nodes_that_do_not_come(self):
        port = free_port()
        done = self.run_ranks(1, "exit 0", nodes=2, node=1, endpoint=f"127.0.0.1:{port}", join=1)
        self.assertEqual((done.status, len(done.err.splitlines())), (FAILED, 1), done.err)
        self.assertIn(f"--rdzv-endpoint 127.0.0.1:{port} cannot be reached within 1 s: Connection refused", done.err)
        done = self.run_ranks(1, "exit 0", nodes=2, node=0, endpoint=f"127.0.0.1:{port}", join=1)
        self.assertEqual((done.status, len(done.err.splitlines())), (FAILED, 1), done.err)
        self.assertIn(f"--rdzv-endpoint 127.0.0.1:{port}: node 1 of 2 has not joined within 1 s", done.err)

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("0.0.0.0", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = self.run_ranks(1, "exit 0", endpoint=f"localhost:{port}")
        self.assertEqual((done.status, len(done.err.splitlines())), (FAILED, 1), done.err)
        self.assertIn(f"cannot listen on port {port}: Address already in use", done.err)

    def test_other_flags_on_another_node(self):
        endpoint = f"127.0.0.1:{free_port()}"
        first = self.start(1, "exit 0", nodes=2, node=0, endpoint=endpoint, join=20)
        done = self.run_ranks(1, "exit 0", nodes=3, node=1, endpoint=endpoint, join=20)
        self.assertEqual((done.status, done.err), (USER, "trestle: --nnodes 3 here, and 2 on node 0: give all nodes the same\n"))
        err = first.communicate(timeout=60)[1]
        self.assertEqual((first.returncode, err), (USER, "trestle: --nnodes 2 here, and 3 on node 1: give all nodes the same\n"))

    def test_two_of_one_number(self):
        endpoint = f"127.0.0.1:{free_port()}"
        self.start(1, "exit 0", nodes=3, node=0, endpoint=endpoint)
        self.start(1, "exit 0", nodes=3, node=1, endpoint=endpoint)
        time.sleep(0.5)
        done = self.run_ranks(1, "exit 0", nodes=3, node=1, endpoint=endpoint)
        self.assertEqual((done.status, len(done.err.splitlines())), (USER, 1), done.err)


class Lines(Walk):
    """What the command line says, and the program as its own rank."""

    def says(self, line, *texts, status=USER):
        done = self.run_trestle(["launch", *line])
        self.assertEqual((done.status, done.out, len(done.err.splitlines())), (status, "", 1), done.words())
        for text in texts:
            self.assertIn(text, done.err, done.words())

    def test_lines_that_make_no_sense(self):
        ranks, run = ["--nproc-per-node", 2], ["--", "finetune"]
        self.says(["--nnodes", 1, *run], "--nproc-per-node is required")
        self.says(["--nproc-per-node", 0, *run], "--nproc-per-node 0: must be at least 1")
        self.says(["--nproc_per_node", "auto", *run], "--nproc-per-node 'auto' is not a whole number")
        self.says(ranks, "what the ranks run stands behind --: trestle launch")
        self.says([*ranks, "--"], "nothing stands behind --")
        self.says([*ranks, "finetune"], "launch has no place for 'finetune'")
        for other in ("generate", "python", ""):
            self.says([*ranks, "--", other, "--prompt", "a"], f"'{other}' does not run in ranks; finetune alone does")
        self.says([*ranks, "--node-rank", 1, *run], "--node-rank 1 is not below --nnodes 1")
        self.says([*ranks, "--nnodes", 2, "--node-rank", 0, *run], "--nnodes 2 needs --rdzv-endpoint HOST:PORT")
        self.says([*ranks, "--nnodes", 2, "--node-rank", 0, "--master-port", 3, *run], "--master-port 3 needs --master-addr")
        self.says([*ranks, "--nnodes", 2, "--rdzv-endpoint", "a:1", *run], "--nnodes 2 needs --node-rank")
        self.says([*ranks, "--rdzv-id", "", *run], "--rdzv-id is empty")
        self.says([*ranks, "--rdzv-timeout", 3, *run], "--rdzv-timeout 3 has no effect: there is one node")
        for wrong in ("host", "host:", "host:x", "host:65536", ":1", "a:b:1", "[::1]", "http://a:1"):
            self.says([*ranks, "--rdzv-endpoint", wrong, *run], f"--rdzv-endpoint '{wrong}' is no HOST:PORT")
        self.says([*ranks, "--rdzv-endpoint", "a:1", "--master-addr", "a", *run], "--rdzv-endpoint", "--master-addr")
        self.says([*ranks, "--nnodes", 2, "--node-rank", 1, "--master-addr", "127.0.0.1", "--master-port", free_port(),
                   "--rdzv-timeout", 1, *run], "cannot be reached within 1 s", status=FAILED)

    def test_restarts_need_a_run_that_goes_on(self):
        line = ["--nproc-per-node", 2, "--max-restarts", 1, "--", "finetune", "--recipe", "nothing"]
        self.says(line, "--max-restarts 1 without checkpoint.load=auto")
        self.says([*line, "checkpoint.load=somewhere"], "--max-restarts 1 without checkpoint.load=auto")
        config = self.scratch / "auto.yaml"
        config.write_text("checkpoint:\n  load: auto\n")
        for more in (["checkpoint.load=auto"], ["--load-dir", "auto"], ["--load_dir=auto"], ["--config", config]):
            with self.subTest(more):
                done = self.run_trestle(["launch", *line, *more])
                self.assertEqual(done.status, USER, done.words())
                self.assertIn("unknown recipe nothing", done.err)

    def test_a_rank_is_this_program(self):
        """Each reads what stands behind --, an empty word too; what all say is said once."""
        done = self.run_trestle(["launch", "--nproc-per-node", 2, "--", "finetune", "--recipe", ""])
        self.assertEqual((done.status, done.out), (USER, ""), done.words())
        self.assertRegex(done.err, r"^(\[rank 1\] )?trestle: --recipe: is empty.*\ntrestle: rank [01] exited with status 2.*\n$")
        done = self.run_trestle(["launch", "--nproc-per-node", 1, "--", "finetune", "--print-config", "-gb", 6])
        self.works(done)
        self.assertIn("global_batch_size: 6", done.out)


if __name__ == "__main__":
    LAUNCHER = str(script.read_line(__doc__, launcher=script.FAULTS).launcher)
    unittest.main()
