"""That ladder.py finds what it is there for: each fault in a copy of the tree's own list and documents. Run by ctest."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Ladder(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        shutil.copytree(ROOT / "src", self.root / "src")
        for name in ("README.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / name, self.root)

    def faults(self):
        done = subprocess.run([sys.executable, ROOT / "tests/lint/ladder.py", self.root], capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines()[:-1] if line]
        self.assertEqual(bool(done.returncode), bool(lines), done.stdout + done.stderr)
        return lines

    def add(self, name, text):
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def test_the_tree_is_sound(self):
        self.assertEqual(self.faults(), [])

    def test_an_include_that_climbs(self):
        self.add("src/formats/new.cpp", '#include "train/trainer.h"\n')
        self.assertEqual(self.faults(), ["src/formats/new.cpp includes train/, which is above formats/"])
        for spelling in ("#include <train/trainer.h>", '#include "../train/trainer.h"', ' #  include "train/trainer.h"'):
            self.add("src/formats/new.cpp", f"{spelling}\n")
            self.assertEqual(self.faults(), ["src/formats/new.cpp includes train/, which is above formats/"])

    def test_a_folder_that_is_no_rung(self):
        self.add("src/attic/new.cpp", "int x;\n")
        self.assertEqual(self.faults(), ["src/attic is no rung of src/ladder.txt"])
        self.add("src/cli/new.cpp", '#include "attic/new.h"\n')
        self.assertIn("src/cli/new.cpp includes attic/, which is no rung of src/ladder.txt", self.faults())

    def test_a_file_in_no_folder(self):
        self.add("src/loose.cpp", "int x;\n")
        self.assertEqual(self.faults(), ["src/loose.cpp is in no folder"])

    def test_a_header_that_may_be_included_twice(self):
        self.add("src/formats/new.h", "int x;\n")
        self.assertEqual(self.faults(), ["src/formats/new.h has no #pragma once"])

    def test_a_room_that_grew(self):
        for i in range(8):
            self.add(f"src/pages/new{i}.cpp", "\n" * 440)
        [fault] = self.faults()
        self.assertRegex(fault, r"^src/pages has \d{4} lines; a room of more than 3500 is two$")

    def test_a_file_that_grew(self):
        self.add("src/parallel/new.cpp", "\n" * 501)
        self.assertEqual(self.faults(), ["src/parallel/new.cpp has 501 lines; split it at 500"])

    def test_documents_name_todays_folders(self):
        for name in ("README.md", "CONTRIBUTING.md"):
            text = (self.root / name).read_text()
            self.add(name, text.replace("](src/hub)", "](src/cellar)").replace("< hub <", "< cellar <"))
        self.assertEqual([fault.split()[0] for fault in self.faults()], ["README.md", "CONTRIBUTING.md's"])


if __name__ == "__main__":
    unittest.main()
