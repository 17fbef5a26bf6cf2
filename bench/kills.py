#!/usr/bin/env python3
"""Ranks of a run that are killed or stopped at random moments: does it end by itself, say who it was, and go on?

  .venv/bin/python bench/kills.py --trestle build/release/trestle [--kills 50] [--stops 10] [--seed 1] [--work FOLDER]

A trial starts a run of the embedded model on 2 to 4 ranks (TOPOLOGIES, by turns), sends a random one of them SIGKILL,
or SIGSTOP, at a random moment between its first step and its end (half of the moments lie in a save), and asks that

- the launcher ends by itself within 30 s with status 1, and no process is left;
- it names the rank: its signal, or its silence;
- whatever has the name of a checkpoint is whole (`trestle inspect --check`), as is the one that the run names its last;
- the same command, given again, goes on from that one to the end, where every step is told once, nothing half-written
  is left, and losses and gradient norms are within 1e-6 of those of a run that nobody disturbed.

One line a trial, with its seed's number; status 1 where one of these does not hold, and then the run's folder stays in
--work. Stops, which wait for 15 s of silence, go on beside the kills.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cli"))
from rank_runs import ENVIRONMENT, descendants, differences, finetune, kill_with_ranks, lines, ranks_of  # noqa: E402

STEPS = 12  # a checkpoint behind every second one
SAME = 1e-6  # relative, in float32 on the same ranks
ENDS = 30  # seconds
GIVEN_UP = 180  # seconds behind which a run is taken for one that never ends

TENSOR, CONTEXT, PIPELINE = (f"model.{axis}_parallel_size=2" for axis in ("tensor_model", "context", "pipeline_model"))
FULL = "peft.scheme="
TOPOLOGIES = {  # ranks, and settings; all but the last have the adapters of the recipe
    "dp2": (2, []),
    "tp2": (2, [TENSOR]),
    "pp2": (2, [PIPELINE]),
    "cp2": (2, [CONTEXT]),
    "dp3, saving beside the steps": (3, ["checkpoint.async_save=true"]),
    "tp2 dp2": (4, [TENSOR]),
    "tp2 pp2": (4, [TENSOR, PIPELINE]),
    "dp2, full": (2, [FULL]),
}


class Fault(Exception):
    """What of the above does not hold."""


def temporaries(run):
    """Names of what is being written, at the top of a run's directory."""
    try:
        return {name for name in os.listdir(run) if ".tmp-" in name}
    except FileNotFoundError:
        return set()


def saves_of(run):
    """Those of checkpoints. Of the others, which are trackers and reports, none lasts for longer than a moment."""
    return {name for name in temporaries(run) if name.startswith(".iter_")}


def state_of(pid):
    """A letter as the kernel gives it; Z where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class Life:
    """Of a run that nobody disturbs: its steps, the seconds from its first step to its end, and how long each of its
    saves took, in order."""

    def __init__(self, bench, topology):
        folder = bench.work / f"reference {topology}"
        folder.mkdir()
        process, err = bench.start(topology, folder)
        first, seen = None, {}
        while process.poll() is None:
            now = time.monotonic()
            for name in saves_of(folder / "run"):
                seen[name] = (seen.get(name, (now,))[0], now)
            if first is None and lines(folder / "run"):
                first = now
            time.sleep(0.002)
        if process.returncode != 0:
            raise Fault(f"{topology}: a run that nobody disturbs exits with {process.returncode}: {err.read_text()}")
        self.seconds = time.monotonic() - first
        self.saves = [last - begin for begin, last in sorted(seen.values())]
        self.lines = lines(folder / "run")
        shutil.rmtree(folder)


class Bench:
    def __init__(self, options, work):
        self.trestle, self.work, self.seed = options.trestle, work, options.seed
        self.lives = {}

    def words(self, topology):
        ranks, settings = TOPOLOGIES[topology]
        return ["launch", "--nproc-per-node", str(ranks), "--", *finetune("run", STEPS, *settings, planned=STEPS)]

    def start(self, topology, folder):
        """The launcher, and the file that has its stderr."""
        err = folder / f"err.{len(list(folder.glob('err.*')))}"
        with err.open("w") as to:
            return subprocess.Popen([self.trestle, *self.words(topology)], cwd=folder, env=ENVIRONMENT,
                                    stdout=subprocess.DEVNULL, stderr=to), err

    def check(self, checkpoint):
        done = subprocess.run([self.trestle, "inspect", checkpoint, "--check"], env=ENVIRONMENT, capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise Fault(f"{checkpoint.name} is not whole: {done.stdout}{done.stderr}")


class Trial:
    """One run that is hit. `what` is what it tells of itself in the end."""

    def __init__(self, bench, number, hit):
        self.bench, self.number, self.hit = bench, number, hit
        self.random = random.Random(f"{bench.seed} {hit.name} {number}")
        self.topology = list(TOPOLOGIES)[number % len(TOPOLOGIES)]
        self.ranks, self.life = TOPOLOGIES[self.topology][0], bench.lives[self.topology]
        self.what, self.late, self.in_a_save, self.untracked, self.saved, self.seconds = "", 0, False, False, None, 0
        self.folder = bench.work / f"{hit.name} {number}"
        self.run = self.folder / "run"

    def draw(self):
        """Whom to hit, and when."""
        self.rank = self.random.randrange(self.ranks)
        self.save = self.random.randrange(len(self.life.saves)) if self.random.random() < 0.5 else None
        # A little beyond its end, where the renames are and the trackers are written.
        longest = self.life.seconds if self.save is None else 1.2 * self.life.saves[self.save] + 0.01
        self.delay = self.random.uniform(0, longest)
        behind = "its first step" if self.save is None else f"the begin of save {self.save + 1}"
        self.what = f"{self.topology}: rank {self.rank} {self.delay:.3f} s behind {behind}"

    def moment_came(self, process):
        """Waits for it; False where the run has ended before."""
        seen = set()
        while process.poll() is None:
            seen |= saves_of(self.run)
            if len(seen) > self.save if self.save is not None else lines(self.run):
                time.sleep(self.delay)
                return process.poll() is None
            time.sleep(0.001)
        return False

    def victim(self, process):
        """Looked for long before the moment, as the look takes longer than that lasts. None where the run has ended."""
        while process.poll() is None:
            if self.rank in (ranks := ranks_of(process.pid)):
                return ranks[self.rank]
            time.sleep(0.01)
        return None

    def hits(self, pid):
        """False where it has ended, and its launcher is about to."""
        with contextlib.suppress(ProcessLookupError):
            if state_of(pid) != "Z":
                os.kill(pid, self.hit)
                return True
        return False

    def strike(self):
        """Hits a rank of a new run, draws again where the run was sooner, and returns what the launcher said."""
        while True:
            self.draw()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            process, err = self.bench.start(self.topology, self.folder)
            try:
                pid, below = self.victim(process), descendants(process.pid)
                is_hit = self.moment_came(process) and self.hits(pid)
                self.in_a_save = is_hit and bool(saves_of(self.run))
                self.ends(process, err, below)
                if is_hit and process.returncode != 0:
                    return process.returncode, err.read_text()
            finally:
                kill_with_ranks(process)
            # It had made all its steps, and only its end was left.
            if process.returncode != 0 or len(lines(self.run)) != STEPS:
                raise Fault(f"exit status {process.returncode} behind {len(lines(self.run))} steps: {err.read_text()}")
            self.late += 1
            if self.late > 20:
                raise Fault("the run has always ended before the moment came")

    def ends(self, process, err, below):
        began = time.monotonic()
        try:
            process.wait(GIVEN_UP)
        except subprocess.TimeoutExpired:
            raise Fault(f"it has not ended within {GIVEN_UP} s: {err.read_text()}") from None
        self.seconds = time.monotonic() - began
        if self.seconds > ENDS:
            raise Fault(f"it ended {self.seconds:.1f} s behind the signal: {err.read_text()}")
        if left := [pid for pid in below if state_of(pid) != "Z"]:
            raise Fault(f"processes {left} are left: {err.read_text()}")

    def names_who(self, status, said):
        name = {signal.SIGKILL: f"rank {self.rank} was ended by SIGKILL",
                signal.SIGSTOP: f"rank {self.rank} of {self.ranks} has said nothing for 15 s"}[self.hit]
        if status != 1 or name not in said:
            raise Fault(f"exit status {status}, and '{name}' is not said: {said}")

    def is_whole(self):
        checkpoints = sorted(self.run.glob("iter_???????"))
        for checkpoint in checkpoints:
            self.bench.check(checkpoint)
        newest = int(checkpoints[-1].name[5:]) if checkpoints else 0
        tracker = self.run / "latest_checkpointed_iteration.txt"
        self.saved = int(tracker.read_text()) if tracker.exists() else newest
        # Behind a checkpoint's rename is a moment in which the tracker names the one before: its steps are made again.
        self.untracked = newest == self.saved + 2
        if newest != self.saved and not self.untracked:
            raise Fault(f"the last checkpoint is {newest}, and the tracker says {self.saved}")

    def goes_on(self):
        process, err = self.bench.start(self.topology, self.folder)
        try:
            status = process.wait(GIVEN_UP)
        except subprocess.TimeoutExpired:
            status = "none"
        finally:
            kill_with_ranks(process)
        said = err.read_text()
        if status != 0:
            raise Fault(f"the run does not go on: exit status {status}: {said}")
        begin = re.search(rf"from step (\d+) to {STEPS}$", said, re.MULTILINE)
        if begin is None or int(begin[1]) != self.saved:
            raise Fault(f"the run does not go on from step {self.saved}: {said}")
        if left := temporaries(self.run):
            raise Fault(f"{sorted(left)} stays half-written")
        if wrong := differences(lines(self.run), self.life.lines, SAME):
            raise Fault(f"went on from {self.saved} to another run: {'; '.join(wrong)}")
        self.bench.check(self.run / f"iter_{STEPS:07}")

    def make(self):
        """Itself, and what of it does not hold."""
        try:
            status, said = self.strike()
            self.names_who(status, said)
            self.is_whole()
            self.goes_on()
        except Fault as fault:
            return self, str(fault)
        shutil.rmtree(self.folder)
        return self, None

    def line(self, of, fault):
        late = f" (the run ended before {self.late} other moments)" if self.late else ""
        begin = f"{self.hit.name} {self.number + 1:3}/{of}  {self.what}{', in a save' if self.in_a_save else ''}{late}"
        if fault:
            command = " ".join(map(str, self.bench.words(self.topology)))
            return f"{begin}: FAULT (--seed {self.bench.seed}): {fault}\n  trestle {command}\n  in {self.folder}"
        untracked = ", a newer one had its name but no tracker's" if self.untracked else ""
        return f"{begin}: ended in {self.seconds:.1f} s, went on from step {self.saved}{untracked}"


def make_all(bench, count, hit):
    """Prints a line a trial; returns them with what of each does not hold."""
    done = []
    for number in range(count):
        trial, fault = Trial(bench, number, hit).make()
        print(trial.line(count, fault), flush=True)
        done.append((trial, fault))
    return done


def summary(name, done):
    if not done:
        return
    seconds = sorted(trial.seconds for trial, _ in done)
    ranks = collections.Counter(trial.ranks for trial, _ in done)
    print(f"{name}: {len(done)} ({', '.join(f'{count} of {each} ranks' for each, count in sorted(ranks.items()))}), "
          f"{sum(trial.in_a_save for trial, _ in done)} in a save, "
          f"{sum(trial.untracked for trial, _ in done)} between a checkpoint and its tracker, "
          f"{sum(trial.saved == 0 for trial, _ in done)} before the first checkpoint; "
          f"ended within {seconds[-1]:.1f} s, half within {seconds[len(seconds) // 2]:.1f} s; "
          f"{sum(fault is not None for _, fault in done)} faults")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=lambda path: Path(path).resolve(), help="a new folder; default: one that goes")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trestle-kills-") as scratch:
        work = options.work or Path(scratch)
        if options.work:
            work.mkdir()
        bench = Bench(options, work)
        bench.lives = {topology: Life(bench, topology) for topology in TOPOLOGIES}
        for topology, life in bench.lives.items():
            print(f"{topology}: undisturbed {life.seconds:.1f} s behind its first step, {len(life.saves)} saves of "
                  f"{1000 * min(life.saves):.0f} to {1000 * max(life.saves):.0f} ms", flush=True)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            kills = pool.submit(make_all, bench, options.kills, signal.SIGKILL)
            stops = pool.submit(make_all, bench, options.stops, signal.SIGSTOP)
            done = {"killed": kills.result(), "stopped": stops.result()}
    for name, trials in done.items():
        summary(name, trials)
    print(f"--seed {options.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(any(fault for trials in done.values() for _, fault in trials))


if __name__ == "__main__":
    main()
