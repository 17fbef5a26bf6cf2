#!/usr/bin/env python3
"""Data sets on the Hub, read by Hugging Face's datasets and by trestle.

  .venv/bin/python tests/interop/test_datasets.py --trestle build/release/trestle [TestCase.test ...]

Both read a repository of ../cli/fake_hub.py by its name. The rows that the library gives, written as JSON lines, become
token by token what trestle makes of the same subset and split, in the same order.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import pyarrow
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
import script  # noqa: E402
from fake_hub import FakeHub  # noqa: E402

MODEL = Path(__file__).resolve().parent.parent.parent / "assets" / "demo" / "model"
LOAD = """
import json, sys
import datasets
name, subset, split, out = sys.argv[1:]
with open(out, "w") as file:
    for row in datasets.load_dataset(name, subset or None, split=split):
        print(json.dumps(row), file=file)
"""


def rows(first, count):
    """Pairs that no other part of a repository has."""
    table = pyarrow.table({"question": [f"What is {first + i}?" for i in range(count)],
                           "answer": [f"It is {first + i}." for i in range(count)]})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def readme(configs=""):
    return f"---\nlicense: cc-by-4.0\n{configs}---\n# A data set\n".encode()


class Datasets(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.hub = self.enterContext(FakeHub())

    def run_in(self, home, *command):
        """With a cache of its own: neither finds what the other has fetched."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=kept | {
            "HF_HOME": str(self.folder / home), "HF_ENDPOINT": self.hub.url, "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "no_proxy": "*"})
        self.assertEqual(done.returncode, 0, done.stderr)

    def page(self, *data):
        out = self.folder / "page.html"
        self.run_in("ours", script.TRESTLE, "data", "show", "--hf-model-path", MODEL, "--rows", "1000", "--output", out, *data)
        text = out.read_text()
        return text[text.index("<h2>row "):]

    def compare(self, files, subset, split, count):
        self.hub.add("datasets/org/set", files)
        lines = self.folder / "rows.jsonl"
        self.run_in("theirs", sys.executable, "-c", LOAD, "org/set", subset, split, lines)
        self.assertEqual(len(lines.read_text().splitlines()), count)
        ours = self.page("--maker", "parquet", "--data", "org/set", "--split", split, *(("--subset", subset) if subset else ()))
        self.assertEqual(ours, self.page("--maker", "jsonl", "--data", lines))

    def test_splits_by_the_names_of_files(self):
        files = {"README.md": readme(), "data/train-00000-of-00002.parquet": rows(0, 3), "data/train-00001-of-00002.parquet": rows(10, 2),
                 "data/test-00000-of-00001.parquet": rows(20, 2), "data/validation-00000-of-00001.parquet": rows(30, 1)}
        for split, count in (("train", 5), ("test", 2), ("validation", 1)):
            self.compare(files, "", split, count)

    def test_subsets_of_the_readme(self):
        configs = "".join(f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/part-*\n  - split: test\n    path:\n"
                          f"    - {name}/held-b.parquet\n    - {name}/held-a.parquet\n" for name in ("few", "more"))
        files = {"README.md": readme("configs:\n" + configs)}
        for name, first in (("few", 0), ("more", 100)):
            files |= {f"{name}/part-{i}.parquet": rows(first + 10 * i, 2 + i) for i in range(3)}
            files |= {f"{name}/held-{letter}.parquet": rows(first + at, 2) for letter, at in (("a", 50), ("b", 60))}
        for name in ("few", "more"):
            self.compare(files, name, "train", 9)
            self.compare(files, name, "test", 4)

    def test_a_default_subset_and_folders_of_splits(self):
        self.compare({"README.md": readme("configs:\n- config_name: one\n  data_files: one/*.parquet\n- config_name: two\n"
                                          "  default: true\n  data_files: two/*.parquet\n"),
                      "one/a.parquet": rows(0, 2), "two/a.parquet": rows(10, 3)}, "", "train", 3)
        folders = {"README.md": readme(), "train/b.parquet": rows(0, 2), "train/a.parquet": rows(10, 3), "test/a.parquet": rows(20, 1)}
        self.compare(folders, "", "train", 5)
        self.compare(folders, "", "test", 1)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
