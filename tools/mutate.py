#!/usr/bin/env python3
"""Makes small changes to src/, one at a time, and says which of them the tests see.

  .venv/bin/python tools/mutate.py --mutants 80               # build/release must be built
  .venv/bin/python tools/mutate.py --mutants 80 --again       # survivors once more, behind new tests
  .venv/bin/python tools/mutate.py --only ID [ID ...]

A seed chooses the changes (tools/mutations.py says of which kinds), as many from each stage and spread over its files.
Of a changed file the object is made in build/mutate and takes its place in a copy of the stage's library there; the
tests are linked with that and run in a copy of the tree, so neither the checkout nor its build is touched. First the
stage's unit tests, then those of the stages above it and the scripts of tests/cli and tests/interop that could see it,
the quickest first; the first failure, crash or hang catches it. What changes nothing that anyone could see is listed, with
its reason, in tools/mutants_equivalent.txt and does not count; neither does what does not compile. Results go to
build/mutate/results.jsonl line by line, and a run that was broken goes on.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import mutations_of

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).resolve().parent / "mutants_equivalent.txt"
# Tests by ctest's names: the unit tests, the stage's own first, and the scripts that walk through it.
UNITS = {
    "kernels": ["kernels", "kernels_avx2", "model", "model_avx2", "peft", "generate", "train"],
    "linear": ["model", "model_avx2", "bridge", "peft", "generate", "train"],
    "formats": ["formats", "pytorch", "megatron", "checkpoint", "bridge", "peft", "data", "generate", "train"],
    "parquet": ["parquet", "data", "generate", "train"],
    "pytorch": ["pytorch", "megatron", "checkpoint", "bridge", "peft", "train"],
    "megatron": ["megatron", "checkpoint", "bridge", "peft", "train"],
    "checkpoint": ["checkpoint", "bridge", "peft", "data", "generate", "train"],
    "hub": ["hub_unit"],
    "bridge": ["bridge", "peft", "generate", "train"],
    "peft": ["peft", "generate", "train"],
    "generate": ["generate", "train"],
    "recipes": ["recipes", "train"],
    "metrics": ["metrics", "train"],
    "run": ["run", "train"],
    "train": ["train"],
}
FILES = ["check", "bad_mistral", "compare", "bad_input", "adapters", "crash", "interop_megatron_dcp", "interop_transformers"]
RUNS = ["finetune", "keys", "adapters", "bad_input", "data_commands", "crash", "kill", "interop_trackers"]
SCRIPTS = {
    "kernels": ["compare", "interop_transformers"],
    "linear": ["compare", "interop_transformers", "interop_peft"],
    "formats": FILES,
    "parquet": RUNS,
    "pytorch": FILES,
    "megatron": FILES,
    "checkpoint": FILES,
    "hub": ["hub", "bad_input"],
    "bridge": ["compare", "check", "adapters", "bad_input", "finetune", "crash", "interop_transformers"],
    "peft": ["adapters", "compare", "bad_input", "finetune", "crash", "interop_peft"],
    "generate": ["data_commands", "finetune", "bad_input", "adapters"],
    "recipes": RUNS,
    "metrics": RUNS,
    "run": RUNS,
    "train": RUNS,
}
CAUGHT, SURVIVED, UNCOMPILED, EQUAL = "caught", "survived", "did not compile", "equivalent"
MEMORY = 12 << 30  # of a test's data: a bound that is gone may ask for everything


class Broken(Exception):
    """What has to be mended before a mutation says anything."""


class Build:
    """The built tree: its commands, with one object, library or program replaced."""

    def __init__(self, folder, prefix, jobs):
        self.folder, self.prefix, self.jobs = folder, shlex.split(prefix), jobs
        if not (folder / "compile_commands.json").exists() or not (folder / "build.ninja").exists():
            raise Broken(f"{folder} is no build by ninja; make build first")
        self.cache = dict(re.findall(r"^(\w+):\w+=(.*)$", (folder / "CMakeCache.txt").read_text(), re.M))
        self.compile = {entry["file"]: entry["command"]
                        for entry in json.loads((folder / "compile_commands.json").read_text())}
        self.root = Path(self.cache["CMAKE_HOME_DIRECTORY"])
        listed = subprocess.run(["ctest", "--show-only=json-v1"], cwd=folder, capture_output=True, text=True, check=True)
        self.tests = {test["name"]: test for test in json.loads(listed.stdout)["tests"] if "command" in test}
        self.links = {}
        self.stamp = self.stamps()

    def stamps(self):
        return {stage: (self.folder / f"libtrestle_{stage}.a").stat().st_mtime_ns for stage in UNITS}

    def unchanged(self):
        if self.stamps() != self.stamp:
            raise Broken(f"{self.folder} was built anew meanwhile; start again, what is done is kept")

    def objects(self, sources):
        """Compiles texts in the place of files: (file, text, scratch directory) each. Where that
        went well the directory has a copy of the stage's library with it."""
        commands = []
        for file, text, scratch in sources:
            source, made = scratch / Path(file).name, scratch / f"{Path(file).name}.o"
            built = (self.folder / f"libtrestle_{file.split('/')[1]}.a").stat().st_mtime
            before = next((each for each in (made, made.with_suffix(".none")) if each.exists()), None)
            if before and before.stat().st_mtime > built and source.read_text() == text:
                continue  # a broken run's
            made.unlink(missing_ok=True)
            source.write_text(text)
            words = shlex.split(self.compile[str(self.root / file)])
            words[words.index("-o") + 1] = str(made)
            commands.append(shlex.join(str(source) if word == str(self.root / file) else word for word in words))
        if commands:
            done = subprocess.run([*self.prefix, "xargs", "-0", "-n", "1", "-P", str(self.jobs), "bash", "-c"],
                                  input="\0".join(commands), text=True, cwd=self.folder, capture_output=True)
            if done.returncode not in (0, 123):  # 123: some did not compile
                raise Broken(f"what compiles was broken: status {done.returncode}: {done.stderr[-500:]}")
        for file, _, scratch in sources:
            made, library = scratch / f"{Path(file).name}.o", scratch / f"libtrestle_{file.split('/')[1]}.a"
            if not made.exists():
                made.with_suffix(".none").touch()
            else:
                shutil.copy2(self.folder / library.name, library)
                subprocess.run([self.cache["CMAKE_AR"], "r", library, made], check=True, capture_output=True)

    def link(self, target, scratch):
        """The program of a target with the libraries of `scratch` in the place of the build's."""
        name = Path(target).name
        program = scratch / name
        if program.exists():
            return program
        if target not in self.links:
            printed = subprocess.run([self.cache["CMAKE_MAKE_PROGRAM"], "-t", "commands", target], cwd=self.folder,
                                     capture_output=True, text=True, check=True)
            self.links[target] = printed.stdout.splitlines()[-1]
        words = self.links[target].split(" ")
        words[words.index("-o") + 1] = str(program)
        own = {path.name for path in scratch.glob("*.a")}
        words = [str(scratch / Path(word).name) if Path(word).name in own else word for word in words]
        done = subprocess.run(" ".join(words), shell=True, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise Broken(f"cannot link {target}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return program


class Tests:
    """ctest's tests, run in a copy of the tree against the programs of a scratch directory."""

    def __init__(self, build, tree, limit):
        self.build, self.tree, self.limit, self.seconds, self.left_out = build, tree, limit, {}, {}

    def run(self, name, scratch, every=False):
        """None where it passes; else how it failed. With `every` the unit tests that fail are left out from now on."""
        test = self.build.tests[name]
        properties = {each["name"]: each["value"] for each in test["properties"]}
        own = str(self.build.folder) + "/"
        command = []
        for word in test["command"]:
            target = word.removeprefix(own)
            if word.startswith(own) and (target == "trestle" or re.fullmatch(r"tests/\w+_test", target)):
                word = str(self.build.link(target, scratch))
            elif not word.startswith((own, self.build.cache["TRESTLE_VENV"])):
                word = word.replace(str(self.build.root), str(self.tree), 1)
            command.append(word)
        if command[0].endswith("_test"):
            command += ["--gtest_brief=1", f"--gtest_filter=-{':'.join(self.left_out.get(name, []))}"]
            command += [] if every else ["--gtest_fail_fast"]
        own_folder = scratch / f"run-{name}"  # two may be asked at a time
        own_folder.mkdir(exist_ok=True)
        folder = properties["WORKING_DIRECTORY"].replace(str(self.build.root), str(self.tree), 1)
        if not Path(folder).is_dir():  # a script's is in the build, where it writes nothing
            folder = own_folder
        environment = os.environ | {"TMPDIR": str(own_folder), "HOME": str(own_folder)}
        environment |= dict(pair.split("=", 1) for pair in properties.get("ENVIRONMENT", []))
        started = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
                                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)))
        allowed = self.limit if name not in self.seconds else 30 + 5 * self.seconds[name]
        try:
            said, _ = started.communicate(timeout=allowed)
        except subprocess.TimeoutExpired:
            said = None
        finally:
            try:
                os.killpg(started.pid, signal.SIGKILL)  # whatever it has started
            except ProcessLookupError:
                pass
            started.communicate()
        shutil.rmtree(own_folder, ignore_errors=True)
        if said is None:
            return f"hung for {allowed:.0f} s"
        if started.returncode == 0:
            return None
        failed = re.findall(r"\[  FAILED  \] ([\w/.]+)|^(?:FAIL|ERROR): (\w+)", said, re.M)
        if every:
            self.left_out[name] = [test for test, _ in failed]
        return "".join(failed[0]) if failed else f"status {started.returncode}: {said[-300:].strip()}"

    def of(self, one):
        """Those that could see a mutation: its stage's own unit tests, then the quickest."""
        stage = one.file.split("/")[1]
        others = [name for name in UNITS[stage][1:] + SCRIPTS[stage] if name in self.build.tests]
        return UNITS[stage][:1] + sorted(others, key=lambda name: self.seconds.get(name, self.limit))


class Results:
    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.outcomes = {line["id"]: line for line in self.lines if "id" in line}

    def add(self, line):
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            if "id" in line:
                self.outcomes[line["id"]] = line


def of_stage(stage):
    """Name of each of its files: the mutations."""
    paths = ((path.relative_to(ROOT).as_posix(), path) for path in sorted((ROOT / "src" / stage).glob("*.cpp")))
    return {name: found for name, path in paths if (found := mutations_of(name, path.read_text()))}


def chosen(stage, seed):
    """The mutations of a stage, one of a line: file by file in turn, of each file kind by kind. The seed orders files,
    kinds and mutations by digests of their own, so that an edit of the source moves little of the choice."""
    def lot(*words):
        return hashlib.sha256(" ".join((str(seed), *words)).encode()).digest()

    waiting = {}
    for name, found in of_stage(stage).items():
        kinds = {}
        for one in sorted(found, key=lambda one: lot(one.id)):
            kinds.setdefault(one.kind, []).append(one)
        waiting[name] = deque(kinds[kind] for kind in sorted(kinds, key=lambda kind: lot(name, kind)))
    lines = set()
    while waiting:
        for name in sorted(waiting, key=lot):
            of_kind = waiting[name].popleft()
            while of_kind and (name, of_kind[0].line) in lines:
                of_kind.pop(0)
            if of_kind:
                lines.add((name, of_kind[0].line))
                yield of_kind.pop(0)
                waiting[name].append(of_kind)
            if not waiting[name]:
                del waiting[name]


def equivalents():
    """ID: reason."""
    if not EQUIVALENT.exists():
        return {}
    rows = (line.split(None, 1) for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#"))
    return {row[0]: row[1] for row in rows}


def copy_tree(target):
    """What git has or would take, with the virtual environment beside it."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to((ROOT / ".venv").resolve())


class Run:
    def __init__(self, args):
        self.args, self.work = args, ROOT / "build" / "mutate"
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = Results(args.results or self.work / "results.jsonl")
        self.build = Build(args.build.resolve(), args.build_prefix, args.jobs)
        self.tests = Tests(self.build, self.work / "tree", args.limit)
        self.baselines = {}
        for line in self.results.lines:
            if "baseline" in line and line["build"] == self.build.stamp:
                self.tests.seconds[line["baseline"]] = line["seconds"]
                self.tests.left_out[line["baseline"]] = line["left_out"]

    def scratch(self, name):
        """A directory for a mutation; the object of a broken run stays."""
        path = self.work / "scratch" / name
        path.mkdir(parents=True, exist_ok=True)
        for old in path.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            elif old.suffix not in (".cpp", ".o", ".none"):
                old.unlink()
        return path

    def baseline(self, name):
        """Before a test is asked about mutations it passes without one, and takes so long."""
        with self.baselines.setdefault(name, threading.Lock()):
            if name in self.tests.seconds:
                return
            start = time.monotonic()
            failure = self.tests.run(name, self.work / "scratch" / "baseline", every=True)
            if self.tests.left_out.get(name):
                print(f"{name}: fails as it is, and says nothing: {', '.join(self.tests.left_out[name])}", flush=True)
            elif failure:
                raise Broken(f"{name} fails as it is: {failure}")
            self.tests.seconds[name] = time.monotonic() - start
            print(f"{name} takes {self.tests.seconds[name]:.1f} s", flush=True)
            self.results.add({"baseline": name, "seconds": self.tests.seconds[name], "build": self.build.stamp,
                              "left_out": self.tests.left_out.get(name, [])})

    def compile(self, batch, control):
        """ID: whether it compiled. `control` are stages of which an object that was not changed is made for baseline()."""
        self.build.unchanged()
        sources = [(one.file, one.apply((ROOT / one.file).read_text()), self.scratch(one.id)) for one in batch]
        whole = self.scratch("baseline") if control else None
        files = [next(chosen(stage, self.args.seed)).file for stage in control]
        self.build.objects(sources + [(file, (ROOT / file).read_text(), whole) for file in files])
        if control and len(list(whole.glob("*.a"))) < len(control):
            raise Broken(f"one of {', '.join(files)} does not compile; build first")
        return {one.id: any(scratch.glob("*.a")) for one, (_, _, scratch) in zip(batch, sources)}

    def done(self, one, outcome, by=""):
        self.build.unchanged()
        shutil.rmtree(self.work / "scratch" / one.id)
        self.results.add({"id": one.id, "file": one.file, "line": one.line, "kind": one.kind, "before": one.before,
                          "after": one.after, "outcome": outcome, "by": by})
        print(f"{outcome:15} {one}  {by[:100]}", flush=True)

    def caught_by(self, one, names):
        for name in names:
            self.baseline(name)
            failure = self.tests.run(name, self.work / "scratch" / one.id)
            if failure:
                self.done(one, CAUGHT, f"{name}: {failure}")
                return True
        return False

    def test_own(self, one, batch):
        """Its stage's own unit tests. True where they let it pass."""
        if not batch.result()[one.id]:
            self.done(one, UNCOMPILED)
            return False
        return not self.caught_by(one, self.tests.of(one)[:1])

    def test_others(self, one):
        print(f"{'looked for':15} {one}", flush=True)
        if not self.caught_by(one, self.tests.of(one)[1:]):
            self.done(one, SURVIVED)

    def test_all(self, waiting):
        """One thread compiles ahead of those that test."""
        compiling, testing = ThreadPoolExecutor(1), ThreadPoolExecutor(self.args.jobs)
        stages = list(dict.fromkeys(one.file.split("/")[1] for one in waiting))
        try:
            own = []
            for start in range(0, len(waiting), self.args.batch):
                batch = waiting[start:start + self.args.batch]
                compiled = compiling.submit(self.compile, batch, [] if start else stages)
                own += [(one, testing.submit(self.test_own, one, compiled)) for one in batch]
            for done in [testing.submit(self.test_others, one) for one, passed in own if passed.result()]:
                done.result()
        finally:
            testing.shutdown(cancel_futures=True)
            compiling.shutdown(cancel_futures=True)

    def known(self, one):
        """What is known of it already; None where it has to be tested."""
        if one.id in self.equal:
            return EQUAL
        line = self.results.outcomes.get(one.id)
        return line["outcome"] if line else None

    def wanted(self, stages, share):
        """So many of each stage that count, tested or not, and those that did not count on the way."""
        found = []
        for stage in stages:
            counting = 0
            for one in chosen(stage, self.args.seed):
                known = self.known(one)
                found.append(one)
                counting += known not in (EQUAL, UNCOMPILED)
                if counting == share:
                    break
        return found

    def run(self):
        args, self.equal = self.args, equivalents()
        stages = args.stages or list(UNITS)
        share = -(-args.mutants // len(UNITS))

        def due():
            if args.only:
                every = (one for stage in UNITS for found in of_stage(stage).values() for one in found)
                everything = [one for one in every if one.id in args.only]
            else:
                everything = self.wanted(stages, share)
            return everything, [one for one in everything if self.known(one) is None]

        if args.only or args.again:
            for one in due()[0]:
                if args.only or self.known(one) == SURVIVED:
                    self.results.outcomes.pop(one.id, None)
        everything, waiting = due()
        if waiting and not args.report:
            copy_tree(self.work / "tree")
        while waiting and not args.report:  # those that did not compile have others in their place
            self.test_all(waiting)
            everything, waiting = due()
        return self.report(everything)

    def report(self, everything):
        counts = {stage: Counter() for stage in UNITS}
        print("\nsurvivors:")
        for one in everything:
            outcome = self.known(one) or "not tested"
            counts[one.file.split("/")[1]][outcome] += 1
            if outcome == SURVIVED:
                print(f"  {one}")
        columns = (CAUGHT, SURVIVED, EQUAL, UNCOMPILED, "not tested")
        print(f"\n{'':12}" + "".join(f"{name:>16}" for name in columns))
        for stage, count in counts.items():
            print(f"{stage:12}" + "".join(f"{count[name]:16}" for name in columns))
        caught, survived = (sum(count[name] for count in counts.values()) for name in (CAUGHT, SURVIVED))
        if caught + survived == 0:
            return 1
        part = caught / (caught + survived)
        print(f"\n{caught} of {caught + survived} caught: {part:.3f}")
        return 0 if part >= self.args.min_share else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=80, help="that compile and count, spread evenly over the stages")
    parser.add_argument("--stages", nargs="+", choices=UNITS, help="only of these; the number of each stays")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="ID", help="test these again")
    parser.add_argument("--again", action="store_true", help="test again what survived")
    parser.add_argument("--report", action="store_true", help="test nothing, print what is known")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--build-prefix", default="", help="before what compiles, as 'nice' or 'flock FILE'")
    parser.add_argument("--batch", type=int, default=8, help="so many are compiled behind one such prefix")
    parser.add_argument("--jobs", type=int, default=1, help="mutations compiled, and tested, at a time")
    parser.add_argument("--limit", type=float, default=900, help="seconds of a test in the first run, which sets the others'")
    parser.add_argument("--min-share", type=float, default=0.9, help="below it the status is 1")
    parser.add_argument("--results", type=Path)
    try:
        return Run(parser.parse_args()).run()
    except Broken as problem:
        print(f"mutate.py: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
