#!/usr/bin/env python3
"""Samples of WebDataset shards, read by the webdataset package and by trestle.

  .venv/bin/python tests/interop/test_webdataset.py --trestle build/release/trestle [TestCase.test ...]

The package's own ShardWriter writes shards, Python's tarfile odder ones. `trestle data show` writes every picture and
token into a page: the pictures' bytes and the captions there are those of the package's samples, in its order.
"""

import base64
import html
import io
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

import webdataset
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
import script  # noqa: E402

MODEL = Path(__file__).resolve().parent.parent.parent / "assets" / "demo" / "model"


def picture(seed):
    buffer = io.BytesIO()
    Image.new("RGB", (28 + seed % 30, 28), (seed % 256, 0, 128)).save(buffer, "PNG")
    return buffer.getvalue()


class WebDataset(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def ours(self, pattern):
        """[(bytes of the pictures, learnt text)] of every row."""
        page = self.folder / "page.html"
        subprocess.run([script.TRESTLE, "data", "show", "--hf-model-path", MODEL, "--maker", "webdataset", "--data", pattern,
                        "--rows", "1000", "--output", page], check=True, capture_output=True)
        rows = page.read_text().split("<h2>row ")[1:]
        learnt = re.compile(r'<span class="learnt  ?" title="\d+">(.*?)</span>', re.DOTALL)
        return [([base64.b64decode(data) for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', row)],
                 html.unescape("".join(learnt.findall(row)))) for row in rows]

    def theirs(self, pattern):
        rows = []
        for sample in webdataset.WebDataset(str(pattern), shardshuffle=False):
            pictures = [sample[key] for key in sorted(sample) if key.endswith(("png", "jpg"))]
            rows.append((pictures, sample["txt"].decode()))
        return rows

    def compare(self, pattern, count):
        theirs = self.theirs(pattern)
        self.assertEqual(len(theirs), count)
        self.assertEqual(self.ours(pattern), theirs)

    def test_shards_of_the_packages_writer(self):
        pattern = str(self.folder / "shard-%03d.tar")
        with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
            for i in range(20):
                writer.write({"__key__": f"{i:06d}", "png": picture(i), "txt": f"Caption {i}."})
        self.assertEqual(len(list(self.folder.glob("*.tar"))), 3)
        self.compare(self.folder / "shard-{000..002}.tar", 20)

    def test_odd_names_in_every_format(self):
        names = ["a.b/c", "./d", "deep/" * 19 + "e", "f-\u20ac"]
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            path = self.folder / "odd.tar"
            with tarfile.open(path, "w", format=form) as archive:
                self.add(archive, "README", b"no sample")
                self.add(archive, "__notes__/x.txt", b"the package's own")
                self.add(archive, "._d.png", b"a Mac's")
                for i, name in enumerate(names):
                    self.add(archive, f"{name}.2.PNG", picture(i))
                    self.add(archive, f"{name}.1.png", picture(i + 100))
                    self.add(archive, f"{name}.Txt", f"Caption {i}.".encode())
                    self.add(archive, f"{name}/", b"", tarfile.DIRTYPE)
            self.compare(path, len(names))

    def test_random_names(self):
        chance = random.Random(1)
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            path, names = self.folder / "random.tar", set()
            while len(names) < 40:
                folders = ["".join(chance.choices("ab.\u00fc _", k=chance.randint(1, 90))) for _ in range(chance.randint(0, 4))]
                names.add("/".join([*(f"x{folder}" for folder in folders), f"{len(names):03d}"]))
            with tarfile.open(path, "w", format=form) as archive:
                for i, name in enumerate(sorted(names)):
                    self.add(archive, name + ".png", picture(i))
                    self.add(archive, name + ".txt", f"Caption {i}.".encode())
            self.compare(path, 40)

    @staticmethod
    def add(archive, name, data, kind=tarfile.REGTYPE):
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main(warnings="ignore")  # the package leaves files open
