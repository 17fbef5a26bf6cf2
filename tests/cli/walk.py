"""The walk over flags and keys that test_flags and test_keys share: every one of them is tried on real input, and
something that is named must differ.

A table maps "COMMAND FLAG" (or a config key) to trials. A trial runs a command without and with the flag and looks at
one view of what each run left: its output, a file, the losses of a run. The run without is made twice, and a view that
differs between those two says nothing and fails; where only the status is looked at one run is enough.
"""

import dataclasses
import hashlib
import json
import os
import re
import resource
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import script

USER = 2
ABSENT = "-"  # a value: the flag is not given


@dataclasses.dataclass
class Done:
    """What a run left: status, streams, and the folder that it ran in."""
    command: list
    status: int
    out: str
    err: str
    folder: Path
    began: float = 0
    ended: float = 0
    cpu: float = 0  # seconds of the processor

    def words(self):
        return f"{' '.join(map(str, self.command))}: exit {self.status}\n{self.out[-2000:]}\n{self.err[-2000:]}"


def timeless(text):
    """Without what a clock or the disk says: it says whether proposals pay, too."""
    text = re.sub(r"in \d+ steps, \d+ of \d+ (proposed tokens accepted) \([\d.]+ a step\)", r"\1", text)
    return re.sub(r"[\d.]+ (s|GB of disk free|tok/s)\b|\([\d.]+ (MB/s|tokens/s)\)|eta \S+", "", text)


# Views.
def exit_status(done):
    return done.status


def out(done):
    return timeless(done.out)


def err(done):
    return timeless(done.err)


def files(done):
    """Names, those of trackers without their times and random parts."""
    names = sorted(path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file())
    return re.sub(r"(tfevents\.|offline-run-|run-)[\w.-]+", r"\1", "\n".join(names))


def file(name):
    def view(done):
        path = done.folder / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return view


def text(name):
    return lambda done: (done.folder / name).read_text() if (done.folder / name).is_file() else ""


def losses(done, *fields, run="run"):
    """The lines of a run's metrics.jsonl, without times and memory."""
    path = done.folder / run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [[(key, value) for key, value in line.items() if (key in fields if fields else "seconds" not in key
             and key != "peak_memory_bytes")] for line in lines]


def trained(done):
    return re.search(r"training \S+ of \S+ parameters", done.err)[0]


def metric(*fields):
    return lambda done: losses(done, *fields)


# Effects: what is seen of a trial's two runs.
@dataclasses.dataclass
class Changed:
    """The view differs."""
    view: object

    def check(self, test, before, after):
        test.works(before)
        test.works(after)
        test.assertNotEqual(self.view(before), self.view(after), f"nothing differs\n{before.words()}\n{after.words()}")


@dataclasses.dataclass
class Gains:
    """With the flag, and with it alone, the view has the text."""
    view: object
    text: str

    def check(self, test, before, after):
        test.works(before)
        test.works(after)
        test.assertNotIn(self.text, self.view(before), before.words())
        test.assertIn(self.text, self.view(after), after.words())


@dataclasses.dataclass
class Loses(Gains):
    def check(self, test, before, after):
        Gains(self.view, self.text).check(test, after, before)


@dataclasses.dataclass
class Less:
    """A number that is measured becomes less than so much of what it was."""
    number: object
    share: float

    view = staticmethod(exit_status)

    def check(self, test, before, after):
        test.works(before)
        test.works(after)
        test.assertLess(self.number(after), self.share * self.number(before), f"{before.words()}\n{after.words()}")


@dataclasses.dataclass
class More(Less):
    """Grows to so many times what it was."""

    def check(self, test, before, after):
        Less(self.number, 1 / self.share).check(test, after, before)


@dataclasses.dataclass
class Refused:
    """What went without the flag is refused with it: one line, with these words."""
    text: str
    status: int = USER
    lines: bool = True  # one line and nothing on standard output

    view = staticmethod(exit_status)

    def check(self, test, before, after):
        test.works(before)
        self.check_line(test, after)

    def check_line(self, test, done):
        lines = done.err.splitlines()
        test.assertEqual(done.status, self.status, done.words())
        test.assertTrue(lines and lines[-1].startswith("trestle: "), done.words())
        test.assertIn(self.text, lines[-1], done.words())
        if self.lines:
            test.assertEqual((len(lines), done.out), (1, ""), done.words())


@dataclasses.dataclass
class Needed(Refused):
    """Without the flag the command is refused with these words; with it it works."""

    def check(self, test, before, after):
        self.check_line(test, before)
        test.works(after)


def Fails(text, status=USER):
    """As Refused, behind output."""
    return Refused(text, status, lines=False)


@dataclasses.dataclass
class Trial:
    value: object  # of the flag: a text, True where it takes none, a list to give it more than once
    effect: object
    given: dict = dataclasses.field(default_factory=dict)  # over the command's usual arguments, in both runs
    stdin: str = ""


class Walk(unittest.TestCase):
    """`command`: the words before the arguments. Runs are kept, so that trials share those without a flag."""
    kept = {}

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-walk-")
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = Path(scratch.name)
        cls.count = 0

    @classmethod
    def cache_data_set(cls, name, files):
        """A data set of the Hub, files by name, as huggingface_hub's cache has it; its runs are offline."""
        commit, folder = "0" * 40, cls.scratch / "hub" / f"datasets--{name.replace('/', '--')}"
        held = {"refs/main": commit.encode()} | {f"snapshots/{commit}/{path}": data for path, data in files.items()}
        for path, data in held.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)

    def works(self, done):
        self.assertEqual(done.status, 0, done.words())

    @classmethod
    def run_trestle(cls, command, stdin=""):
        folder = cls.scratch / f"run{cls.count}"
        cls.count += 1
        folder.mkdir()
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith(("WANDB", "HF_")) and key != "SAVE_DIR"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cls.scratch / "hub")}
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([script.TRESTLE, *map(str, command)], capture_output=True, text=True, errors="replace", cwd=folder,
                              env=environment, input=stdin, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Done(command, done.returncode, done.stdout, done.stderr, folder, began, time.monotonic(),
                    after.ru_utime - before.ru_utime)

    def without(self, command, stdin, view):
        """The run without a flag, whose view does not change by itself."""
        key = (tuple(map(str, command)), stdin)
        runs = self.kept.setdefault(key, [])
        while len(runs) < (1 if view is exit_status else 2):
            runs.append(self.run_trestle(command, stdin))
        self.assertEqual(view(runs[0]), view(runs[-1]), f"the view differs by itself\n{runs[0].words()}")
        return runs[0]

    def walk(self, known, table):
        """`known`: what the program has; every entry has its trials, every entry of the table is known."""
        self.assertEqual(sorted(set(known) - set(table)), [], "in the program, but not tried here")
        self.assertEqual(sorted(set(table) - set(known)), [], "tried here, but not in the program")
        self.assertEqual([name for name, trials in table.items() if not trials], [], "no trial")
